"""Print results on stdout and the rest on stderr; escape control characters on both."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

import typer

from inflate.display import one_line
from inflate.errors import OutputError, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


_SHORT = 20
"""Cells up to this many characters are never folded."""


def print_json(document: Mapping[str, Any]) -> None:
    """Print a document on stdout."""
    from inflate.report.documents import as_json

    typer.echo(as_json(document), nl=False)


def say(text: object = "", *, err: bool = False) -> None:
    """Print lines with control characters escaped; on a terminal, wrap between words."""
    safe = printable(str(text))
    if (sys.stderr if err else sys.stdout).isatty():
        safe = "\n".join(map(_wrapped, safe.split("\n")))
    typer.echo(safe, err=err)


def _wrapped(line: str) -> str:
    return textwrap.fill(
        line,
        shutil.get_terminal_size().columns,
        subsequent_indent=" " * (len(line) - len(line.lstrip())),
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )


def say_line(text: object) -> None:
    """:func:`say` with line ends escaped: a name with a line end must not look like two lines."""
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


def print_text(text: Text) -> None:
    """Print styled text as one line; on a terminal, wrap between words."""
    text.plain = one_line(text.plain)
    console = safe_console()
    if console.is_terminal:
        text.plain = _wrapped(text.plain)  # Only spaces change, so styles stay in place.
    console.print(text, soft_wrap=True)


def print_table(
    head: Sequence[str], rows: Sequence[Sequence[Text | str]], right: Collection[str] = ()
) -> None:
    """Print rows in columns that fit the terminal; in a pipe, they are not cut or folded.

    ``right`` lists the right-aligned columns.
    """
    from rich.table import Table
    from rich.text import Text

    console, table = safe_console(), Table(box=None)
    for index, name in enumerate(head):
        short = all(len(row[index]) <= _SHORT for row in rows)
        table.add_column(name, justify="right" if name in right else "left", no_wrap=short)
    for row in rows:
        cells = (Text(cell) if isinstance(cell, str) else cell for cell in row)
        table.add_row(*cells)
    if not console.is_terminal:
        console.width = max(console.width, 250)
    console.print(table)


class _GuardedStream:
    """A stream whose reader may close it without affecting the work or the exit code.

    It is None if Python found it closed. If it has ``results``, a failed write is an error.
    """

    def __init__(self, stream: TextIO | None, *, results: bool) -> None:
        self._stream, self._results = stream, results
        self._failure: OutputError | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "buffer" or self._stream is None:  # Writing bytes would bypass this guard.
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
                # Python flushes the rest again at exit.
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
