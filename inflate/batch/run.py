"""The run of a batch: jobs claimed, handed to an executor, and what comes of them written down."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from inflate.batch.estimate import estimate
from inflate.batch.executor import Event, Executor, Task, failure
from inflate.batch.jobs import Job, check_names, identity
from inflate.batch.ledger import Ledger, Row
from inflate.batch.marks import parse_mark
from inflate.batch.survey import Seen, look_again, may_overwrite, published
from inflate.display import Displayed
from inflate.io.remote import is_remote, local_path, shown

Status = Literal["held", "unequal", "failed", "not-run"]

ATTEMPTS = 3
"""How often a job is begun whose process is lost."""

_PATIENCE = 0.25
"""Seconds between two looks at what another batch is doing."""


@dataclass(frozen=True, repr=False)
class Outcome(Displayed):
    """What became of a job; ``reused`` where the ledger knew it already."""

    job: Job
    status: Status
    reused: bool = False
    attempts: int = 0
    source_sha256: str | None = None
    output_sha256: str | None = None
    document: Mapping[str, Any] = field(default_factory=dict)

    def _facts(self) -> dict[str, object]:
        return {"status": self.status, "output": shown(self.job.output)}


class Watch(Protocol):
    """Whoever follows a batch."""

    def began(self, job: Job, worker: str) -> None:
        """A worker begins a job."""

    def moved(self, job: Job, phase: str, done: int, total: int) -> None:
        """A job has come this far."""

    def lost(self, job: Job, why: str) -> None:
        """A job's process is gone, and it will be begun again."""

    def ended(self, outcome: Outcome) -> None:
        """It is known what became of a job."""


@dataclass
class _Running:
    number: int
    seen: Seen
    memory: int
    begun: int = 0
    lost: int = 0


