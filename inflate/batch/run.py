"""Run the jobs of a batch: claim them, hand them to an executor, and record their results."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from inflate.batch.estimate import estimate
from inflate.batch.jobs import Job, absolute
from inflate.batch.ledger import Ledger, Row
from inflate.batch.survey import Seen, look_again, may_overwrite, was_published
from inflate.batch.task import Event, Executor, Task, failure
from inflate.display import Displayed
from inflate.io.remote import is_remote, shown

ATTEMPTS = 3
"""How often a job is started whose process is lost."""

_PATIENCE = 0.25
"""Seconds between two looks at the work of another batch."""


@dataclass(frozen=True, repr=False)
class Outcome(Displayed):
    """The result of a job: its row; ``reused`` if it is from an earlier run."""

    job: Job
    row: Row
    reused: bool = False

    @property
    def status(self) -> str:
        """``held``, ``unequal``, ``failed`` or ``not-run``."""
        return "not-run" if self.row.state == "waiting" else self.row.state

    @property
    def document(self) -> Mapping[str, Any]:
        """The error, or the conversion with its parity report."""
        return self.row.document or {}

    def _facts(self) -> dict[str, object]:
        return {"status": self.status, "output": shown(self.job.output)}


class Watch(Protocol):
    """Follows a batch."""

    def began(self, job: Job, worker: str) -> None:
        """A worker starts a job."""

    def moved(self, job: Job, phase: str, done: int, total: int) -> None:
        """A job makes progress."""

    def lost(self, job: Job, why: str) -> None:
        """The process of a job is gone; the job is started again."""

    def ended(self, outcome: Outcome) -> None:
        """The result of a job is known."""


@dataclass
class _Running:
    index: int
    seen: Seen
    memory: int


class Run:
    """One run of a batch over the result of a survey.

    ``memory`` limits the estimates in bytes of all jobs that run at once; one job always may run.
    """

    def __init__(
        self,
        seen: Sequence[Seen],
        ledger: Ledger,
        executor: Executor,
        watch: Watch,
        *,
        retry_failed: bool = False,
        fail_fast: bool = False,
        memory: int | None = None,
    ) -> None:
        self._ledger, self._executor, self._watch = ledger, executor, watch
        self._retry_failed, self._fail_fast, self._memory = retry_failed, fail_fast, memory
        self._outcomes: dict[int, Outcome] = {}
        self._waiting: dict[int, Seen] = {}
        self._elsewhere: dict[int, Seen] = {}
        self._running: dict[int, _Running] = {}  # By the number of the attempt.
        self._needs: dict[int, int] = {}
        self._numbers = itertools.count()
        self._total = len(seen)
        for index, one in enumerate(seen):
            self._sort(index, one)

    def outcomes(self) -> list[Outcome]:
        """Run to the end; the result of every job, in their order.

        Raises:
            KeyboardInterrupt: with a message that says how many jobs are finished.
        """
        try:
            while self._waiting or self._running or self._elsewhere:
                self._start()
                if self._running:
                    for event in self._executor.wait(_PATIENCE):
                        self._take(event)
                elif self._elsewhere:
                    time.sleep(_PATIENCE)
                if not self._waiting:
                    self._look_elsewhere()
        except KeyboardInterrupt as stop:
            finished = sum(outcome.status != "not-run" for outcome in self._outcomes.values())
            raise KeyboardInterrupt(
                f"{finished} of {self._total} jobs are finished; run the same command to resume"
            ) from stop
        return [self._outcomes[index] for index in sorted(self._outcomes)]

    def _sort(self, index: int, seen: Seen) -> None:
        if seen.standing == "settled":
            self._end(index, Outcome(seen.job, seen.row, reused=True))
        elif seen.problem is not None:
            self._end(index, _failed(seen, {"error": seen.problem}))
        elif seen.standing == "elsewhere":
            self._elsewhere[index] = seen
        else:
            self._waiting[index] = seen

    def _look_elsewhere(self) -> None:
        for index, seen in list(self._elsewhere.items()):
            if not self._ledger.is_taken(self._ledger.row(seen.row.output)):
                del self._elsewhere[index]
                self._sort(index, look_again(seen, self._ledger, retry_failed=self._retry_failed))

    def _start(self) -> None:
        for index, seen in list(self._waiting.items()):
            if len(self._running) >= self._executor.slots or index not in self._waiting:
                return  # After a failure with fail_fast, nothing waits any more.
            try:
                needed, settings = self._need(index, seen.job), seen.job.settings
                seen.job.check_names()
            except Exception as error:  # noqa: BLE001 - an error ends its job alone.
                del self._waiting[index]
                self._end(index, _failed(seen, failure(error)))
                continue
            used = sum(running.memory for running in self._running.values())
            if self._memory is not None and self._running and used + needed > self._memory:
                continue  # A smaller job may still fit.
            del self._waiting[index]
            claim = {"state": "running", "owner": self._ledger.owner.token, "settings": settings}
            new = {"source_mark": None, "source_key": None, "attempts": 1, "document": None}
            row = self._ledger.write(seen.row, **claim, **new)
            if row is None:  # Another batch was faster.
                self._sort(index, look_again(seen, self._ledger, retry_failed=self._retry_failed))
            else:
                self._submit(_Running(index, replace(seen, row=row), needed))

    def _need(self, index: int, job: Job) -> int:
        if index not in self._needs:
            known = self._memory is not None and not is_remote(job.source)
            self._needs[index] = estimate(job).memory if known else 0
        return self._needs[index]

    def _submit(self, running: _Running) -> None:
        number, job = next(self._numbers), running.seen.job
        options = {**job.options, "overwrite": may_overwrite(job, running.seen.row)}
        self._running[number] = running
        places = absolute(job.source), absolute(job.output)
        self._executor.submit(Task(number, *places, options, running.memory))

    def _take(self, event: Event) -> None:
        """Handle an event; an error ends its job, not the batch."""
        running, go = self._running.get(event.number), False
        try:
            if running is not None:  # Else its job has failed already, or was started again.
                go = self._handle(event, running)
        except Exception as error:
            if running is None or event.number not in self._running:
                raise
            self._finish(event.number, running, state="failed", document=failure(error))
        if event.kind == "publish":
            self._executor.answer(event, go)

    def _handle(self, event: Event, running: _Running) -> bool:
        """Handle an event of a job that runs; whether it may publish."""
        job, row, content = running.seen.job, running.seen.row, event.content
        if event.kind == "begin":
            self._watch.began(job, event.worker)
        elif event.kind == "progress":
            self._watch.moved(job, content["phase"], content["done"], content["total"])
        elif event.kind == "publish":
            made = (*row.made, (content["output_mark"], content["output_fingerprint"]))
            known = {name: content[name] for name in ("source_key", "document")}
            self._write(running, state="publishing", made=made, **known)
        elif event.kind == "end":
            held = content["state"] == "held"
            made = ((content["output_mark"], content["output_fingerprint"]),) if held else row.made
            known = {name: content[name] for name in ("source_mark", "source_key", "document")}
            self._finish(event.number, running, state=content["state"], made=made, **known)
        else:
            self._lose(event.number, running, content["error"])
        return event.kind == "publish"

    def _lose(self, number: int, running: _Running, why: str) -> None:
        job, row = running.seen.job, running.seen.row
        if row.state == "publishing" and not is_remote(job.output) and was_published(job, row):
            self._finish(number, running, state="held")
        elif row.attempts >= ATTEMPTS:
            error = f"its process was lost {row.attempts} times: {why}"
            self._finish(number, running, state="failed", document={"error": error})
        else:
            self._watch.lost(job, why)
            self._write(running, state="running", attempts=row.attempts + 1)
            del self._running[number]
            self._submit(running)

    def _write(self, running: _Running, **changes: Any) -> None:
        row = self._ledger.write(running.seen.row, **changes)
        # This batch is alive and has claimed the row: no other writes it.
        assert row is not None, running.seen.row.output
        running.seen = replace(running.seen, row=row)

    def _finish(self, number: int, running: _Running, **changes: Any) -> None:
        self._write(running, owner=None, **changes)
        del self._running[number]
        self._end(running.index, Outcome(running.seen.job, running.seen.row))

    def _end(self, index: int, outcome: Outcome) -> None:
        self._outcomes[index] = outcome  # Before it is shown: Ctrl-C may come in between.
        try:
            self._watch.ended(outcome)
        except OSError:
            raise  # Nothing can be printed any more, of any job.
        except Exception as error:  # noqa: BLE001 - an error ends its job alone.
            document = {**outcome.document, **failure(error)}
            outcome = replace(outcome, row=replace(outcome.row, state="failed", document=document))
        self._outcomes[index] = outcome
        if self._fail_fast and not outcome.reused and outcome.status in ("unequal", "failed"):
            left = {**self._waiting, **self._elsewhere}
            self._waiting.clear()
            self._elsewhere.clear()
            for other, seen in left.items():
                self._outcomes[other] = Outcome(seen.job, Row(seen.row.output))
                self._watch.ended(self._outcomes[other])


def _failed(seen: Seen, document: Mapping[str, Any]) -> Outcome:
    """A job that failed before it was claimed; its row in the ledger stays as it is."""
    return Outcome(seen.job, Row(seen.row.output, state="failed", document=document))
