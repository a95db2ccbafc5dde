"""Values as text for people, shared by every renderer."""

from __future__ import annotations

from collections.abc import Iterable

from inflate.errors import printable


def error_text(error: float | None) -> str:
    """An error as text; None is one that is not finite."""
    return "not finite" if error is None else f"{error:.3g}"


def sqnr_text(errors: dict[str, float | bool | None]) -> str:
    """A signal-to-noise ratio in dB; equal outputs have none, nor has what is not finite."""
    if errors["sqnr_db"] is not None:
        return f"{errors['sqnr_db']:.0f} dB"
    return "equal" if errors["finite"] else "not finite"


def bytes_text(nbytes: int) -> str:
    """A number of bytes in the unit that suits it."""
    size = float(nbytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def one_line(text: str) -> str:
    """A text in one line, in which nothing moves a cursor; files choose their words."""
    return printable(text).replace("\n", "\\n")


def counted(number: int, word: str) -> str:
    """``1 layer``, ``3 layers``."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def shape_text(shape: Iterable[int]) -> str:
    """A shape, its sizes separated by spaces."""
    return " ".join(map(str, shape))