class Run:
    """One run of a batch over what a survey found."""

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
        """Get ready; see :func:`run_batch`."""
        self._ledger, self._executor, self._watch = ledger, executor, watch
        self._retry_failed, self._fail_fast, self._memory = retry_failed, fail_fast, memory
        self._outcomes: dict[int, Outcome] = {}
        self._waiting: deque[tuple[int, Seen]] = deque()
        self._elsewhere: dict[int, Seen] = {}
        self._running: dict[int, _Running] = {}
        self._needs: dict[int, int] = {}
        self._total = len(seen)
        for number, one in enumerate(seen):
            self._sort(number, one)

    def outcomes(self) -> list[Outcome]:
        """Run to the end; what became of each job, in their order.

        Raises:
            KeyboardInterrupt: as it came, with how many jobs are finished in words.
        """
        try:
            while self._waiting or self._running or self._elsewhere:
                self._advance()
        except KeyboardInterrupt as stop:
            finished = sum(outcome.status != "not-run" for outcome in self._outcomes.values())
            raise KeyboardInterrupt(
                f"{finished} of {self._total} jobs are finished; run the same command again for "
                "the others"
            ) from stop
        return [self._outcomes[number] for number in sorted(self._outcomes)]

    def _advance(self) -> None:
        self._start()
        if self._running:
            for event in self._executor.wait(_PATIENCE):
                self._take(event)
        elif self._elsewhere:
            time.sleep(_PATIENCE)
        if not self._waiting:
            self._look_elsewhere()

    def _take(self, event: Event) -> None:
        """Handle an event; whatever is raised ends its job, and not the batch."""
        running = self._running.get(event.number)
        try:
            if running is not None:
                self._handle(event, running)
            elif event.wants_answer:  # Its job has failed here already.
                self._executor.answer(event, {"go": False})
        except Exception as error:
            if running is None or event.number not in self._running:
                raise
            self._fail(running, error)
            if event.wants_answer:
                self._executor.answer(event, {"go": False})

    def _fail(self, running: _Running, error: Exception) -> None:
        # What stands in the output's place stays known as it is: it may have got its name.
        document, row = failure(error), running.seen.row
        self._ledger.write(row, state="failed", owner=None, document=document)
        del self._running[running.number]
        outcome = Outcome(running.seen.job, "failed", attempts=row.attempts, document=document)
        self._end(running.number, outcome)

    def _sort(self, number: int, seen: Seen) -> None:
        if seen.standing == "settled":
            self._end(number, replace(_outcome_of(seen.job, seen.row), reused=True))
        elif seen.problem is not None:
            self._end(number, Outcome(seen.job, "failed", document={"error": seen.problem}))
        elif seen.standing == "elsewhere":
            self._elsewhere[number] = seen
        else:
            self._waiting.append((number, seen))

    def _look_elsewhere(self) -> None:
        for number, seen in list(self._elsewhere.items()):
            if not self._ledger.is_taken(self._ledger.row(seen.row.output)):
                del self._elsewhere[number]
                self._sort(number, look_again(seen, self._ledger, retry_failed=self._retry_failed))

    def _start(self) -> None:
        for number, seen in list(self._waiting):
            if len(self._running) >= self._executor.slots:
                return
            try:
                needed, settings = self._need(number, seen.job), seen.job.settings
                check_names(seen.job)
            except Exception as error:  # noqa: BLE001 - it ends this job, and not the batch.
                self._waiting.remove((number, seen))
                self._end(number, Outcome(seen.job, "failed", document=failure(error)))
                return  # As below.
            used = sum(running.memory for running in self._running.values())
            if self._memory is not None and self._running and used + needed > self._memory:
                continue  # A smaller one may still fit beside those that run.
            self._waiting.remove((number, seen))
            row = self._ledger.write(
                seen.row,
                state="running",
                owner=self._ledger.owner.token,
                settings=settings,
                source_sha256=None,
                attempts=0,
                document=None,
                **_what_stands(seen),
            )
            if row is None:  # Another batch was quicker.
                again = look_again(seen, self._ledger, retry_failed=self._retry_failed)
                self._sort(number, again)
                return  # It may have ended the batch; the next round starts the others.
            self._running[number] = _Running(number, replace(seen, row=row), needed)
            self._executor.submit(_task(number, seen.job, needed))

    def _need(self, number: int, job: Job) -> int:
        if number not in self._needs:
            known = self._memory is not None and not is_remote(job.source)
            self._needs[number] = estimate(job).memory if known else 0
        return self._needs[number]

    def _handle(self, event: Event, running: _Running) -> None:
        seen, content = running.seen, event.content
        job, row = seen.job, seen.row
        if event.kind == "progress":
            self._watch.moved(job, content["phase"], content["done"], content["total"])
        elif event.kind == "begin":
            running.begun += 1
            if row.state == "publishing" and published(job, row):
                self._finish(running, state="held")
                self._executor.answer(event, {"go": False})
                return
            self._write(running, state="running", attempts=running.begun)
            self._watch.began(job, event.worker)
            overwrite = seen.overwrite or may_overwrite(job, running.seen.row)
            self._executor.answer(event, {"go": True, "overwrite": overwrite})
        elif event.kind == "publish":
            self._write(
                running,
                state="publishing",
                source_sha256=content["source_sha256"],
                output_mark=parse_mark(content["output_mark"]),
                output_sha256=content["output_sha256"],
                document=content["document"],
            )
            self._executor.answer(event, {"go": True})
        elif event.kind == "end":
            self._record(running, content)
        else:
            self._lose(running, content)

    def _lose(self, running: _Running, content: Mapping[str, Any]) -> None:
        running.lost += 1
        job = running.seen.job
        if content.get("final") or running.lost >= ATTEMPTS:
            times = max(running.begun, running.lost)
            error = f"its process was lost {times} times: {content['error']}"
            self._finish(running, state="failed", document={"error": error})
        else:
            self._watch.lost(job, content["error"])
            self._executor.submit(_task(running.number, job, running.memory))

    def _record(self, running: _Running, record: Mapping[str, Any]) -> None:
        mark = parse_mark(record.get("source_mark"))
        sha256 = record["source_sha256"]
        if mark is not None and sha256 is not None:
            self._ledger.know_source(identity(running.seen.job.source), mark, sha256)
        changes = {"source_sha256": sha256, "document": record["document"]}
        if record["state"] == "held":
            changes["output_mark"] = parse_mark(record["output_mark"])
            changes["output_sha256"] = record["output_sha256"]
        self._finish(running, state=record["state"], **changes)

    def _write(self, running: _Running, **changes: Any) -> None:
        row = self._ledger.write(running.seen.row, **changes)
        # This batch is alive and holds the row: nobody else writes it.
        assert row is not None, running.seen.row.output
        running.seen = replace(running.seen, row=row)

    def _finish(self, running: _Running, **changes: Any) -> None:
        job, row = running.seen.job, running.seen.row
        announced = row.state == "publishing"
        if changes["state"] != "held" and announced and not published(job, row):
            # It never got its name: what stands there is still what stood there before.
            changes["output_mark"] = row.previous_mark
            changes["output_sha256"] = row.previous_sha256
        self._write(running, owner=None, previous_mark=None, previous_sha256=None, **changes)
        outcome = _outcome_of(job, running.seen.row)
        del self._running[running.number]
        self._end(running.number, outcome)

    def _end(self, number: int, outcome: Outcome) -> None:
        self._outcomes[number] = outcome  # Before it is shown: Ctrl-C may come in between.
        try:
            self._watch.ended(outcome)
        except OSError:
            raise  # The output itself is gone, for every job alike.
        except Exception as error:  # noqa: BLE001 - it ends this job, and not the batch.
            document = {**outcome.document, **failure(error)}
            outcome = replace(outcome, status="failed", document=document)
        self._outcomes[number] = outcome
        if self._fail_fast and not outcome.reused and outcome.status in ("unequal", "failed"):
            left = [*self._waiting, *self._elsewhere.items()]
            self._waiting.clear()
            self._elsewhere.clear()
            for other, seen in left:
                self._outcomes[other] = Outcome(seen.job, "not-run")
                self._watch.ended(self._outcomes[other])


