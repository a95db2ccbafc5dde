"""Run the jobs of a batch: hand them to an executor, and record their results."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from inflate.batch.jobs import Job, estimate
from inflate.batch.ledger import Ledger, Row
from inflate.batch.survey import Outcome, may_overwrite, was_published
from inflate.batch.task import Event, Task, failure
from inflate.io.location import is_remote

if TYPE_CHECKING:
    from inflate.batch.cluster import RayExecutor
    from inflate.batch.local import LocalExecutor

ATTEMPTS = 3
"""The maximum number of attempts for a job whose process is lost."""

_PATIENCE = 0.25
"""Seconds to wait for an event."""


class Watch:
    """Callbacks for the events of a batch; this class ignores them."""

    def waits(self) -> None:
        """Another batch has the ledger open."""

    def moved(self, job: Job, phase: str, done: int, total: int) -> None:
        """A job makes progress."""

    def lost(self, job: Job, why: str) -> None:
        """The process of a job was lost; the job is started again."""

    def ended(self, outcome: Outcome) -> None:
        """The result of a job is known."""


@dataclass
class _Running:
    index: int
    job: Job
    row: Row
    memory: int


@dataclass
class Run:
    """One run of a batch, given the result of a survey.

    ``memory`` limits the total estimate of all running jobs, in bytes; one job may always run.
    """

    seen: Sequence[Outcome]
    ledger: Ledger
    executor: LocalExecutor | RayExecutor
    watch: Watch
    fail_fast: bool = False
    memory: int | None = None

    def __post_init__(self) -> None:
        self._outcomes: dict[int, Outcome] = {}
        self._waiting = {i: one for i, one in enumerate(self.seen) if not one.reused}
        self._running: dict[int, _Running] = {}  # Keys are attempt numbers.
        self._needs: dict[int, int] = {}
        self._numbers = itertools.count()

    def outcomes(self) -> list[Outcome]:
        """Run to the end; returns the result of every job, in order.

        Raises:
            KeyboardInterrupt: with a message that has the number of finished jobs.
        """
        try:
            for index, one in enumerate(self.seen):
                if one.reused:
                    self._end(index, one)
            while self._waiting or self._running:
                self._start()
                for event in self.executor.wait(_PATIENCE):
                    self._take(event)
        except KeyboardInterrupt as stop:
            finished = sum(one.row.state != "not-run" for one in self._outcomes.values())
            raise KeyboardInterrupt(
                f"{finished} of {len(self.seen)} jobs are finished; run the same command to resume"
            ) from stop
        return [self._outcomes[index] for index in sorted(self._outcomes)]

    def _start(self) -> None:
        for index, seen in list(self._waiting.items()):
            if len(self._running) >= self.executor.slots:
                return
            needed = self._need(index, seen.job)
            used = sum(running.memory for running in self._running.values())
            if self.memory is not None and self._running and used + needed > self.memory:
                continue  # A smaller job may still fit.
            del self._waiting[index]
            row = Row(seen.row.output, settings=seen.job.settings, made=seen.row.made)
            self._submit(_Running(index, seen.job, row, needed))

    def _need(self, index: int, job: Job) -> int:
        if index not in self._needs:
            self._needs[index] = 0
            if self.memory is not None:
                with suppress(Exception):  # The job itself reports the problem.
                    self._needs[index] = estimate(job).memory_bytes or 0
        return self._needs[index]

    def _submit(self, running: _Running) -> None:
        number, job = next(self._numbers), running.job
        running.row = replace(running.row, attempts=running.row.attempts + 1)
        self._running[number] = running
        options = {**job.options, "overwrite": may_overwrite(job, running.row)}
        places = _absolute(job.source), _absolute(job.output)
        self.executor.submit(Task(number, *places, options, running.memory))

    def _take(self, event: Event) -> None:
        """Handle an event; an error in recording it ends its job, not the batch."""
        running, go = self._running.get(event.number), False
        if event.kind == "progress":
            if running is not None:  # Otherwise its job has already failed or was started again.
                content = event.content
                self.watch.moved(running.job, content["phase"], content["done"], content["total"])
            return
        if running is not None:
            try:
                go = self._handle(event, running)
            except Exception as error:
                if event.number not in self._running:
                    raise
                self._finish(event.number, running, state="failed", document=failure(error))
        if event.kind == "publish":
            self.executor.answer(event, go)

    def _handle(self, event: Event, running: _Running) -> bool:
        """Handle an event of a running job; returns whether it may publish."""
        job, row, content = running.job, running.row, event.content
        if event.kind == "publish":
            made = (*row.made, content["made"])
            publishing = replace(row, state="publishing", **{**content, "made": made})
            running.row = self.ledger.write(publishing)
        elif event.kind == "end":
            made = (content["made"],) if content["state"] == "held" else row.made
            self._finish(event.number, running, **{**content, "made": made})
        elif row.state == "publishing" and was_published(job, row):
            self._finish(event.number, running, state="held")
        elif row.attempts >= ATTEMPTS:
            error = f"its process was lost {row.attempts} times: {content['error']}"
            self._finish(event.number, running, state="failed", document={"error": error})
        else:
            self.watch.lost(job, content["error"])
            del self._running[event.number]
            self._submit(running)
        return event.kind == "publish"

    def _finish(self, number: int, running: _Running, **changes: Any) -> None:
        row = self.ledger.write(replace(running.row, **changes))
        del self._running[number]
        self._end(running.index, Outcome(running.job, row))

    def _end(self, index: int, outcome: Outcome) -> None:
        self._outcomes[index] = outcome  # Record before showing it: Ctrl-C may come in between.
        self.watch.ended(outcome)
        failed = outcome.row.state in ("unequal", "failed")
        if self.fail_fast and failed and not outcome.reused:
            left, self._waiting = self._waiting, {}
            for other, seen in left.items():
                self._end(other, Outcome(seen.job, Row(seen.row.output)))


def _absolute(location: str) -> str:
    return location if is_remote(location) else os.path.abspath(location)
