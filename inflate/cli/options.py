"""Flags: those of the options that ``inflate.options`` declares, and those of several commands."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial, wraps
from inspect import Parameter
from typing import Annotated, Any, Optional, get_type_hints

import typer

from inflate.options import ConvertOptions, Flag, Scope, VerifyOptions, flags
from inflate.vocabulary import LARGEST_KERNEL, Weights, kernel_of

# Typer reads these annotations on Python 3.10 too.
# ruff: noqa: UP045


def number(text: object, *, minimum: float | None = None) -> float:
    """A finite number of at least ``minimum``; the error quotes the value, unlike Typer's own."""
    try:
        value = float(str(text))
    except ValueError:
        value = math.nan
    return _checked(text, value, "a number", minimum)


def whole_number(text: object, *, minimum: float | None = None) -> int:
    """A whole number of at least ``minimum``."""
    try:
        value = int(str(text))
    except ValueError as error:
        raise typer.BadParameter(
            f"{_cut(text)} is not a whole number; expected one such as 7"
        ) from error
    _checked(text, value, "a whole number", minimum)
    return value


def _checked(text: object, value: float, what: str, minimum: float | None) -> float:
    smallest = "" if minimum is None else f", {minimum:g} or more"
    # Not math.isfinite, which turns whole numbers of any length into floats.
    if value != value or abs(value) == math.inf or (minimum is not None and value < minimum):
        raise typer.BadParameter(f"{_cut(text)} is out of range; expected {what}{smallest}")
    return value


def _cut(text: object) -> str:
    return repr(str(text)[:80])


Json = Annotated[bool, typer.Option("--json", help="Print a JSON document instead of text.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print the result alone.")]
Reports = Annotated[
    Optional[list[str]],
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write a report as well: .html, .json, .md or .xml (JUnit). May be given several "
        "times; an older report is replaced.",
    ),
]
GithubSummary = Annotated[
    bool,
    typer.Option(
        "--github-summary", help="Append the report to the summary of a step of a GitHub workflow."
    ),
]
Prefix = Annotated[
    Optional[str],
    typer.Option(help="Which autoencoder to take where SOURCE holds several, such as 'vae.'."),
]
FromWeights = Annotated[
    Weights, typer.Option(help="The weights, or the moving averages that SOURCE has beside them.")
]
SourceLocation = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        show_default=False,
        help="A .ckpt, .pt, .pth, .bin or .safetensors file, an *.index.json of shards, a folder "
        "of diffusers, or a URL.",
    ),
]


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


Command = Callable[..., None]


def takes(
    options: type[ConvertOptions] | type[VerifyOptions], scopes: Sequence[Scope] | None = None
) -> Callable[[Command], Command]:
    """Give a command a flag for each option; it gets their values as its argument ``options``.

    Args:
        options: where the options are declared.
        scopes: take only the options of these scopes, and pass on only those that were given, as a
            mapping; by default all of them, as an instance of ``options``.
    """
    declared = {
        option.name: (option, flag)
        for option in dataclasses.fields(options)
        if (flag := flags(options)[option.name]) and (scopes is None or flag.scope in scopes)
    }
    types = get_type_hints(options)

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(**values: Any) -> None:
            given = {name: values.pop(name) for name in declared}
            if scopes is None:
                command(**values, options=options(**given))
            else:
                command(**values, options={k: v for k, v in given.items() if v is not None})

        parameters = []
        own = inspect.signature(command, eval_str=True).parameters
        for parameter in own.values():
            if parameter.name != "options":
                parameters.append(parameter)
                continue
            for name, (option, flag) in declared.items():
                optional = scopes is not None
                hint = Optional[types[name]] if optional else types[name]
                parameters.append(
                    Parameter(
                        name,
                        Parameter.POSITIONAL_OR_KEYWORD,
                        default=None if optional else option.default,
                        annotation=Annotated[
                            _typer_type(name, hint), _typer_option(name, flag, types[name])
                        ],
                    )
                )
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _typer_type(name: str, hint: Any) -> Any:
    return {"set": Optional[list[str]], "video_kernel_size": Optional[int]}.get(name, hint)


def _typer_option(name: str, flag: Flag, hint: Any) -> Any:
    own = f"--{name.replace('_', '-')}"
    bare = hint in (bool, Optional[bool])
    return typer.Option(
        *((own,) if bare or name == "set" else ()),
        parser=_parser(name, flag, hint),
        metavar=flag.metavar,
        help=flag.help,
    )


def _parser(name: str, flag: Flag, hint: Any) -> Callable[[object], object] | None:
    if name == "video_kernel_size":
        return kernel
    if hint in (float, Optional[float]):
        return partial(number, minimum=flag.minimum)
    if hint in (int, Optional[int]):
        return partial(whole_number, minimum=flag.minimum)
    return None
