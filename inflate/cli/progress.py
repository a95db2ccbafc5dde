"""Progress on stderr if it is a terminal: the step's name, a bar, and the time left."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from inflate.cli.console import safe_console
from inflate.display import bytes_text
from inflate.progress import Progress, silent

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

LOADING = "loading torch…"
_IN_BYTES = ("downloading", "uploading")


def bars_are_drawn() -> bool:
    """Whether stderr is a terminal that supports escape codes."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def bars(description: str, field: str) -> Bars:
    """Progress bars that vanish at the end; a task's ``field`` is shown after its bar."""
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn(description, markup=False),
        BarColumn(),
        TextColumn("{task.fields[%s]}" % field, markup=False),  # noqa: UP031 - braces in the text.
        TimeRemainingColumn(),
        console=safe_console(stderr=True),
        transient=True,
    )


@contextmanager
def progress_bar(quiet: bool, first: str = LOADING) -> Iterator[Progress]:
    """A progress bar for the current step on a terminal; nothing in a pipe or if quiet.

    ``first`` is the step to show before one is reported.
    """
    if quiet or not bars_are_drawn():
        yield silent
        return
    sys.stderr.write(first)  # Before the slow import of rich; the bar overwrites it.
    sys.stderr.flush()
    with bars("{task.description:<16}", "done") as drawn:
        task, phase = drawn.add_task(first, total=None, done=""), first

        def report(name: str, done: int, total: int) -> None:
            nonlocal phase
            if name != phase:  # The remaining time applies to the step.
                drawn.reset(task, description=name)
                phase = name
            counted = (bytes_text(n) if name in _IN_BYTES else str(n) for n in (done, total))
            text = "{:>8}/{}".format(*counted) if total else ""
            # Without a total, the bar only pulses.
            drawn.update(task, completed=done, total=total or None, done=text)

        yield report
