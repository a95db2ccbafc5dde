"""Flags: those of ``inflate.options``, and those that several commands share."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial, wraps
from inspect import Parameter
from typing import Annotated, Any, Optional, get_type_hints

import typer

from inflate.errors import nearest
from inflate.options import ConvertOptions, Flag, Group, Scope, VerifyOptions, choices, flags
from inflate.vocabulary import LARGEST_KERNEL, kernel_of

# Typer reads these annotations on Python 3.10 too.
# ruff: noqa: UP045


def number(text: object, *, minimum: float | None = None) -> float:
    """A finite number of at least ``minimum``; unlike Typer's own, the error quotes the value."""
    try:
        value = float(str(text))
    except ValueError:
        value = math.nan
    return _in_range(text, value, "a number", minimum)


def whole_number(text: object, *, minimum: float | None = None) -> int:
    """A whole number of at least ``minimum``."""
    try:
        value = int(str(text))
    except ValueError as error:
        raise typer.BadParameter(
            f"{_cut(text)} is not a whole number; expected one such as 7"
        ) from error
    _in_range(text, value, "a whole number", minimum)
    return value


def _in_range(text: object, value: float, what: str, minimum: float | None) -> float:
    smallest = "" if minimum is None else f", {minimum:g} or more"
    # Not math.isfinite, which turns whole numbers of any length into floats.
    if value != value or abs(value) == math.inf or (minimum is not None and value < minimum):
        raise typer.BadParameter(f"{_cut(text)} is out of range; expected {what}{smallest}")
    return value


def kernel(text: object) -> int | tuple[int, ...]:
    """The kernel of ``3`` or ``3,1,1``."""
    try:
        sizes = tuple(int(part) for part in str(text).strip("[]() ").split(","))
        kernel_of(sizes[0] if len(sizes) == 1 else sizes)
    except ValueError as error:
        raise typer.BadParameter(
            f"{_cut(text)} is not a valid kernel size; use one positive odd number, or three for "
            f"time, height and width, such as 3 or 3,1,1, of {LARGEST_KERNEL} at most"
        ) from error
    return sizes[0] if len(sizes) == 1 else sizes


def _word(words: Sequence[str], text: object) -> str:
    if text not in words:
        raise typer.BadParameter(
            f"{_cut(text)} is not one of {', '.join(words)}{nearest(str(text)[:80], words)}"
        )
    return str(text)


def _cut(text: object) -> str:
    return repr(str(text)[:80])


def option(
    *names: str, help: str, group: Group = "Basics", words: Sequence[str] = (), **more: Any
) -> Any:
    """A Typer option in a group of the help; ``words`` are the values that it accepts, if few."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    if words:
        more |= {
            "parser": partial(_word, words),
            "metavar": "|".join(words),
            "autocompletion": complete,
        }
    return typer.Option(*names, help=help, rich_help_panel=group, **more)


def argument(metavar: str, help: str) -> Any:
    """A Typer argument."""
    return typer.Argument(metavar=metavar, help=help, show_default=False)


def shared(options: type[ConvertOptions] | type[VerifyOptions], name: str) -> Any:
    """The annotation of one of the declared options, for a command that takes few of them."""
    hint = get_type_hints(options)[name]
    return Annotated[_typer_type(name, hint), _typer_option(name, flags(options)[name], hint)]


Json = Annotated[bool, option("--json", help="Print a JSON document instead of text.")]
Quiet = Annotated[bool, option("-q", "--quiet", help="Print only the result.")]
Reports = Annotated[
    Optional[list[str]],
    option(
        "--report",
        metavar="FILE",
        group="Output",
        help="Write a .html, .json, .md or .xml report; repeatable.",
    ),
]
GithubSummary = Annotated[
    bool,
    option("--github-summary", group="Output", help="Add the report to the GitHub step's summary."),
]
SOURCES = "checkpoint: file, index, diffusers folder or URL."
SourceLocation = Annotated[str, argument("SOURCE", f"Image {SOURCES}")]


def takes(
    options: type[ConvertOptions] | type[VerifyOptions], scopes: Sequence[Scope] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command a flag for each option; it gets their values as its argument ``options``.

    Args:
        options: where the options are declared.
        scopes: take only the options of these scopes, and pass on only those that were given, as a
            mapping; by default all of them, as an instance of ``options``.
    """
    declared = {
        field.name: field
        for field in dataclasses.fields(options)
        if scopes is None or flags(options)[field.name].scope in scopes
    }
    types = get_type_hints(options)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**values: Any) -> None:
            given = {name: values.pop(name) for name in declared}
            if scopes is None:
                command(**values, options=options(**given))
            else:
                command(**values, options={k: v for k, v in given.items() if v is not None})

        parameters = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            if parameter.name != "options":
                parameters.append(parameter)
                continue
            for name, field in declared.items():
                hint = types[name] if scopes is None else Optional[types[name]]
                parameters.append(
                    Parameter(
                        name,
                        Parameter.POSITIONAL_OR_KEYWORD,
                        default=field.default if scopes is None else None,
                        annotation=Annotated[
                            _typer_type(name, hint),
                            _typer_option(name, flags(options)[name], types[name]),
                        ],
                    )
                )
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _typer_type(name: str, hint: Any) -> Any:
    if choices(hint):  # Their parser checks the words.
        return Optional[str]
    listed = {"set": Optional[list[str]], "ignore": Optional[list[str]]}
    return {**listed, "video_kernel_size": Optional[int]}.get(name, hint)


def _typer_option(name: str, flag: Flag, hint: Any) -> Any:
    # Without a name of its own, a switch would get a --no- too, and "set" the name of its type.
    own = (
        (f"--{name.replace('_', '-')}",) if hint in (bool, Optional[bool]) or name == "set" else ()
    )
    if words := choices(hint):
        return option(*own, help=flag.help, group=flag.group, words=words)
    parser: Callable[[object], object] | None = None
    if name == "video_kernel_size":
        parser = kernel
    elif hint in (float, Optional[float]):
        parser = partial(number, minimum=flag.minimum)
    elif hint in (int, Optional[int]):
        parser = partial(whole_number, minimum=flag.minimum)
    return option(*own, help=flag.help, group=flag.group, parser=parser, metavar=flag.metavar)
