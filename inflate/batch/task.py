"""A task is a job as a worker gets it; every executor runs it through :func:`run_task`."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from inflate.batch.files import (
    key_of_source,
    make_folder,
    mark_of_output,
    mark_of_source,
    source_key,
)
from inflate.errors import InflateError
from inflate.io.remote import is_remote
from inflate.options import ConvertOptions

if TYPE_CHECKING:
    from inflate.workflow import ConversionResult

_PROGRESS_EVERY = 0.1
"""Seconds between two reports of progress."""


@dataclass(frozen=True)
class Task:
    """One attempt at a job: plain values, absolute paths.

    ``options`` are those of ``convert``; ``memory`` is the estimated peak in bytes. Each attempt
    has its own ``number``, so that a worker that was given up cannot publish.
    """

    number: int
    source: str
    output: str
    options: Mapping[str, Any]
    memory: int = 0


@dataclass(frozen=True)
class Event:
    """A message about a task.

    ``content`` of ``progress`` has ``phase``, ``done`` and ``total``; of ``publish`` and ``end``
    the record of the result; of ``lost``, in ``error``, why the process is gone. A worker that
    sends ``publish`` waits for an answer: nothing gets its name before the ledger has its record.
    """

    kind: Literal["begin", "progress", "publish", "end", "lost"]
    number: int
    worker: str
    content: Mapping[str, Any] = field(default_factory=dict)


class Executor(Protocol):
    """Runs tasks, at most ``slots`` at once."""

    slots: int

    def submit(self, task: Task) -> None:
        """Start a task."""

    def wait(self, seconds: float) -> list[Event]:
        """The events since the last call; waits at most this long for the first."""

    def answer(self, event: Event, go: bool) -> None:
        """Answer a ``publish``."""

    def close(self) -> None:
        """Stop everything that still runs."""


class StoppedError(Exception):
    """The batch does not want the result."""


def run_task(
    task: Task,
    worker: str,
    send: Callable[[Event], None],
    ask: Callable[[Event], bool],
    gpu: int | None = None,
) -> None:
    """Convert, and send ``begin``, ``progress``, ``publish`` where parity held, and ``end``.

    ``ask`` sends an event and waits for the answer. ``gpu``, modulo the number of devices, is the
    CUDA device of this worker, for tasks that leave the choice open.
    """
    from inflate.workflow import convert

    started = time.perf_counter()
    sent = 0.0
    mark: str | None = None

    def event(kind: Any, **content: Any) -> Event:
        return Event(kind, task.number, worker, content)

    def progress(phase: str, done: int, total: int) -> None:
        nonlocal sent
        now = time.perf_counter()
        if now - sent > _PROGRESS_EVERY or done == total:
            sent = now
            send(event("progress", phase=phase, done=done, total=total))

    def before_publish(result: ConversionResult, staged: Path) -> None:
        mark = None if is_remote(task.output) else mark_of_output(staged)
        record = _record(result, started)
        if not ask(event("publish", **record, output_mark=mark)):
            raise StoppedError

    send(event("begin", pid=os.getpid()))
    try:
        device = _device(task.options.get("device"), gpu)
        options = ConvertOptions(**{**task.options, "device": device})
        mark = mark_of_source(task.source)
        if not is_remote(task.output):
            make_folder(Path(task.output).parent)
        result = convert(
            task.source,
            task.output,
            **options.arguments(),
            progress=progress,
            before_publish=before_publish,
        )
        # The mark of a source that changed meanwhile is not the mark of what was read.
        record = {
            **_record(result, started),
            "source_mark": mark if mark == mark_of_source(task.source) else None,
            "output_mark": mark_of_output(task.output) if result.passed else None,
        }
    except StoppedError:
        return
    except Exception as error:  # noqa: BLE001 - an error ends its job alone.
        record = _failure(task, error, started, mark)
    send(event("end", **record))


def failure(error: Exception) -> dict[str, Any]:
    """The document of a failed job: a message, and for a bug its traceback."""
    if isinstance(error, InflateError):
        return {"error": str(error)}
    trace = "".join(traceback.format_exception(error))
    return {"error": f"a bug: {type(error).__name__}: {error}", "traceback": trace}


def _record(result: ConversionResult, started: float) -> dict[str, Any]:
    from inflate.report.documents import conversion_document

    assert result.source_fingerprint is not None
    assert result.source_config is not None
    return {
        "state": "held" if result.passed else "unequal",
        "source_key": source_key(result.source_fingerprint, result.source_config),
        "output_fingerprint": result.fingerprint,
        "document": {
            "conversion": conversion_document(result),
            "seconds": round(time.perf_counter() - started, 3),
        },
    }


def _failure(task: Task, error: Exception, started: float, mark: str | None) -> dict[str, Any]:
    document = {**failure(error), "seconds": round(time.perf_counter() - started, 3)}
    # Without the key of its source, a job is tried again by the next batch.
    unknown = {"state": "failed", "document": document, "source_mark": None, "source_key": None}
    with suppress(Exception):  # Whatever ended the job may end this too.
        key = key_of_source(task.source, task.options)
        if mark is not None and mark == mark_of_source(task.source):
            return {**unknown, "source_mark": mark, "source_key": key}
    return unknown


def _device(wanted: str | None, gpu: int | None) -> str:
    """The device of a task: the one that it names, or this worker's GPU."""
    if gpu is None or wanted not in (None, "auto", "cuda"):
        return wanted or "auto"
    import torch

    if not torch.cuda.is_available():
        return wanted or "auto"
    return f"cuda:{gpu % torch.cuda.device_count()}"