def run_batch(
    seen: Sequence[Seen],
    ledger: Ledger,
    executor: Executor,
    watch: Watch,
    *,
    retry_failed: bool = False,
    fail_fast: bool = False,
    memory: int | None = None,
) -> list[Outcome]:
    """Run what there is to do, to the end.

    Args:
        seen: what a survey found.
        ledger: where claims and results are written down.
        executor: what runs the jobs; closed by the caller.
        watch: told of everything.
        retry_failed: try again what failed, or did not hold, and has not changed.
        fail_fast: start nothing more after a first failure; what runs is let end.
        memory: bytes that the jobs that run at once may take by their estimates, beside what
            their processes take anyway; one job alone always may.
    """
    return Run(
        seen, ledger, executor, watch,
        retry_failed=retry_failed, fail_fast=fail_fast, memory=memory,
    ).outcomes()  # fmt: skip


def _what_stands(seen: Seen) -> dict[str, Any]:
    """What of a row says which file stands in the output's place now."""
    row = seen.row
    if row.state == "publishing":  # Left by a batch that was killed; what it announced is not it.
        return {"output_mark": row.previous_mark, "output_sha256": row.previous_sha256}
    return {"previous_mark": row.output_mark, "previous_sha256": row.output_sha256}


def _outcome_of(job: Job, row: Row) -> Outcome:
    assert row.state in ("held", "unequal", "failed"), row.state
    return Outcome(
        job,
        row.state,
        attempts=row.attempts,
        source_sha256=row.source_sha256,
        output_sha256=row.output_sha256 if row.state == "held" else None,
        document=row.document or {},
    )


def _task(number: int, job: Job, memory: int) -> Task:
    options = {key: value for key, value in job.options.items() if key != "overwrite"}
    return Task(number, _absolute(job.source), _absolute(job.output), options, memory)


def _absolute(location: str) -> str:
    return location if is_remote(location) else os.path.abspath(local_path(location))
