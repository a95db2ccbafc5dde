"""A whole batch: from a manifest to its summary. Values in, values out; nothing is printed here."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inflate.batch.estimate import RUNTIME, Estimate, estimate, rough_memory
from inflate.batch.executor import Executor
from inflate.batch.jobs import Expanded, Job, expand
from inflate.batch.ledger import Ledger
from inflate.batch.local import LocalExecutor
from inflate.batch.run import Outcome, Watch, run_batch
from inflate.batch.survey import survey
from inflate.config.manifest import Entry, Manifest, read_manifest
from inflate.errors import ConfigError
from inflate.free_memory import free_memory
from inflate.remote import is_remote

LEDGER = "inflate-ledger.sqlite"
"""What a ledger is called that nobody named."""

_SHARE = 0.8
"""Of the memory that is free, what jobs may take by their estimates."""


@dataclass(frozen=True)
class Settings:
    """How a batch is run; ``memory`` in bytes, by default most of what is free."""

    jobs: int | None = None
    executor: str = "local"
    ray_address: str | None = None
    memory: int | None = None
    retry_failed: bool = False
    fail_fast: bool = False


@dataclass(frozen=True)
class Batch:
    """What a batch is: its jobs, and where its ledger lies."""

    jobs: tuple[Job, ...]
    ledger: Path
    notes: tuple[str, ...] = ()


def open_manifest(path: Path, options: dict[str, Any], ledger: Path | None = None) -> Batch:
    """The batch of a manifest; ``options`` win over what it says.

    Raises:
        ConfigError: everything that is wrong with it, at once.
    """
    manifest = read_manifest(path)
    entries = tuple(entry.with_options(options) for entry in manifest.entries)
    manifest = Manifest(manifest.folder, entries, manifest.ledger, manifest.problems)
    found = expand(manifest)
    if ledger is None and manifest.ledger is not None:
        ledger = manifest.folder / manifest.ledger
    return _batch(found, ledger)


def open_sources(
    sources: Sequence[str],
    output: str | None,
    options: dict[str, Any],
    ledger: Path | None = None,
) -> Batch:
    """The batch of sources and patterns, without a manifest; ``output`` is a folder or a template.

    Raises:
        ConfigError: everything that is wrong with it, at once.
    """
    if output is not None and "{" not in output and not output.endswith(".safetensors"):
        output = output.rstrip("/") + "/"  # A folder, whether it is there yet or not.
    entries = tuple(Entry(source, source, output, options) for source in sources)
    return _batch(expand(Manifest(Path(), entries)), ledger)


def estimates(batch: Batch) -> list[Estimate | None]:
    """What each job will weigh, from headers alone; None of a source that lies elsewhere."""
    return [None if is_remote(job.source) else estimate(job) for job in batch.jobs]


def run(batch: Batch, settings: Settings, watch: Watch) -> tuple[list[Outcome], float]:
    """Run a batch to its end: what became of each job, and the seconds that it took.

    Raises:
        InflateError: it cannot be started; of jobs that fail, their outcomes tell.
    """
    started = time.perf_counter()
    if settings.executor not in ("local", "ray"):
        raise ConfigError(f"--executor is {settings.executor!r}; expected local or ray")
    with Ledger(batch.ledger) as ledger:
        seen = survey(batch.jobs, ledger, retry_failed=settings.retry_failed)
        left = [one.job for one in seen if one.standing != "settled"]
        with _executor(settings, ledger, len(left)) as executor:
            outcomes = run_batch(
                seen,
                ledger,
                executor,
                watch,
                retry_failed=settings.retry_failed,
                fail_fast=settings.fail_fast,
                memory=_bound(settings, left, executor.slots),
            )
    return outcomes, time.perf_counter() - started


@contextmanager
def _executor(settings: Settings, ledger: Ledger, left: int) -> Iterator[Executor]:
    executor: Executor
    if settings.executor == "local" or not left:
        executor = LocalExecutor(settings.jobs or 1, ledger.owner.path)
    else:
        from inflate.batch.cluster import RayExecutor

        executor = RayExecutor(settings.jobs, settings.ray_address)
    try:
        yield executor
    finally:
        executor.close()


def _bound(settings: Settings, jobs: Sequence[Job], slots: int) -> int | None:
    """The bytes that jobs may take together; None where no bound could ever bind."""
    if settings.executor == "ray":
        # Ray places tasks by their estimates: it knows the memory of each machine, we do not.
        return settings.memory if settings.memory is not None else 1 << 62
    if slots == 1:
        return None
    limit = settings.memory
    if limit is None:
        free = free_memory()
        if free is None:
            return None
        limit = int((free - slots * RUNTIME) * _SHARE)
        rough = sorted((rough_memory(job) for job in jobs), reverse=True)
        if sum(rough[:slots]) <= limit:
            return None
    return limit


def _batch(found: Expanded, ledger: Path | None) -> Batch:
    path = ledger or Path(os.path.normpath(found.folder / LEDGER))
    return Batch(found.jobs, path, found.notes)
