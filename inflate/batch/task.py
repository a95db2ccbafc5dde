"""What a worker does with one task, wherever it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflate.batch.executor import Task, failure
from inflate.batch.marks import Mark, hash_of_source, mark_of_output, mark_of_source
from inflate.errors import OutputError
from inflate.io.remote import is_remote
from inflate.options import ConvertOptions

if TYPE_CHECKING:
    from inflate.workflow import ConversionResult

Tell = Callable[[str, Mapping[str, Any]], None]
Ask = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]

_PROGRESS_EVERY = 0.1
"""Seconds between two reports of progress."""


class StoppedError(Exception):
    """The batch does not want the result any more."""


def run_task(task: Task, tell: Tell, ask: Ask, gpu: int | None = None) -> None:
    """Convert, and tell what came of it: a ``begin``, perhaps a ``publish``, an ``end``.

    The record of ``end`` has ``state`` (``held``, ``unequal`` or ``failed``), the source's hash and
    mark, and a ``document`` as :mod:`inflate.batch.records` keeps it.

    Args:
        task: what to do.
        tell: sends a kind of event and its content.
        ask: sends one and waits for the answer.
        gpu: which of the CUDA devices that torch sees is this worker's, counted from 0 and
            wrapped around, for tasks that leave the choice open.
    """
    from inflate.workflow import convert_with

    started = time.perf_counter()
    told = 0.0

    def progress(phase: str, done: int, total: int) -> None:
        nonlocal told
        now = time.perf_counter()
        if now - told > _PROGRESS_EVERY or done == total:
            told = now
            tell("progress", {"phase": phase, "done": done, "total": total})

    def publishing(result: ConversionResult, staged: Path) -> None:
        record = _record(result, started)
        if not record["source_sha256"]:  # A remote source that was read in part.
            record["source_sha256"] = hash_of_source(task.source)
        record["output_mark"] = None if is_remote(task.output) else _text(mark_of_output(staged))
        if not ask("publish", record).get("go"):
            raise StoppedError

    answer = ask("begin", {})
    if not answer.get("go"):
        return
    options = {**task.options, "overwrite": bool(answer.get("overwrite"))}
    options["device"] = _device(options.get("device"), gpu)
    before: Mark | None = None
    try:
        before = mark_of_source(task.source)
        _make_folder(task.output)
        result = convert_with(
            task.source,
            task.output,
            ConvertOptions(**options),
            progress=progress,
            before_publish=publishing,
        )
        record = _record(result, started)
        if not record["source_sha256"]:  # A remote source that was read in part.
            record["source_sha256"] = hash_of_source(task.source)
        # A source that changed meanwhile is not known by how it looks now.
        record["source_mark"] = _text(before) if before == mark_of_source(task.source) else None
        record["output_mark"] = _text(mark_of_output(task.output)) if result.passed else None
    except StoppedError:
        return
    except Exception as error:  # noqa: BLE001 - whatever ends one job, the others go on.
        record = _failure(task, error, started, before)
    tell("end", record)


def _record(result: ConversionResult, started: float) -> dict[str, Any]:
    from inflate.report.documents import conversion_document

    return {
        "state": "held" if result.passed else "unequal",
        "source_sha256": result.source_sha256,
        "output_sha256": result.sha256,
        "document": {
            "conversion": conversion_document(result),
            "seconds": round(time.perf_counter() - started, 3),
        },
    }


def _failure(task: Task, error: Exception, started: float, before: Mark | None) -> dict[str, Any]:
    document = {**failure(error), "seconds": round(time.perf_counter() - started, 3)}
    # A source that cannot be looked at, or that changed meanwhile, is not known: the next batch
    # tries again.
    unknown = {"source_mark": None, "source_sha256": None}
    record: dict[str, Any] = {"state": "failed", "document": document, **unknown}
    with suppress(Exception):  # What cannot be looked at may be what ended the job.
        sha256 = hash_of_source(task.source)
        if before is not None and before == mark_of_source(task.source):
            record |= {"source_mark": _text(before), "source_sha256": sha256}
    return record


def _device(asked: str | None, gpu: int | None) -> str:
    """The device of a task: what it asks for, or where that is open, this worker's own GPU."""
    if gpu is None or asked not in (None, "auto", "cuda"):
        return asked or "auto"
    import torch

    if not torch.cuda.is_available():
        return asked or "auto"
    return f"cuda:{gpu % torch.cuda.device_count()}"


def _make_folder(output: str) -> None:
    if is_remote(output):
        return
    folder = Path(output).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror}") from error


def _text(mark: Mark | None) -> str | None:
    return mark.text() if mark else None
