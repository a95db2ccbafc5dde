"""``inflate batch``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import typer

from inflate.cli.console import note, print_json, say
from inflate.cli.options import Json, Quiet, number, takes, whole_number
from inflate.cli.reporting import saying_done
from inflate.options import ConvertOptions

if TYPE_CHECKING:
    from inflate.batch.batch import Batch

# Typer reads these annotations on Python 3.10 too.
# ruff: noqa: UP045


@takes(ConvertOptions, ("job", "matrix"))
def batch(
    manifest: Annotated[
        list[str],
        typer.Argument(
            metavar="MANIFEST|GLOB...",
            show_default=False,
            help="A manifest (.yaml), or sources and patterns such as 'ckpts/*.safetensors'.",
        ),
    ],
    output: Annotated[
        Optional[str],
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="Folder, or name with {stem}, {time_mode} and so on. Default: beside each source.",
        ),
    ] = None,
    jobs: Annotated[
        Optional[int],
        typer.Option(
            "--jobs",
            "-j",
            parser=partial(whole_number, minimum=1),
            metavar="N",
            help="Worker processes. [default: 1; on Ray as many as fit]",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the jobs with sizes and memory; run nothing."),
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed and has not changed.")
    ] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Begin no further job after a first failure.")
    ] = False,
    executor: Annotated[
        Literal["local", "ray"], typer.Option(help="Where jobs run; ray needs the extra ray.")
    ] = "local",
    ray_address: Annotated[
        Optional[str],
        typer.Option(
            metavar="ADDRESS", help="Ray cluster to join. [default: RAY_ADDRESS, or one started]"
        ),
    ] = None,
    memory: Annotated[
        Optional[float],
        typer.Option(
            parser=partial(number, minimum=0),
            metavar="GB",
            help="Memory for jobs at once. [default: most of what is free]",
        ),
    ] = None,
    ledger: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE", help="Where results are remembered. [default: beside the outputs]"
        ),
    ] = None,
    report_dir: Annotated[
        Optional[Path],
        typer.Option(
            metavar="DIR",
            help="Write a parity report a job, and the summary as HTML, JSON, JUnit and Markdown.",
        ),
    ] = None,
    github_summary: Annotated[
        bool,
        typer.Option("--github-summary", help="Add the summary to $GITHUB_STEP_SUMMARY."),
    ] = False,
    *,
    options: dict[str, Any],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert and verify many checkpoints; stopped at any moment, the same command goes on.

    What is done and unchanged is skipped, what has changed is done again. Options win over the
    manifest. Exit code 0: parity held everywhere; 1: somewhere it did not; 2: some could not run.
    """
    from inflate.batch import reports
    from inflate.batch.batch import BatchOptions, open_batch, run
    from inflate.batch.files import make_folder
    from inflate.batch.summary import batch_document, headline
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
    batch_options = BatchOptions(jobs, executor, ray_address, bound, retry_failed, fail_fast)
    with watching(len(found.jobs), lines=not (quiet or as_json), quiet=quiet) as watch:
        outcomes, seconds = run(found, batch_options, watch)
    with saying_done("the jobs are finished; the same command writes their reports"):
        links = reports.write_job_reports(outcomes, report_dir) if report_dir else {}
        document = batch_document(
            outcomes, ledger=str(found.ledger), executor=executor, seconds=seconds, reports=links
        )
        if report_dir is not None:
            reports.write_summaries(document, report_dir)
        if summary is not None:
            append_summary(summary, reports.to_markdown(document))
    with saying_done("the jobs are finished"):
        if as_json:
            print_json(document)
        elif quiet:
            say(headline(document))
        else:
            print_summary(document)
    if document["exit_code"]:
        raise typer.Exit(document["exit_code"])


def _print_dry_run(found: Batch, *, as_json: bool, quiet: bool) -> None:
    from inflate.batch.batch import estimates
    from inflate.cli.batch_view import dry_run_document, print_dry_run

    weights = estimates(found)
    if as_json:
        print_json(dry_run_document(found, weights))
    elif not quiet:
        print_dry_run(found, weights)
    else:
        say(f"{len(found.jobs)} jobs")
    if any(weight is not None and weight.obstacles for weight in weights):
        raise typer.Exit(2)
