"""``inflate convert``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from inflate.cli.console import note, print_json, progress_bar, say_line
from inflate.cli.options import GithubSummary, Json, Quiet, Reports, SourceLocation, takes
from inflate.cli.reporting import check_wanted, saying_done, write_wanted
from inflate.errors import ConfigError
from inflate.options import ConvertOptions

if TYPE_CHECKING:
    from inflate.workflow import ConversionResult

# Typer reads these annotations on Python 3.10 too.
# ruff: noqa: UP045


@takes(ConvertOptions)
def convert(
    source: SourceLocation,
    output: Annotated[
        Optional[str],
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="Path or URL. Default: SOURCE's stem + .video.safetensors.",
        ),
    ] = None,
    *,
    options: ConvertOptions,
    report_to: Reports = None,
    github_summary: GithubSummary = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a video checkpoint of an image autoencoder's, checked before it is published.

    Copies the spatial weights, starts the temporal layers so that the output equals the image
    decoder's, compares the two on the GPU (or CPU), and only then gives the file its name.
    """
    if (report_to or github_summary) and (options.dry_run or options.skip_parity):
        raise ConfigError(
            "--report and --github-summary write what the check found, and "
            f"{'--dry-run' if options.dry_run else '--skip-parity'} leaves the check out; drop one"
        )
    reports = check_wanted(report_to or (), github_summary=github_summary)
    from inflate import workflow

    with progress_bar(quiet) as progress:
        result = workflow.convert_with(source, output, options, reports=reports, progress=progress)
    if options.dry_run:
        done = "nothing was written"
    elif result.output is None:
        done = f"parity did not hold; nothing was published at {result.destination}"
    else:
        done = f"{result.destination} was published"
    with saying_done(done):
        if result.parity is not None:
            write_wanted(result.parity, report_to or (), github_summary=github_summary)
        _print(result, source, dry_run=options.dry_run, as_json=as_json, quiet=quiet)
    if not result.passed:
        raise typer.Exit(1)


def _print(
    result: ConversionResult, source: str, *, dry_run: bool, as_json: bool, quiet: bool
) -> None:
    if as_json:
        from inflate.report.documents import conversion_document, plan_document

        document = conversion_document(result)
        if dry_run:
            document["dry_run"] = plan_document(result.plan)
        print_json(document)
    elif quiet:
        if dry_run:
            say_line(result.destination)
        elif result.output is not None:
            say_line(result.output)
    else:
        from inflate.cli.render import print_conversion, print_plan

        if dry_run:
            print_plan(result.plan)
        else:
            print_conversion(result, source)
    if not quiet:
        for text in result.notes:
            note(text)
