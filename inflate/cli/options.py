"""Flags for the options in ``inflate.options``, and flags that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial, wraps
from inspect import Parameter
from pathlib import Path
from typing import Any, Optional, get_type_hints

import typer

from inflate.errors import nearest
from inflate.options import ConvertOptions, Flag, Group, VerifyOptions, choices, flags
from inflate.vocabulary import LARGEST_KERNEL, kernel_of

# Typer reads these annotations on Python 3.10 too.
# ruff: noqa: UP045


def kernel(text: object) -> int | tuple[int, ...]:
    """Parse a kernel size such as ``3`` or ``3,1,1``."""
    try:
        sizes = tuple(int(part) for part in str(text).strip("[]() ").split(","))
        kernel_of(sizes[0] if len(sizes) == 1 else sizes)
    except ValueError as error:
        raise typer.BadParameter(
            f"{_cut(text)} is not a valid kernel size; use one positive odd number, or three for "
            f"time, height and width, such as 3 or 3,1,1, of {LARGEST_KERNEL} at most"
        ) from error
    return sizes[0] if len(sizes) == 1 else sizes


def local_path(text: object) -> Path:
    """Parse the path of a local file or folder."""
    if "://" in str(text):  # Not quoted: it may hold a password.
        raise typer.BadParameter("a URL does not work here; expected a local path")
    return Path(str(text))


def _word(words: Sequence[str], text: object) -> str:
    if text not in words:
        raise typer.BadParameter(
            f"{_cut(text)} is not one of {', '.join(words)}{nearest(str(text)[:80], words)}"
        )
    return str(text)


def _cut(text: object) -> str:
    return repr(str(text)[:80])


def option(
    *names: str,
    help: str,
    default: Any = None,
    group: Group = "Basics",
    words: Sequence[str] = (),
    **more: Any,
) -> Any:
    """A Typer option in a help group; ``words`` are its accepted values, if few."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    if words:
        more |= {
            "parser": partial(_word, words),
            "metavar": "|".join(words),
            "autocompletion": complete,
        }
    return typer.Option(default, *names, help=help, rich_help_panel=group, **more)


def argument(metavar: str, help: str, default: Any = ...) -> Any:
    """A Typer argument; required if it has no default."""
    return typer.Argument(default, metavar=metavar, help=help, show_default=False)


SOURCES = "checkpoint: file, index, diffusers folder or URL."
SOURCE = argument("SOURCE", f"Image {SOURCES}")
JSON = option("--json", default=False, help="Print a JSON document instead of text.")
QUIET = option("-q", "--quiet", default=False, help="Print only the result.")
REPORTS = option(
    "--report",
    metavar="FILE",
    group="Output",
    help="Write a .html, .json, .md or .xml report; repeatable.",
)
GITHUB_SUMMARY = option(
    "--github-summary",
    default=False,
    group="Output",
    help="Add the report to the GitHub step's summary.",
)


def takes(
    options: type[ConvertOptions] | type[VerifyOptions], names: Sequence[str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command with a flag per option; it gets the values as its argument ``options``.

    With ``names`` it has only these flags, and gets a mapping of the given ones. By default it
    has all flags, and gets an instance of ``options``.
    """
    types = get_type_hints(options)

    def parameter(name: str) -> Parameter:
        default = None if names else getattr(options(), name)
        hint = types[name] if names is None else Optional[types[name]]
        if choices(hint):  # The parser checks the words.
            hint = Optional[str]
        elif name in ("set", "ignore"):
            hint = Optional[list[str]]
        elif name == "video_kernel_size":
            hint = Optional[int]
        flag = _option_of(name, flags(options)[name], types[name], default)
        return Parameter(name, Parameter.KEYWORD_ONLY, default=flag, annotation=hint)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**values: Any) -> None:
            given = {name: values.pop(name) for name in names or types}
            if names is None:
                command(**values, options=options(**given))
            else:
                command(**values, options={k: v for k, v in given.items() if v is not None})

        parameters: list[Parameter] = []
        for own in inspect.signature(command, eval_str=True).parameters.values():
            parameters += map(parameter, names or types) if own.name == "options" else [own]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _option_of(name: str, flag: Flag, hint: Any, default: Any) -> Any:
    # Without an explicit name, a switch would also get --no-, and "set" would be named by its type.
    named = hint in (bool, Optional[bool]) or name == "set"
    own = (f"--{name.replace('_', '-')}",) if named else ()
    more: dict[str, Any] = {"help": flag.help, "group": flag.group, "default": default}
    if words := choices(hint):
        return option(*own, words=words, **more)
    parser: Callable[[object], Any] | None = kernel if name == "video_kernel_size" else None
    if hint == Optional[Path]:
        parser = local_path
    return option(*own, parser=parser, metavar=flag.metavar, **more)
