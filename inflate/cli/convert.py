"""``inflate convert``."""

from __future__ import annotations

from typing import Optional

import typer

import inflate
from inflate.cli.console import note, print_json, say_line
from inflate.cli.options import GITHUB_SUMMARY, JSON, QUIET, REPORTS, SOURCE, option, takes
from inflate.cli.progress import progress_bar
from inflate.cli.report import adding_done, check_wanted, write_wanted
from inflate.errors import ConfigError
from inflate.options import ConvertOptions

# Typer reads these annotations on Python 3.10 too.
# ruff: noqa: UP045


@takes(ConvertOptions)
def convert(
    source: str = SOURCE,
    output: Optional[str] = option(
        "-o", "--output", metavar="OUT", help="Path or URL. [default: STEM.video.safetensors]"
    ),
    *,
    options: ConvertOptions,
    report_to: Optional[list[str]] = REPORTS,
    github_summary: bool = GITHUB_SUMMARY,
    as_json: bool = JSON,
    quiet: bool = QUIET,
    verbose: bool = option("--verbose", default=False, help="With --dry-run: list every tensor."),
) -> None:
    """Convert an image autoencoder to a checked video checkpoint.

    Copies the spatial weights, initialises the temporal layers so that the output equals that of
    the image decoder, compares both decoders, and only then publishes the file.
    """
    if (report_to or github_summary) and (options.dry_run or options.skip_parity):
        raise ConfigError(
            "--report and --github-summary need the parity check, which "
            f"{'--dry-run' if options.dry_run else '--skip-parity'} skips; drop one of them"
        )
    reports = check_wanted(report_to or (), github_summary=github_summary)
    with progress_bar(quiet, "reading") as progress:
        result = inflate.convert(
            source, output, **options.arguments(), reports=reports, progress=progress
        )
    if options.dry_run:
        done = "nothing was written"
    elif result.output is None:
        done = f"parity did not hold; nothing was published at {result.destination}"
    else:
        done = f"{result.destination} was published"
    with adding_done(done):
        if result.parity is not None:
            write_wanted(result.parity, report_to or (), github_summary=github_summary)
        if as_json:
            from inflate.report.documents import conversion_document, plan_document

            document = conversion_document(result)
            if options.dry_run:
                document["dry_run"] = plan_document(result.plan)
            print_json(document)
        elif quiet:
            if result.passed:
                say_line(result.destination)
        else:
            from inflate.cli.render import print_conversion, print_plan

            if options.dry_run:
                print_plan(result.plan, source, result.destination, verbose=verbose)
            else:
                print_conversion(result, source)
        if not quiet:
            for text in result.notes:
                note(text)
    if not result.passed:
        raise typer.Exit(1)
