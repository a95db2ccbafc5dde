"""Values and sentences as text for people, shared by every renderer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from inflate.display import bytes_text as bytes_text
from inflate.display import counted as counted
from inflate.display import error_text as error_text
from inflate.errors import printable

_NAME = re.compile("\ue000(.*?)\ue001", re.DOTALL)


def named(name: object) -> str:
    """The name of a file, layer or tensor, marked so that renderers can set it apart.

    A name cannot imitate the marks: ``printable`` escapes private characters.
    """
    return f"\ue000{printable(str(name))}\ue001"


def plain(sentence: str) -> str:
    """A sentence without the marks around its names."""
    return _NAME.sub(r"\1", sentence)


def with_names(sentence: str, name: Callable[[str], str], rest: Callable[[str], str]) -> str:
    """A sentence whose names are rendered by ``name`` and all else by ``rest``."""
    parts = enumerate(_NAME.split(sentence))
    return "".join(name(part) if index % 2 else rest(part) for index, part in parts)


def sqnr_text(errors: dict[str, float | bool | None]) -> str:
    """A signal-to-noise ratio in dB; equal outputs have none, nor has what is not finite."""
    if errors["sqnr_db"] is not None:
        return f"{errors['sqnr_db']:.0f} dB"
    return "equal" if errors["finite"] else "not finite"


def one_line(text: str) -> str:
    """A text in one line, in which nothing moves a cursor; files choose their words."""
    return printable(text).replace("\n", "\\n")


def shape_text(shape: Iterable[int]) -> str:
    """A shape, its sizes separated by spaces."""
    return " ".join(map(str, shape))
