"""The progress, results and plan of a batch as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from rich.progress import TaskID
from rich.text import Text

from inflate.batch.jobs import Job
from inflate.batch.reports import WORDS, failure_text, failures_first, headline, job_document
from inflate.batch.run import Watch
from inflate.batch.survey import Outcome
from inflate.cli.console import note, print_table, print_text, say_line
from inflate.cli.progress import bars, bars_are_drawn
from inflate.display import bytes_text, counted
from inflate.errors import OutputError, printable
from inflate.io.location import shown
from inflate.report.summary import verdict_text
from inflate.workflow.sources import name_of

_COLOURS = {"held": "green", "unequal": "red", "failed": "red", "not-run": "yellow"}
_WAITS = "another batch has the ledger open; waiting until it ends"


@contextmanager
def watching(total: int, *, lines: bool, quiet: bool) -> Iterator[Watch]:
    """Progress bars on a terminal; in a pipe, a line per job if ``lines``."""
    if bars_are_drawn() and not quiet:
        shown_bars = _Bars(total)
        with shown_bars.bars:
            yield shown_bars
    else:
        yield _Lines() if lines else Watch()


class _Lines(Watch):
    """Print a line on stdout for each finished job."""

    def waits(self) -> None:
        note(_WAITS)

    def lost(self, job: Job, why: str) -> None:
        note(f"{shown(job.source)} starts again: {printable(why.splitlines()[0])}")

    def ended(self, outcome: Outcome) -> None:
        with suppress(OutputError):  # The final flush raises it again, after the other jobs.
            say_line(_line(job_document(outcome)))


class _Bars(Watch):
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
            self._tasks[job.output] = self.bars.add_task(name, total=None, phase=phase)
        task = self._tasks[job.output]
        self.bars.update(task, completed=done, total=total or None, phase=phase)

    def lost(self, job: Job, why: str) -> None:
        self.moved(job, "starts again", 0, 0)

    def ended(self, outcome: Outcome) -> None:
        task = self._tasks.pop(outcome.job.output, None)
        if task is not None:
            self.bars.remove_task(task)
        self._counts[outcome.row.state] += 1
        states = ", ".join(
            f"{count} {WORDS[state]}" for state, count in self._counts.items() if count
        )
        self.bars.update(self._all, advance=1, phase=states)


def print_summary(document: Mapping[str, Any]) -> None:
    """Print the counts; on a terminal, first the line of each job (already printed in a pipe)."""
    if bars_are_drawn():
        for job in failures_first(document):
            print_text(Text(_line(job), _COLOURS[job["status"]]))
    style = "red" if document["exit_code"] else "green"
    print_text(Text(f"{headline(document)} in {document['seconds']:.1f} s", style))


def print_dry_run(document: Mapping[str, Any]) -> None:
    """Print the jobs of a plan with their sizes and the memory that each needs."""
    jobs = document["jobs"]

    def size(job: Mapping[str, Any], what: str) -> str:
        return "?" if job[what] is None else bytes_text(job[what])

    rows = [
        (job["source"], size(job, "source_bytes"), job["output"], size(job, "output_bytes"),
         size(job, "memory_bytes"))
        for job in jobs
    ]  # fmt: skip
    print_table(("source", "size", "output", "size", "memory"), rows, ("size", "memory"))
    for job in jobs:
        for obstacle in job["obstacles"]:
            print_text(Text(f"{job['source']}: {obstacle}", "red"))
    written = bytes_text(sum(job["output_bytes"] or 0 for job in jobs))
    most = bytes_text(max((job["memory_bytes"] or 0 for job in jobs), default=0))
    say_line(
        f"{counted(len(jobs), 'job')}, {written} to write, at most {most} of memory per job; "
        f"ledger {document['ledger']}"
    )


def _line(job: Mapping[str, Any]) -> str:
    facts = [verdict_text(job)] if job["verdict"] else []
    if job["reused"]:
        facts.append("known")
    elif job["seconds"] is not None:
        facts.append(f"{job['seconds']:.1f} s")
    line = f"{WORDS[job['status']]:<11}{', '.join(facts):<26}{job['source']} -> {job['output']}"
    why = failure_text(job)
    return f"{line}: {why}" if why else line
