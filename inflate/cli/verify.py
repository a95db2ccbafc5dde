"""``inflate verify``."""

from __future__ import annotations

from typing import Optional

import typer

import inflate
from inflate.cli.console import note, print_json, say_line
from inflate.cli.options import GITHUB_SUMMARY, JSON, QUIET, REPORTS, SOURCES, argument, takes
from inflate.cli.progress import progress_bar
from inflate.cli.report import adding_done, check_wanted, write_wanted
from inflate.options import VerifyOptions

# Typer reads these annotations on Python 3.10 too.
# ruff: noqa: UP045


@takes(VerifyOptions)
def verify(
    reference: str = argument("REFERENCE", f"Image {SOURCES}"),
    candidate: Optional[str] = argument(
        "CANDIDATE", "Video checkpoint. [default: REFERENCE is one]", None
    ),
    *,
    options: VerifyOptions,
    report_to: Optional[list[str]] = REPORTS,
    github_summary: bool = GITHUB_SUMMARY,
    as_json: bool = JSON,
    quiet: bool = QUIET,
) -> None:
    """Compare a video checkpoint with its image checkpoint.

    Compares every copied tensor of CANDIDATE with REFERENCE, then the outputs of both decoders on
    probes of random frames, layer by layer. A single video checkpoint is compared with its own
    image layers. Exit code 0: equal, or within tolerance; 1: not equal, or the self-test missed a
    corruption; 2: it could not run.
    """
    reports = check_wanted(report_to or (), github_summary=github_summary)
    with progress_bar(quiet) as progress:
        report = inflate.verify(
            reference,
            candidate,
            **options.arguments(),
            pictures=any(path.lower().endswith(".html") for path in report_to or ()),
            reports=reports,
            progress=progress,
        )
    from inflate.report.documents import parity_document
    from inflate.report.summary import missed_damages, verdict_text

    document = parity_document(report)
    with adding_done(f"the verdict is {report.verdict}"):
        write_wanted(report, report_to or (), github_summary=github_summary)
        if as_json:
            print_json(document)
        elif quiet:
            say_line(f"{document['candidate']['path']}: {verdict_text(document)}")
        else:
            from inflate.cli.render_parity import print_document

            print_document(document)
            for text in report.notes:
                note(text)
    # A check that misses a corruption proves nothing about this candidate.
    if not report.passed or missed_damages(document):
        raise typer.Exit(1)
