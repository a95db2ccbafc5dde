"""Run a whole batch, from a manifest to the results, without printing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflate.batch.jobs import RUNTIME, Job, expand, output_folder
from inflate.batch.ledger import Ledger, check_ours, files_of_ledger
from inflate.batch.local import LocalExecutor
from inflate.batch.reports import files_of_job_report, files_of_reports
from inflate.batch.run import Run, Watch
from inflate.batch.survey import Outcome, survey
from inflate.config.loading import config_files
from inflate.config.manifest import Entry, Manifest, read_manifest
from inflate.errors import ConfigError, OutputError
from inflate.io.files import read_files
from inflate.io.free_memory import free_memory
from inflate.io.location import is_remote
from inflate.io.protected import conflicts, place_of
from inflate.io.staging import outputs_of
from inflate.workflow.sources import check_working_directory

if TYPE_CHECKING:
    from inflate.batch.cluster import RayExecutor

LEDGER = "inflate-ledger.sqlite"
"""The default name of a ledger."""

_SHARE = 0.8
"""The share of free memory that all running jobs together may use, by their estimates."""


@dataclass(frozen=True)
class Batch:
    """The jobs of a batch, and the path of its ledger."""

    jobs: tuple[Job, ...]
    ledger: Path
    notes: tuple[str, ...] = ()


def open_batch(
    arguments: Sequence[str],
    output: str | None,
    options: dict[str, Any],
    ledger: Path | None = None,
    *,
    report_dir: Path | None = None,
    summary: Path | None = None,
) -> Batch:
    """Build a batch from a manifest (``.yaml``), or from sources and patterns and an ``output``.

    ``options`` of ``convert`` and ``ledger`` override the manifest. ``report_dir`` and ``summary``
    are the places of reports that are written later.

    Raises:
        ConfigError: the batch has errors; lists all of them.
        OutputError: an output is also a source.
    """
    check_working_directory()
    manifests = [text for text in arguments if text.lower().endswith((".yaml", ".yml"))]
    if not manifests:
        if output is not None and "{" not in output and not output.endswith(".safetensors"):
            output = output.rstrip("/") + "/"  # A folder that may not exist yet.
        entries = tuple(Entry("", source, output, options) for source in arguments)
        manifest = Manifest(Path(), entries)
    elif len(arguments) > 1:
        raise ConfigError(f"{manifests[0]} is a manifest; expected one manifest, or only sources")
    elif output is not None:
        raise ConfigError("-o is for sources and patterns; a manifest names its own outputs")
    else:
        manifest = read_manifest(Path(manifests[0]))
        entries = tuple(entry.with_options(options) for entry in manifest.entries)
        manifest = replace(manifest, entries=entries)
        if ledger is None and manifest.ledger is not None:
            ledger = manifest.folder / manifest.ledger
    ledger = ledger or Path(os.path.normpath(output_folder(manifest) / LEDGER))
    reports = [] if report_dir is None else files_of_reports(report_dir)
    own = [*files_of_ledger(ledger), *reports]
    jobs, wrong, notes = expand(manifest, own)
    outputs = {place_of(job.output): job for job in jobs}  # Collisions were found above.
    written: list[str | Path] = [*own, *([] if summary is None else [summary])]
    for job in outputs.values():
        written += outputs_of(job.output, folder=job.options.get("layout") == "diffusers")
        written += [] if report_dir is None else files_of_job_report(report_dir, job.output)
    problems = [*wrong, *conflicts(written, _read(jobs, manifest))]
    if problems:
        error = ConfigError if wrong else OutputError
        raise error("the batch has errors, and nothing was started:", list(dict.fromkeys(problems)))
    check_ours(ledger)
    return Batch(tuple(jobs), ledger, tuple(notes))


def run(
    batch: Batch,
    watch: Watch,
    *,
    jobs: int | None = None,
    executor: str = "local",
    ray_address: str | None = None,
    memory: int | None = None,
    retry_failed: bool = False,
    fail_fast: bool = False,
) -> tuple[list[Outcome], float]:
    """Run a batch to its end; returns the result of every job and the total seconds.

    ``memory`` is in bytes; by default most of the free memory.

    Raises:
        InflateError: the batch cannot be started; errors of jobs are in their results.
    """
    started = time.perf_counter()
    with Ledger(batch.ledger, watch.waits) as ledger:
        seen = survey(batch.jobs, ledger, retry_failed=retry_failed)
        left = sum(not one.reused for one in seen)
        workers: LocalExecutor | RayExecutor
        if executor == "local" or not left:
            workers = LocalExecutor(min(jobs or 1, max(left, 1)), ledger.lock)
            if memory is None and workers.slots > 1 and (free := free_memory()) is not None:
                memory = int((free - workers.slots * RUNTIME) * _SHARE)
        else:
            from inflate.batch import cluster

            workers = cluster.RayExecutor(jobs, ray_address)
            # Ray schedules tasks by their estimates and the memory of each machine.
            memory = memory or 1 << 62
        with closing(workers):
            outcomes = Run(
                seen, ledger, workers, watch, fail_fast=fail_fast, memory=memory
            ).outcomes()
    return outcomes, time.perf_counter() - started


def _read(jobs: Iterable[Job], manifest: Manifest) -> Iterator[str | Path]:
    """Every file that a batch reads, as far as known before downloads."""
    if manifest.path is not None:
        yield manifest.path
    for config in dict.fromkeys(job.options.get("config") for job in jobs):
        yield from config_files(config)
    for source in dict.fromkeys(job.source for job in jobs):
        yield from [source] if is_remote(source) else read_files(Path(source))
