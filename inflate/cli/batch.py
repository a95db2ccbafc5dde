"""``inflate batch``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import typer

from inflate.cli.console import note, print_json, say
from inflate.cli.options import JSON, QUIET, argument, local_path, option, takes
from inflate.cli.report import adding_done
from inflate.display import counted
from inflate.errors import ConfigError
from inflate.options import JOB_OPTIONS, ConvertOptions

# Typer reads these annotations on Python 3.10 too.
# ruff: noqa: UP045


@takes(ConvertOptions, JOB_OPTIONS)
def batch(
    manifest: list[str] = argument(
        "MANIFEST|GLOB...", "Manifest (.yaml), or checkpoints and glob patterns."
    ),
    output: Optional[str] = option(
        "-o", "--output", metavar="OUT", help="Folder, or a name such as out/{stem}.safetensors."
    ),
    dry_run: bool = option(
        "--dry-run", default=False, help="Print the jobs, sizes and memory; run nothing."
    ),
    jobs: Optional[int] = option(
        "-j", "--jobs", metavar="N", help="Worker processes. [default: 1; on Ray all that fit]"
    ),
    retry_failed: bool = option(
        "--retry-failed", default=False, help="Run failed jobs again, even if unchanged."
    ),
    fail_fast: bool = option(
        "--fail-fast", default=False, help="Start no further job after a failure."
    ),
    executor: str = option(
        "--executor",
        default="local",
        group="Advanced",
        words=("local", "ray"),
        help="Where jobs run; ray needs an extra.",
    ),
    ray_address: Optional[str] = option(
        "--ray-address",
        group="Advanced",
        metavar="ADDRESS",
        help="Ray cluster. [default: RAY_ADDRESS, or a new one]",
    ),
    memory: Optional[float] = option(
        "--memory",
        group="Advanced",
        metavar="GB",
        help="Memory for parallel jobs. [default: most free memory]",
    ),
    ledger: Optional[Path] = option(
        "--ledger",
        parser=local_path,
        group="Output",
        metavar="FILE",
        help="Record of finished jobs. [default: next to the outputs]",
    ),
    report_dir: Optional[Path] = option(
        "--report-dir",
        parser=local_path,
        group="Output",
        metavar="DIR",
        help="Write a report per job, and summaries, to this folder.",
    ),
    github_summary: bool = option(
        "--github-summary",
        default=False,
        group="Output",
        help="Add the summary to that of the GitHub step.",
    ),
    *,
    options: dict[str, Any],
    as_json: bool = JSON,
    quiet: bool = QUIET,
) -> None:
    """Convert and verify many checkpoints.

    Can be interrupted; run the same command to resume. Finished jobs are skipped if unchanged, and
    run again if changed. Options override the manifest. Exit code 0: parity held in every job;
    1: parity failed in some jobs; 2: some jobs could not run.
    """
    for name, value, least in (("--jobs", jobs, 1), ("--memory", memory, 0)):
        if value is not None and not value >= least:  # Also refuses NaN.
            raise ConfigError(f"{name} is {value}; expected {least} or more")
    from inflate.batch import reports
    from inflate.batch.batch import open_batch, run
    from inflate.cli.batch_view import print_dry_run, print_summary, watching
    from inflate.io.staging import make_folder
    from inflate.report.writing import append_summary, require_pages
    from inflate.report.writing import github_summary as summary_file

    # Check outputs before the work.
    summary = summary_file() if github_summary and not dry_run else None
    found = open_batch(manifest, output, options, ledger, report_dir=report_dir, summary=summary)
    if not quiet:
        for text in found.notes:
            note(text)
    if dry_run:
        document = reports.plan_document(found.jobs, found.ledger)
        if as_json:
            print_json(document)
        elif quiet:
            say(counted(len(found.jobs), "job"))
        else:
            print_dry_run(document)
        raise typer.Exit(2 if any(job["obstacles"] for job in document["jobs"]) else 0)
    if report_dir is not None:
        require_pages()
        make_folder(report_dir)
    # A float cannot represent every byte count above an exabyte.
    most = None if memory is None else int(min(memory, 1e9) * 1e9)
    with watching(len(found.jobs), lines=not (quiet or as_json), quiet=quiet) as watch:
        outcomes, seconds = run(
            found,
            watch,
            jobs=jobs,
            executor=executor,
            ray_address=ray_address,
            memory=most,
            retry_failed=retry_failed,
            fail_fast=fail_fast,
        )
    with adding_done("the jobs are finished; the same command writes their reports"):
        document = reports.batch_document(
            outcomes,
            ledger=str(found.ledger),
            executor=executor,
            seconds=seconds,
            linked=report_dir is not None,
        )
        if report_dir is not None:
            reports.write_reports(document, outcomes, report_dir)
        if summary is not None:
            append_summary(summary, reports.to_markdown(document))
    with adding_done("the jobs are finished"):
        if as_json:
            print_json(document)
        elif quiet:
            say(reports.headline(document))
        else:
            print_summary(document)
    if document["exit_code"]:
        raise typer.Exit(document["exit_code"])
