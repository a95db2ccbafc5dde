"""A whole batch: from a manifest to its summary. Values in, values out; nothing is printed here."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inflate.batch.estimate import RUNTIME, Estimate, estimate, rough_memory
from inflate.batch.executor import Executor
from inflate.batch.jobs import Job, expand, output_folder
from inflate.batch.ledger import Ledger, files_of_ledger
from inflate.batch.local import LocalExecutor
from inflate.batch.reports import files_of_job_report, files_of_reports
from inflate.batch.run import Outcome, Watch, run_batch
from inflate.batch.survey import survey
from inflate.config.loading import config_files
from inflate.config.manifest import Entry, Manifest, read_manifest
from inflate.display import Displayed, counted
from inflate.errors import ConfigError, OutputError
from inflate.io.files import read_files
from inflate.io.free_memory import free_memory
from inflate.io.protected import conflicts, place_of
from inflate.io.remote import is_remote, local_path
from inflate.io.staging import outputs_of
from inflate.workflow.sources import check_working_directory

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


@dataclass(frozen=True, repr=False)
class Batch(Displayed):
    """What a batch is: its jobs, and where its ledger lies."""

    jobs: tuple[Job, ...]
    ledger: Path
    notes: tuple[str, ...] = ()

    def _facts(self) -> dict[str, object]:
        return {"jobs": counted(len(self.jobs), "job"), "ledger": self.ledger}


def open_manifest(
    path: Path,
    options: dict[str, Any],
    ledger: Path | None = None,
    *,
    report_dir: Path | None = None,
    summary: Path | None = None,
) -> Batch:
    """The batch of a manifest; ``options`` win over what it says.

    Args:
        path: the manifest.
        options: of ``convert``.
        ledger: where the ledger lies, if not where the manifest says.
        report_dir: the folder for reports, if they will be written.
        summary: the file that the summary will be added to, likewise.

    Raises:
        ConfigError: everything that is wrong with it, at once.
        OutputError: something that is written would replace a file that is read.
    """
    manifest = read_manifest(path)
    entries = tuple(entry.with_options(options) for entry in manifest.entries)
    if ledger is None and manifest.ledger is not None:
        ledger = manifest.folder / manifest.ledger
    return _batch(replace(manifest, entries=entries), ledger, report_dir, summary)


def open_sources(
    sources: Sequence[str],
    output: str | None,
    options: dict[str, Any],
    ledger: Path | None = None,
    *,
    report_dir: Path | None = None,
    summary: Path | None = None,
) -> Batch:
    """The batch of sources and patterns, without a manifest; ``output`` is a folder or a template.

    The rest is as for :func:`open_manifest`.

    Raises:
        ConfigError: everything that is wrong with it, at once.
        OutputError: something that is written would replace a file that is read.
    """
    if output is not None and "{" not in output and not output.endswith(".safetensors"):
        output = output.rstrip("/") + "/"  # A folder, whether it is there yet or not.
    entries = tuple(Entry(source, source, output, options) for source in sources)
    return _batch(Manifest(Path(), entries), ledger, report_dir, summary)


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
        executor = LocalExecutor(min(settings.jobs or 1, max(left, 1)), ledger.owner.path)
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


def _batch(
    manifest: Manifest, ledger: Path | None, report_dir: Path | None, summary: Path | None
) -> Batch:
    check_working_directory()
    ledger = ledger or Path(os.path.normpath(output_folder(manifest) / LEDGER))
    reports = [] if report_dir is None else files_of_reports(report_dir)
    own = [*files_of_ledger(ledger), *reports]
    found = expand(manifest, own)
    outputs = {place_of(job.output): job for job in found.jobs}  # Collisions are found already.
    written: list[str | Path] = [*own, *([] if summary is None else [summary])]
    for job in outputs.values():
        written += outputs_of(job.output, folder=job.options.get("layout") == "diffusers")
        written += [] if report_dir is None else files_of_job_report(report_dir, job.output)
    problems = [*found.problems, *conflicts(written, _read(found.jobs, manifest))]
    if problems:
        error = ConfigError if found.problems else OutputError
        raise error("the batch has errors, and nothing was started:", list(dict.fromkeys(problems)))
    return Batch(found.jobs, ledger, found.notes)


def _read(jobs: Iterable[Job], manifest: Manifest) -> Iterator[str | Path]:
    """Every file that a batch reads, as far as that is known before downloads."""
    if manifest.path is not None:
        yield manifest.path
    for config in dict.fromkeys(job.options.get("config") for job in jobs):
        yield from config_files(config)
    for source in dict.fromkeys(job.source for job in jobs):
        yield from [source] if is_remote(source) else read_files(local_path(source))
