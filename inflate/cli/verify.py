"""``inflate verify``."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from inflate.cli.console import note, print_json, progress_bar, say
from inflate.cli.options import GithubSummary, Json, Quiet, Reports, SourceLocation, takes
from inflate.cli.reporting import check_wanted, saying_done, write_wanted
from inflate.options import VerifyOptions

# Typer reads these annotations on Python 3.10 too.
# ruff: noqa: UP045


@takes(VerifyOptions)
def verify(
    reference: SourceLocation,
    candidate: Annotated[
        Optional[str],
        typer.Argument(
            show_default=False,
            help="The video checkpoint. Without it REFERENCE is one, compared with its own image "
            "layers.",
        ),
    ] = None,
    *,
    options: VerifyOptions,
    report_to: Reports = None,
    github_summary: GithubSummary = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare a video checkpoint with the image checkpoint it comes from.

    Every copied tensor is compared with its source, then both decoders run on probes of random
    frames, layer by layer. Exit code 0: they are equal, or within tolerance; 1: they are not, or
    the self-test found damage that is not caught; 2: it could not run.
    """
    reports = check_wanted(report_to or (), github_summary=github_summary)
    from inflate import workflow

    with progress_bar(quiet) as progress:
        report = workflow.verify_with(
            reference,
            candidate,
            options,
            pictures=any(path.lower().endswith(".html") for path in report_to or ()),
            reports=reports,
            progress=progress,
        )
    with saying_done(f"the verdict is {report.verdict}"):
        write_wanted(report, report_to or (), github_summary=github_summary)
        if as_json:
            from inflate.report.documents import parity_document

            print_json(parity_document(report))
        elif quiet:
            from inflate.report.documents import parity_document
            from inflate.report.summary import verdict_text

            say(verdict_text(parity_document(report)))
        else:
            from inflate.cli.render_parity import print_parity

            print_parity(report)
            for text in report.notes:
                note(text)
    # A check that lets damage through has proven nothing, whatever it says of this candidate.
    if not report.passed or (report.self_test is not None and not report.self_test.passed):
        raise typer.Exit(1)
