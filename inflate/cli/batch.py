"""``inflate batch``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from inflate.cli.console import note, print_json, say
from inflate.cli.options import Json, Quiet, argument, number, option, takes, whole_number
from inflate.cli.report import adding_done
from inflate.options import ConvertOptions

if TYPE_CHECKING:
    from inflate.batch.batch import Batch

# Typer reads these annotations on Python 3.10 too.
# ruff: noqa: UP045


@takes(ConvertOptions, ("job", "matrix"))
def batch(
    manifest: Annotated[
        list[str],
        argument("MANIFEST|GLOB...", "Manifest (.yaml), or checkpoints and patterns of names."),
    ],
    output: Annotated[
        Optional[str],
        option(
            "-o", "--output", metavar="OUT", help="Folder or name such as out/{stem}.safetensors."
        ),
    ] = None,
    dry_run: Annotated[
        bool, option("--dry-run", help="Print the jobs, sizes and memory; run nothing.")
    ] = False,
    jobs: Annotated[
        Optional[int],
        option(
            "-j",
            "--jobs",
            parser=partial(whole_number, minimum=1),
            metavar="N",
            help="Worker processes. [default: 1; on Ray all that fit]",
        ),
    ] = None,
    retry_failed: Annotated[
        bool, option("--retry-failed", help="Run unchanged jobs that failed before again.")
    ] = False,
    fail_fast: Annotated[
        bool, option("--fail-fast", help="Start no further job after a failure.")
    ] = False,
    executor: Annotated[
        str,
        option(
            "--executor",
            group="Advanced",
            words=("local", "ray"),
            help="Where jobs run; ray needs an extra.",
        ),
    ] = "local",
    ray_address: Annotated[
        Optional[str],
        option(
            "--ray-address",
            group="Advanced",
            metavar="ADDRESS",
            help="Ray cluster. [default: RAY_ADDRESS, or a new one]",
        ),
    ] = None,
    memory: Annotated[
        Optional[float],
        option(
            "--memory",
            group="Advanced",
            parser=partial(number, minimum=0),
            metavar="GB",
            help="Memory for parallel jobs. [default: most of the free]",
        ),
    ] = None,
    ledger: Annotated[
        Optional[Path],
        option(
            "--ledger",
            group="Output",
            metavar="FILE",
            help="Record of finished jobs. [default: next to the outputs]",
        ),
    ] = None,
    report_dir: Annotated[
        Optional[Path],
        option(
            "--report-dir",
            group="Output",
            metavar="DIR",
            help="Write a report per job, and summaries, to this folder.",
        ),
    ] = None,
    github_summary: Annotated[
        bool,
        option(
            "--github-summary", group="Output", help="Add the summary to that of the GitHub step."
        ),
    ] = False,
    *,
    options: dict[str, Any],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert and verify many checkpoints.

    Can be interrupted; run the same command to resume. Unchanged finished jobs are skipped, changed
    ones run again. Options override the manifest. Exit code 0: parity held in every job; 1: in some
    it did not; 2: some could not run.
    """
    from inflate.batch import reports
    from inflate.batch.batch import open_batch, run
    from inflate.batch.files import make_folder
    from inflate.cli.batch_view import print_summary, watching
    from inflate.report.writing import append_summary, require_pages
    from inflate.report.writing import github_summary as summary_file

    # What cannot be written is better known before the work.
    summary = summary_file() if github_summary and not dry_run else None
    found = open_batch(manifest, output, options, ledger, report_dir=report_dir, summary=summary)
    if not quiet:
        for text in found.notes:
            note(text)
    if dry_run:
        _print_dry_run(found, as_json=as_json, quiet=quiet)
        return
    if report_dir is not None:
        require_pages()
        make_folder(report_dir)
    bound = (
        None if memory is None else int(min(memory, 1e9) * 1e9)
    )  # Beyond, no float holds it in bytes.
    with watching(len(found.jobs), lines=not (quiet or as_json), quiet=quiet) as watch:
        outcomes, seconds = run(
            found,
            watch,
            jobs=jobs,
            executor=executor,
            ray_address=ray_address,
            memory=bound,
            retry_failed=retry_failed,
            fail_fast=fail_fast,
        )
    with adding_done("the jobs are finished; the same command writes their reports"):
        links = reports.write_job_reports(outcomes, report_dir) if report_dir else {}
        document = reports.batch_document(
            outcomes, ledger=str(found.ledger), executor=executor, seconds=seconds, reports=links
        )
        if report_dir is not None:
            reports.write_summaries(document, report_dir)
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


def _print_dry_run(found: Batch, *, as_json: bool, quiet: bool) -> None:
    from inflate.batch.jobs import estimate
    from inflate.cli.batch_view import dry_run_document, print_dry_run

    weights = [estimate(job) for job in found.jobs]
    if as_json:
        print_json(dry_run_document(found, weights))
    elif not quiet:
        print_dry_run(found, weights)
    else:
        say(f"{len(found.jobs)} jobs")
    if any(weight is not None and weight.obstacles for weight in weights):
        raise typer.Exit(2)
