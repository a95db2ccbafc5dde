"""What is said where: results on stdout, all else on stderr, bars only where someone watches."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import typer

from inflate.errors import printable
from inflate.progress import Progress, silent
from inflate.report.text import bytes_text, one_line

if TYPE_CHECKING:
    from rich.console import Console


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


def _log_notes() -> None:
    """Show what this package logs, once; what other libraries log is theirs to show."""
    logger = logging.getLogger("inflate")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_PrintableFormatter("note: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


def print_json(document: dict[str, Any]) -> None:
    """Print a document on stdout; it holds no NaN, which JSON does not know."""
    text = json.dumps(document, indent=2, allow_nan=False)
    typer.echo(text.replace("\x7f", "\\u007f"))  # The one control character that json leaves.


def say(text: object = "", *, err: bool = False) -> None:
    """Print a line in which nothing moves the cursor: file names and headers choose their words."""
    typer.echo(printable(str(text)), err=err)


def say_line(text: object) -> None:
    """:func:`say`, with line ends escaped: a name that holds one must not look like two lines."""
    say(one_line(str(text)))


def safe_console(*, stderr: bool = False) -> Console:
    """A console that escapes control characters and direction marks in everything it prints.

    With NO_COLOR it prints no escape codes, not even for bold.
    """
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class Safe(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                text = segment.text if segment.control else printable(segment.text)
                yield Segment(text, segment.style, segment.control)

    return Safe(highlight=False, stderr=stderr, color_system=_styles())


def bars_are_drawn() -> bool:
    """Whether someone watches a terminal that may be drawn on, which takes escape codes."""
    return sys.stderr.isatty() and _styles() is not None


def note(text: str) -> None:
    """Print a note on stderr."""
    say(one_line(f"note: {text}"), err=True)


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress]:
    """A bar on a terminal; silence in a pipe, or where quiet is asked for."""
    _log_notes()
    if quiet or not sys.stderr.isatty():
        yield silent
        return
    if _styles() is None:
        with _counting() as tell:
            yield tell
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(),
        TextColumn("{task.fields[done]}"),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=safe_console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def tell(phase: str, done: int, total: int) -> None:
            in_bytes = phase in ("downloading", "uploading")
            counted = (bytes_text(done), bytes_text(total)) if in_bytes else (str(done), str(total))
            text = f"{counted[0]:>8}/{counted[1]}" if total else ""
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, done=text)
            # A total that is not known yet makes a bar that only moves.
            bars.update(tasks[phase], completed=done, total=total or None, done=text)

        yield tell


@contextmanager
def _counting() -> Iterator[Progress]:
    """A line that counts, in place of a bar: drawing one takes escape codes."""
    width = 0

    def tell(phase: str, done: int, total: int) -> None:
        nonlocal width
        text = printable(f"{phase} {done}/{total}" if total else phase)
        sys.stderr.write(f"\r{text:<{width}}")
        sys.stderr.flush()
        width = max(width, len(text))

    try:
        yield tell
    finally:
        sys.stderr.write(f"\r{'':<{width}}\r")
        sys.stderr.flush()


def _styles() -> Literal["auto"] | None:
    """What rich may style with: nothing where NO_COLOR is set."""
    return None if os.environ.get("NO_COLOR") else "auto"
