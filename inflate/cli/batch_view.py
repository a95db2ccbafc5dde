"""A batch for people: bars while it runs, a line a job in a pipe, a table in the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from inflate.batch.batch import Batch
from inflate.batch.estimate import Estimate
from inflate.batch.jobs import Job, label_of
from inflate.batch.run import Outcome, Watch
from inflate.batch.summary import failure_text, failures_first, headline, parity_of
from inflate.cli.console import bars_are_drawn, note, safe_console, say
from inflate.errors import OutputError, printable
from inflate.io.remote import shown
from inflate.report.summary import verdict_text
from inflate.report.text import bytes_text, error_text

_COLOURS = {"held": "green", "unequal": "red", "failed": "red", "not-run": "yellow"}


@contextmanager
def watching(total: int, *, lines: bool, quiet: bool) -> Iterator[Watch]:
    """Bars where someone watches; in a pipe a line a job, if ``lines`` are wanted."""
    if bars_are_drawn() and not quiet:
        with _Bars(total) as bars:
            yield bars
        return
    yield _Lines(wanted=lines)


class _Lines:
    """A line on stdout for each job as it ends."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted

    def began(self, job: Job, worker: str) -> None:
        """Say nothing yet."""

    def moved(self, job: Job, phase: str, done: int, total: int) -> None:
        """Say nothing yet."""

    def lost(self, job: Job, why: str) -> None:
        """Say that a job begins anew."""
        if self._wanted:
            note(f"{shown(job.source)} begins anew: {printable(why.splitlines()[0])}")

    def ended(self, outcome: Outcome) -> None:
        """Say what became of a job; where it cannot be written, the jobs go on."""
        if self._wanted:
            with suppress(OutputError):  # Raised again at the end, by the last flush.
                say(_line(outcome).replace("\n", " "))


class _Bars:
    """A bar for each job that runs, and one for all."""

    def __init__(self, total: int) -> None:
        self._bars = Progress(
            TextColumn("{task.description:<44.44}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[phase]:<18}"),
            TimeElapsedColumn(),
            console=safe_console(stderr=True),
            transient=True,
        )
        self._total = total
        self._tasks: dict[str, TaskID] = {}
        self._counts = dict.fromkeys(_COLOURS, 0)

    def __enter__(self) -> _Bars:
        self._bars.start()
        self._all = self._bars.add_task("all jobs", total=self._total, phase="")
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def began(self, job: Job, worker: str) -> None:
        """Show a bar."""
        if job.output not in self._tasks:
            name = label_of(job).replace("\n", " ")
            self._tasks[job.output] = self._bars.add_task(name, total=None, phase=worker)

    def moved(self, job: Job, phase: str, done: int, total: int) -> None:
        """Move its bar."""
        if job.output in self._tasks:
            task = self._tasks[job.output]
            self._bars.update(task, completed=done, total=total or None, phase=phase)

    def lost(self, job: Job, why: str) -> None:
        """Begin its bar anew."""
        if job.output in self._tasks:
            self._bars.update(self._tasks[job.output], completed=0, phase="begins anew")

    def ended(self, outcome: Outcome) -> None:
        """Take its bar away, and count it."""
        task = self._tasks.pop(outcome.job.output, None)
        if task is not None:
            self._bars.remove_task(task)
        self._counts[outcome.status] += 1
        counted = ", ".join(f"{count} {word}" for word, count in self._counts.items() if count)
        self._bars.update(self._all, advance=1, phase=counted)


def print_summary(document: Mapping[str, Any]) -> None:
    """The table on a terminal, where bars came before; in a pipe the lines were it. Then counts."""
    console = safe_console()
    jobs = failures_first(document)
    if bars_are_drawn():
        for job in jobs:
            if failure_text(job):
                console.print(Text(f"{job['source']}: {failure_text(job)}", style="red"))
        table = Table("status", "verdict", "largest error", "seconds", "source", "output", box=None)
        for job in jobs:
            checked = job["verdict"] not in (None, "unverified")
            table.add_row(
                Text(job["status"] + (" (known)" if job["reused"] else ""),
                     style=_COLOURS[job["status"]]),
                verdict_text(job),
                error_text(job["max_abs_error"]) if checked else "",
                "" if job["seconds"] is None else f"{job['seconds']:.1f}",
                Text(job["source"]),
                Text(job["output"]),
            )  # fmt: skip
        console.print(table)
    style = "red" if document["exit_code"] else "green"
    text = Text(f"{headline(document)} in {document['seconds']:.1f} s", style=style)
    console.print(text, soft_wrap=True)


def print_dry_run(found: Batch, weights: Sequence[Estimate | None]) -> None:
    """The jobs, with their sizes and the memory that each will take."""
    console = safe_console()
    table = Table("source", "size", "output", "size", "memory", box=None, pad_edge=False)
    for column in (table.columns[1], table.columns[3], table.columns[4]):
        column.justify = "right"
    for job, weight in zip(found.jobs, weights, strict=True):
        sizes = ["?", "?", "?"]
        if weight is not None:
            made = "none" if weight.output is None else bytes_text(weight.output)
            sizes = [bytes_text(weight.source), made, bytes_text(weight.memory)]
        table.add_row(
            Text(shown(job.source)), sizes[0], Text(shown(job.output)), sizes[1], sizes[2]
        )
    width = console.width if console.is_terminal else max(console.width, 250)
    console.print(table, width=width)
    for job, weight in zip(found.jobs, weights, strict=True):
        for obstacle in weight.obstacles if weight else ():
            console.print(Text(f"{job.source}: {obstacle}", style="red"))
    known = [weight for weight in weights if weight is not None]
    largest = max((weight.memory for weight in known), default=0)
    console.print(
        f"{len(found.jobs)} jobs, {bytes_text(sum(weight.output or 0 for weight in known))} to "
        f"write, at most {bytes_text(largest)} of memory a job; ledger {found.ledger}",
        soft_wrap=True,
    )


def dry_run_document(found: Batch, weights: Sequence[Estimate | None]) -> dict[str, Any]:
    """The same as ``inflate/batch-plan/1``; bytes are null where they are not known."""
    return {
        "schema": "inflate/batch-plan/1",
        "ledger": str(found.ledger),
        "jobs": [
            {
                "source": shown(job.source),
                "output": shown(job.output),
                "options": {k: list(v) if isinstance(v, tuple) else v
                            for k, v in job.options.items()},
                "source_bytes": weight.source if weight else None,
                "output_bytes": weight.output if weight else None,
                "memory_bytes": weight.memory if weight else None,
                "obstacles": list(weight.obstacles) if weight else [],
            }
            for job, weight in zip(found.jobs, weights, strict=True)
        ],
    }  # fmt: skip


def _line(outcome: Outcome) -> str:
    job, parity = outcome.job, parity_of(outcome)
    facts = []
    if outcome.status in ("held", "unequal"):
        facts.append(verdict_text(parity) if parity else "unverified")
    if outcome.reused:
        facts.append("known")
    elif "seconds" in outcome.document:
        facts.append(f"{outcome.document['seconds']:.1f} s")
    line = f"{outcome.status:<8}{', '.join(facts):<26}{shown(job.source)} -> {shown(job.output)}"
    error = outcome.document.get("error")
    return f"{line}: {error}" if error else line
