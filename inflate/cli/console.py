"""What is said where: results on stdout, all else on stderr, bars only where someone watches."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from inflate.progress import Progress, silent


def _log_notes() -> None:
    """Show what this package logs, once; what other libraries log is theirs to show."""
    logger = logging.getLogger("inflate")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("note: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


def print_json(document: dict[str, Any]) -> None:
    """Print a document on stdout; it holds no NaN, which JSON does not know."""
    typer.echo(json.dumps(document, indent=2, allow_nan=False))


def note(text: str) -> None:
    """Say something beside the result."""
    typer.echo(f"note: {text}", err=True)


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress]:
    """A bar on a terminal; silence in a pipe, or where quiet is asked for."""
    _log_notes()
    if quiet or not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(),
        TextColumn("{task.completed:>4}/{task.total}"),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def tell(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, total=total)

        yield tell
