"""A task is a job in the form for workers; each executor runs it with :func:`run_task`."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inflate.batch.files import mark_of_output, mark_of_source, source_key
from inflate.errors import InflateError
from inflate.io.location import is_remote
from inflate.io.staging import make_folder
from inflate.options import ConvertOptions

if TYPE_CHECKING:
    from inflate.workflow.production import ConversionResult

_PROGRESS_EVERY = 0.1
"""Seconds between progress reports."""


@dataclass(frozen=True)
class Task:
    """One attempt at a job: plain values, absolute paths.

    ``options`` are options of ``convert``; ``memory`` is the estimated peak in bytes. Each attempt
    has its own ``number``, so that an abandoned worker cannot publish.
    """

    number: int
    source: str
    output: str
    options: Mapping[str, Any]
    memory: int = 0


@dataclass(frozen=True)
class Event:
    """A message about a task.

    The ``content`` of ``progress`` has ``phase``, ``done`` and ``total``; that of ``publish`` and
    ``end`` has fields of the ledger's row; that of ``lost`` has the reason in ``error``. After
    ``publish`` a worker waits for an answer: the ledger must record a file before it gets its name.
    """

    kind: Literal["progress", "publish", "end", "lost"]
    number: int
    content: Mapping[str, Any] = field(default_factory=dict)


class StoppedError(Exception):
    """The batch does not want the result."""


def run_task(
    task: Task, send: Callable[[Event], None], ask: Callable[[Event], bool], gpu: int | None = None
) -> None:
    """Convert, and send ``progress``, ``publish`` if parity held, and ``end``.

    ``ask`` sends an event and waits for the answer. ``gpu``, modulo the number of devices, is the
    CUDA device of this worker, for tasks that leave the choice open.
    """
    from inflate import convert

    started = time.perf_counter()
    sent = 0.0
    mark: str | None = None

    def event(kind: Any, **content: Any) -> Event:
        return Event(kind, task.number, content)

    def progress(phase: str, done: int, total: int) -> None:
        nonlocal sent
        now = time.perf_counter()
        if now - sent > _PROGRESS_EVERY or done == total:
            sent = now
            send(event("progress", phase=phase, done=done, total=total))

    def before_publish(result: ConversionResult, staged: Path) -> None:
        staged_mark = None if is_remote(task.output) else mark_of_output(staged)
        # Publishing fails if the source has changed.
        record = _record(result, started, staged_mark)
        if not ask(event("publish", source_mark=mark, **record)):
            raise StoppedError

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
        record = _record(result, started, mark_of_output(task.output) if result.passed else None)
        state = "held" if result.passed else "unequal"
    except StoppedError:
        return
    except Exception as error:  # noqa: BLE001 - an error ends its job alone.
        seconds = round(time.perf_counter() - started, 3)
        record = {"made": None, "document": {**failure(error), "seconds": seconds}}
        state = "failed"
    unchanged = False
    with suppress(Exception):  # The cause of the job's end may also end this.
        unchanged = mark == mark_of_source(task.source)
    # If the source changed meanwhile, the next batch tries again.
    send(event("end", state=state, source_mark=mark if unchanged else None, **record))


def failure(error: Exception) -> dict[str, Any]:
    """The document of a failed job: a message and, for a bug, its traceback."""
    if isinstance(error, InflateError):
        return {"error": str(error)}
    trace = "".join(traceback.format_exception(error))
    return {"error": f"a bug: {type(error).__name__}: {error}", "traceback": trace}


def _record(result: ConversionResult, started: float, mark: str | None) -> dict[str, Any]:
    from inflate.report.documents import conversion_document

    assert result.source_fingerprint is not None
    assert result.source_config is not None
    return {
        "source_key": source_key(result.source_fingerprint, result.source_config),
        "made": (mark, result.fingerprint),
        "document": {
            "conversion": conversion_document(result),
            "seconds": round(time.perf_counter() - started, 3),
        },
    }


def _device(wanted: str | None, gpu: int | None) -> str:
    """The device of a task: its own choice, or this worker's GPU."""
    if gpu is not None and wanted in (None, "auto", "cuda"):
        import torch

        if torch.cuda.is_available():
            return f"cuda:{gpu % torch.cuda.device_count()}"
    return wanted or "auto"
