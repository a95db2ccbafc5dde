"""Short texts for values, and the display of results at a prompt and in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from inflate.errors import printable

_SHORT = 3
"""The number of facts in a ``repr``; a notebook shows all."""
_LONGEST = 80


class Displayed:
    """A short ``repr``, and a small table in a notebook, made from the same facts.

    Dataclasses that inherit from it need ``repr=False``.
    """

    def _facts(self) -> Mapping[str, object]:
        """Facts by their names, the most important first."""
        raise NotImplementedError

    def __repr__(self) -> str:
        shown = [_cut(str(fact), _LONGEST) for fact in self._facts().values()][:_SHORT]
        return f"<{type(self).__name__} {', '.join(shown)}>"

    def _repr_html_(self) -> str:
        (_, first), *others = [
            (escape(name), escape(_cut(str(fact), 4 * _LONGEST)))
            for name, fact in self._facts().items()
        ]
        rows = "".join(f"<tr><th>{name}</th><td>{fact}</td></tr>" for name, fact in others)
        return f"<p>{type(self).__name__}: <b>{first}</b></p><table>{rows}</table>"


def one_line(text: str) -> str:
    """Text on one line without characters that move a cursor; it may come from a file."""
    return printable(text).replace("\n", "\\n")


def bytes_text(nbytes: int) -> str:
    """A number of bytes in a suitable unit."""
    size = float(nbytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def counted(number: int, word: str) -> str:
    """``1 layer``, ``3 layers``."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def error_text(error: float | None) -> str:
    """An error as text; None means not finite."""
    return "not finite" if error is None else f"{error:.3g}"


def _cut(text: str, longest: int) -> str:
    line = one_line(text)
    return line if len(line) <= longest else f"...{line[3 - longest :]}"
