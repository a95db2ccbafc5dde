"""An executor and a watcher that tests look into: nothing is computed, everything is remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from inflate.batch.executor import Event, Task
from inflate.batch.jobs import Job
from inflate.batch.marks import hash_of_source, mark_of_output, mark_of_source
from inflate.batch.run import Outcome

from ..report.building import document_of

PARITY = document_of("equal")
FAILED = document_of("failed")
Publish = Callable[[Task], str]


def always_held(_task: Task) -> str:
    """What tasks come to where nothing is said."""
    return "held"


class Watcher:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def began(self, job: Job, worker: str) -> None:
        """Remember."""
        self.told.append(("began", job.output))

    def moved(self, job: Job, phase: str, done: int, total: int) -> None:
        """Remember."""
        self.told.append(("moved", job.output))

    def lost(self, job: Job, why: str) -> None:
        """Remember."""
        self.told.append(("lost", job.output))

    def ended(self, outcome: Outcome) -> None:
        """Remember."""
        self.told.append(("ended", outcome.job.output))


class FakeExecutor:
    """Copies the source to the output, in the steps of a real worker; or does what it is told.

    ``act`` gives what a task comes to: ``held``, ``unequal``, ``failed``, ``lost`` (before it
    publishes), ``vanish`` (after the output got its name) or ``stuck`` (never ends).
    """

    def __init__(self, slots: int = 1, act: Publish = always_held) -> None:
        self.slots, self._act = slots, act
        self.ran: list[Task] = []
        self.together = 0
        self._tasks: dict[int, Task] = {}
        self._events: list[Event] = []

    def submit(self, task: Task) -> None:
        """Begin a task."""
        self.ran.append(task)
        self._tasks[task.number] = task
        self.together = max(self.together, len(self._tasks))
        self._tell("begin", task)

    def wait(self, seconds: float) -> list[Event]:
        """What happened."""
        events, self._events = self._events, []
        return events

    def answer(self, event: Event, answer: Mapping[str, Any]) -> None:
        """Go on with a task."""
        task = self._tasks[event.number]
        if not answer["go"]:
            del self._tasks[task.number]
        elif event.kind == "begin":
            self._begin(task, overwrite=answer["overwrite"])
        else:
            self._publish(task)

    def close(self) -> None:
        """Nothing runs."""

    def _begin(self, task: Task, *, overwrite: bool) -> None:
        act = self._act(task)
        if act == "stuck":
            return
        if act == "lost":
            del self._tasks[task.number]
            self._tell("lost", task, {"error": "worker was killed"})
            return
        assert overwrite or not Path(task.output).exists()
        sha256 = hash_of_source(task.source)
        if act in ("failed", "unequal"):
            document: dict[str, Any] = {"seconds": 0.1, "error": "no"}
            if act == "unequal":
                document = {"seconds": 0.1, "conversion": {"parity": FAILED}}
            self._end(task, {"state": act, "source_sha256": sha256, "document": document})
            return
        staged = Path(task.output + ".staged")
        staged.parent.mkdir(parents=True, exist_ok=True)
        staged.write_bytes(Path(task.source).read_bytes() + b" ")
        mark = mark_of_output(staged)
        assert mark is not None
        self._tell("publish", task, {**self._held(task), "output_mark": mark.text()})

    def _publish(self, task: Task) -> None:
        Path(task.output + ".staged").rename(task.output)
        if self._act(task) == "vanish":
            del self._tasks[task.number]
            self._tell("lost", task, {"error": "worker was killed"})
            return
        mark = mark_of_output(task.output)
        assert mark is not None
        self._end(task, {**self._held(task), "output_mark": mark.text()})

    def _held(self, task: Task) -> dict[str, Any]:
        source = Path(task.source).read_bytes()
        return {
            "state": "held",
            "source_sha256": hash_of_source(task.source),
            "output_sha256": hashlib.sha256(source + b" ").hexdigest(),
            "document": {"seconds": 0.1, "conversion": {"parity": PARITY, "notes": []}},
        }

    def _end(self, task: Task, record: dict[str, Any]) -> None:
        mark = mark_of_source(task.source)
        del self._tasks[task.number]
        self._tell("end", task, {**record, "source_mark": mark.text() if mark else None})

    def _tell(self, kind: Any, task: Task, content: Mapping[str, Any] | None = None) -> None:
        self._events.append(Event(kind, task.number, "worker 1", content or {}))
