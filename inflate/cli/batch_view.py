"""The progress, results and plan of a batch as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rich.progress import TaskID
from rich.table import Table
from rich.text import Text

from inflate.batch.batch import Batch
from inflate.batch.jobs import Estimate, Job
from inflate.batch.reports import failure_text, failures_first, headline, parity_of
from inflate.batch.run import Watch
from inflate.batch.survey import Outcome
from inflate.cli.console import note, print_text, safe_console, say
from inflate.cli.progress import bars, bars_are_drawn
from inflate.cli.render import print_table
from inflate.errors import OutputError, printable
from inflate.io.remote import shown
from inflate.report.summary import verdict_text
from inflate.report.text import bytes_text, error_text, one_line
from inflate.workflow.sources import name_of

_COLOURS = {"held": "green", "unequal": "red", "failed": "red", "not-run": "yellow"}
_WAITS = "another batch has the ledger open; waiting until it ends"


@contextmanager
def watching(total: int, *, lines: bool, quiet: bool) -> Iterator[Watch]:
    """Bars on a terminal; in a pipe a line per job, if ``lines``."""
    if bars_are_drawn() and not quiet:
        shown_bars = _Bars(total)
        with shown_bars.bars:
            yield shown_bars
        return
    yield _Lines(wanted=lines)


class _Lines:
    """A line on stdout for each job that ends."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted

    def waits(self) -> None:
        if self._wanted:
            note(_WAITS)

    def moved(self, job: Job, phase: str, done: int, total: int) -> None:
        pass

    def lost(self, job: Job, why: str) -> None:
        if self._wanted:
            note(f"{shown(job.source)} starts again: {printable(why.splitlines()[0])}")

    def ended(self, outcome: Outcome) -> None:
        if self._wanted:
            with suppress(OutputError):  # The last flush raises it again, after the other jobs.
                say(_line(outcome).replace("\n", " "))


class _Bars:
    """A bar for each running job, and one for all jobs."""

    def __init__(self, total: int) -> None:
        self.bars = bars("{task.description:<44.44}", "phase")
        self._tasks: dict[str, TaskID] = {}
        self._counts = dict.fromkeys(_COLOURS, 0)
        self._all = self.bars.add_task("all jobs", total=total, phase="")

    def waits(self) -> None:
        note(_WAITS)

    def moved(self, job: Job, phase: str, done: int, total: int) -> None:
        if job.output not in self._tasks:
            name = f"{name_of(job.source)} -> {name_of(job.output)}".replace("\n", " ")
            self._tasks[job.output] = self.bars.add_task(name, total=None)
        task = self._tasks[job.output]
        self.bars.update(task, completed=done, total=total or None, phase=phase)

    def lost(self, job: Job, why: str) -> None:
        if job.output in self._tasks:
            self.bars.update(self._tasks[job.output], completed=0, phase="starts again")

    def ended(self, outcome: Outcome) -> None:
        task = self._tasks.pop(outcome.job.output, None)
        if task is not None:
            self.bars.remove_task(task)
        self._counts[outcome.row.state] += 1
        counted = ", ".join(f"{count} {word}" for word, count in self._counts.items() if count)
        self.bars.update(self._all, advance=1, phase=counted)


def print_summary(document: Mapping[str, Any]) -> None:
    """The counts; on a terminal, a table of the jobs first (in a pipe they had a line each)."""
    console = safe_console()
    jobs = failures_first(document)
    if bars_are_drawn():
        for job in jobs:
            if failure_text(job):
                print_text(console, Text(f"{job['source']}: {failure_text(job)}", "red"))
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
    """The jobs with their sizes and the memory that each takes."""
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
    print_table(console, table)
    for job, weight in zip(found.jobs, weights, strict=True):
        for obstacle in weight.obstacles if weight else ():
            print_text(console, Text(one_line(f"{job.source}: {obstacle}"), "red"))
    known = [weight for weight in weights if weight is not None]
    largest = max((weight.memory for weight in known), default=0)
    written = bytes_text(sum(weight.output or 0 for weight in known))
    print_text(
        console,
        f"{len(found.jobs)} jobs, {written} to write, at most {bytes_text(largest)} of memory per "
        f"job; ledger {found.ledger}",
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
    if outcome.row.state in ("held", "unequal"):
        facts.append(verdict_text(parity) if parity else "unverified")
    if outcome.reused:
        facts.append("known")
    elif "seconds" in outcome.row.document:
        facts.append(f"{outcome.row.document['seconds']:.1f} s")
    line = f"{outcome.row.state:<8}{', '.join(facts):<26}{shown(job.source)} -> {shown(job.output)}"
    error = outcome.row.document.get("error")
    return f"{line}: {error}" if error else line
