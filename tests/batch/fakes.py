"""An executor and a watcher for tests: nothing is computed, everything is remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from inflate.batch.batch import Batch
from inflate.batch.files import key_of_source, mark_of_output, mark_of_source
from inflate.batch.ledger import Ledger
from inflate.batch.run import Run, Watch
from inflate.batch.survey import Outcome, survey
from inflate.batch.task import Event, Task
from inflate.errors import InflateError
from inflate.formats.fingerprint import fingerprint
from inflate.io.index import TensorInfo

from ..checkpoints import autoencoder
from ..report.building import document_of

PARITY = document_of("equal")
FAILED = document_of("failed")
Act = Callable[[Task], str]


def by_stem(**acts: str) -> Act:
    """What tasks come to by the stem of their source: ``m01="failed"``; else ``held``."""
    return lambda task: acts.get(Path(task.source).stem, "held")


def made_of(source: str | Path) -> bytes:
    """What the executor makes of a source: a file with a fingerprint of its own."""
    return _made(hashlib.sha256(Path(source).read_bytes()).digest())[0]


@cache
def _made(digest: bytes) -> tuple[bytes, str]:
    own = {"decoder.norm_out.weight": torch.tensor(list(digest)).float()}
    weights = {**autoencoder(ch_mult=[1]), **own}
    infos = {k: TensorInfo(k, tuple(v.shape), "float32", v.nbytes) for k, v in weights.items()}
    digests = {k: hashlib.sha256(v.numpy().tobytes()).hexdigest() for k, v in weights.items()}
    found = fingerprint(infos, digests)
    return save(weights, {"inflate.fingerprint": found}), found


class Watcher(Watch):
    """Counts how often it waits."""

    waited = 0

    def waits(self) -> None:
        """Remember."""
        self.waited += 1


class FakeExecutor:
    """Writes what :func:`made_of` gives to the output, in the steps of a real worker.

    ``act`` gives what a task comes to: ``held``, ``unequal``, ``failed``, ``lost`` (before it
    publishes) or ``vanish`` (after the output got its name).
    """

    def __init__(self, slots: int = 1, act: Act | None = None) -> None:
        self.slots, self._act = slots, act or by_stem()
        self.ran: list[Task] = []
        self.answers: list[bool] = []
        self.together = 0
        self._tasks: dict[int, Task] = {}
        self._events: list[Event] = []

    def submit(self, task: Task) -> None:
        """Do what a worker does before it publishes."""
        self.ran.append(task)
        self._tasks[task.number] = task
        self.together = max(self.together, len(self._tasks))
        self.begin(task, self._act(task))

    def wait(self, seconds: float) -> list[Event]:
        """The events since the last call."""
        events, self._events = self._events, []
        for event in events:
            if event.kind == "end":
                self._tasks.pop(event.number, None)
        return events

    def answer(self, event: Event, go: bool) -> None:
        """Publish, or not."""
        self.answers.append(go)
        task = self._tasks.pop(event.number)
        if not go:
            return
        Path(task.output + ".staged").rename(task.output)
        if self._act(task) == "vanish":
            self.send("lost", task, error="worker was killed")
        else:
            self.end(task, state="held", **self._record(task, Path(task.output)))

    def close(self) -> None:
        """Nothing runs."""

    def begin(self, task: Task, act: str) -> None:
        """Send the first events of a task."""
        self.send("progress", task, phase="reading", done=0, total=0)
        ends = {"failed": {"error": "no"}, "unequal": {"conversion": {"parity": FAILED}}}
        if act == "lost":
            self.send("lost", task, error="worker was killed")
            return
        assert task.options["overwrite"] or not Path(task.output).exists()
        if act in ends:
            self.end(task, state=act, made=None, document={"seconds": 0.1, **ends[act]})
        else:
            staged = Path(task.output + ".staged")
            staged.parent.mkdir(parents=True, exist_ok=True)
            staged.write_bytes(made_of(task.source))
            self.send("publish", task, **self._record(task, staged))

    def end(self, task: Task, **record: Any) -> None:
        """Send the last event."""
        self.send("end", task, **{"source_mark": mark_of_source(task.source), **record})

    def send(self, kind: Any, task: Task, **content: Any) -> None:
        """Send an event."""
        self._events.append(Event(kind, task.number, content))

    def _record(self, task: Task, path: Path) -> dict[str, Any]:
        digest = hashlib.sha256(Path(task.source).read_bytes()).digest()
        try:
            key = key_of_source(task.source, task.options)
        except InflateError:
            key = digest.hex()
        return {
            "source_mark": mark_of_source(task.source),
            "source_key": key,
            "made": (mark_of_output(path), _made(digest)[1]),
            "document": {"seconds": 0.1, "conversion": {"parity": PARITY, "notes": []}},
        }


def ran(
    batch: Batch,
    act: Act | None = None,
    *,
    executor: FakeExecutor | None = None,
    watch: Watcher | None = None,
    retry_failed: bool = False,
    **options: Any,
) -> tuple[list[Outcome], FakeExecutor]:
    """Run a batch to its end."""
    executor, watch = executor or FakeExecutor(1, act), watch or Watcher()
    with Ledger(batch.ledger, watch.waits) as ledger:
        ledger._db.execute("PRAGMA synchronous = OFF")  # Many rows, on a busy disk.
        seen = survey(batch.jobs, ledger, retry_failed=retry_failed)
        return Run(seen, ledger, executor, watch, **options).outcomes(), executor


def statuses(outcomes: list[Outcome]) -> list[str]:
    """What became of each job; ``*`` for results of an earlier run."""
    return [outcome.row.state + ("*" if outcome.reused else "") for outcome in outcomes]
