"""What can go wrong, as a tree.

InflateError                 what a user can cause and mend; commands end with exit code 2
├── ConfigError              a configuration, preset or option: every problem of it at once
├── CheckpointError          a file that cannot be read as a checkpoint
│   └── FamilyError          a sound file that holds no image autoencoder of this family
├── PlanError                tensors that do not fit the architecture: every one of them at once
├── DeviceError              a device that is not there, or cannot compute what is asked
└── OutputError              destinations that cannot be written

Bugs are not in it: they keep their own exceptions and their traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DeviceError",
    "FamilyError",
    "InflateError",
    "OutputError",
    "PlanError",
]


class InflateError(Exception):
    """The base of every error that a user can cause and fix; its message is one line.

    ``path`` is the file that it is about, where the place that raised it gives one.
    """

    def __init__(self, message: str = "", *, path: object = None) -> None:
        super().__init__(_one_line(message))
        self.path = None if path is None else str(path)


class _ListError(InflateError):
    """An error that carries every problem found, so that they can be mended in one go."""

    def __init__(self, summary: str, problems: Sequence[str] = (), *, path: object = None) -> None:
        super().__init__(path=path)
        self.problems = tuple(map(_one_line, problems))
        self.args = ("\n  - ".join((_one_line(summary), *self.problems)),)


class ConfigError(_ListError):
    """A configuration, preset or option is wrong."""


class CheckpointError(InflateError):
    """A file cannot be read as a checkpoint."""


class FamilyError(CheckpointError):
    """A sound file holds no image autoencoder of this family."""


class PlanError(_ListError):
    """The tensors of a checkpoint do not fit the architecture."""


class DeviceError(InflateError):
    """A device is missing, or cannot compute what is asked."""


class OutputError(_ListError):
    """A destination cannot be written."""


@contextmanager
def about(path: object) -> Iterator[None]:
    """Give the errors raised inside the path that they are about, unless they have one."""
    try:
        yield
    except InflateError as error:
        error.path = error.path or str(path)
        raise


def _one_line(message: str) -> str:
    """A message with its line ends escaped: it often quotes a file, or a file's name."""
    return "\\n".join(message.splitlines())


def printable(text: str) -> str:
    """A text in which nothing but line ends moves a terminal's cursor; files choose their words."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def quoted(value: object) -> str:
    """A value from outside as a message quotes it: its ``repr``, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # A number of thousands of digits; lists without end.
        return f"too large to be shown ({type(value).__name__})"
    return text if len(text) <= 100 else f"{text[:100]}..."


def nearest(word: str, known: Iterable[str], shown: Mapping[str, str] | None = None) -> str:
    """`` (did you mean 'x'?)`` for the known word nearest to ``word``, or nothing.

    ``shown`` has how each known word is told, where that is not the word itself.
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    if not close:
        return ""
    return f" (did you mean {(shown or {}).get(close[0], close[0])!r}?)"


@contextmanager
def needs_extra(extra: str, what: str, kind: type[InflateError]) -> Iterator[None]:
    """Raise a failed import as ``kind``, with the command that installs an extra.

    Args:
        extra: the extra that brings the library.
        what: the option or location that needs it.
        kind: the error to raise.

    Raises:
        InflateError: as ``kind``, if an import failed.
    """
    try:
        yield
    except ImportError as error:
        missing = error.name or getattr(error.__cause__, "name", None) or error
        raise kind(
            f"{what} needs the extra {extra} ({missing} is missing); {install_command(extra)}"
        ) from error


def install_command(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'inflate-video[{extra}]'"
