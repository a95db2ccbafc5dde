"""Results on stdout, everything else on stderr; both escape what would move a cursor."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TextIO

import typer

from inflate.errors import OutputError, printable
from inflate.report.text import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


def log_notes() -> None:
    """Print what this package logs; other libraries print their own."""
    logger = logging.getLogger("inflate")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_PrintableFormatter("note: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


def print_json(document: dict[str, Any]) -> None:
    """Print a document on stdout; it holds no NaN, which JSON does not have."""
    text = json.dumps(document, indent=2, allow_nan=False)
    typer.echo(text.replace("\x7f", "\\u007f"))  # The one control character that json leaves.


def say(text: object = "", *, err: bool = False) -> None:
    """Print a line, with control characters escaped; on a terminal, messages wrap at words."""
    safe = printable(str(text))
    if err and sys.stderr.isatty():
        safe = "\n".join(map(_wrapped, safe.split("\n")))
    typer.echo(safe, err=err)


def _wrapped(line: str) -> str:
    indent = len(line) - len(line.lstrip())
    breaks = [0, *_breaks(line, shutil.get_terminal_size().columns, indent), len(line)]
    return f"\n{' ' * indent}".join(line[a:b].rstrip() for a, b in pairwise(breaks))


def _breaks(line: str, width: int, indent: int) -> list[int]:
    """Where a line is broken to fit a width: before words, never within one."""
    start, breaks = 0, list[int]()
    for word in re.finditer(r"\S+", line):
        room = width - (indent if breaks else 0)
        if word.end() - start > room and line[start : word.start()].strip():
            start = word.start()
            breaks.append(start)
    return breaks


def say_line(text: object) -> None:
    """:func:`say`, with line ends escaped: a name with a line end must not look like two lines."""
    say(one_line(str(text)))


def note(text: str) -> None:
    """Print a note on stderr."""
    say(one_line(f"note: {text}"), err=True)


def safe_console(*, stderr: bool = False) -> Console:
    """A console that escapes control characters and direction marks; NO_COLOR turns styles off."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class SafeConsole(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                text = segment.text if segment.control else printable(segment.text)
                yield Segment(text, segment.style, segment.control)

    plain = bool(os.environ.get("NO_COLOR"))
    return SafeConsole(highlight=False, stderr=stderr, color_system=None if plain else "auto")


def print_text(console: Console, text: Text | str, indent: int = 0) -> None:
    """Print a text: one line in a pipe; on a terminal wrapped at words, the rest indented."""
    from rich.text import Text

    line = Text(text) if isinstance(text, str) else text
    if not console.is_terminal:
        console.print(line, soft_wrap=True)
        return
    for number, part in enumerate(line.divide(_breaks(line.plain, console.width, indent))):
        part.rstrip()
        console.print(Text(" " * indent * (number > 0)) + part, soft_wrap=True)


class _GuardedStream:
    """A stream whose reader may close it without an effect on the work or the exit code.

    Args:
        stream: None where Python found it closed.
        results: whether a failed write is an error.
    """

    def __init__(self, stream: TextIO | None, *, results: bool) -> None:
        self._stream, self._results = stream, results
        self._failure: OutputError | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "buffer" or self._stream is None:  # Bytes would bypass this guard.
            raise AttributeError(name)
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def write(self, text: str) -> int:
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        self._try("flush")
        if self._failure is not None:
            raise self._failure

    def _try(self, method: str, *arguments: str) -> None:
        if self._stream is None:
            return
        try:
            getattr(self._stream, method)(*arguments)
        except OSError as error:
            with suppress(OSError, ValueError):
                # Python flushes the rest once more when it exits.
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)
            self._stream = None
            if self._results and not isinstance(error, BrokenPipeError):
                self._failure = OutputError(
                    f"the result cannot be written to standard output: {error.strerror}"
                )
                raise self._failure from error


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Guard ``sys.stdout`` and ``sys.stderr``, and escape characters that they cannot encode.

    Raises:
        OutputError: a result cannot be written, because the disk is full, for example.
    """
    streams = sys.stdout, sys.stderr
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout = _GuardedStream(streams[0], results=True)
    sys.stderr = _GuardedStream(streams[1], results=False)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
