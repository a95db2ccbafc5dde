"""The reports that ``--report`` and ``--github-summary`` ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inflate.parity.result import ParityReport


def check_wanted(reports: Sequence[str], *, github_summary: bool) -> None:
    """Refuse what could not be written, before anything is computed.

    Raises:
        InflateError: a report or the summary could not be written.
    """
    if not reports and not github_summary:
        return
    from inflate.report.writing import check_reports
    from inflate.report.writing import github_summary as summary_file

    check_reports(reports)
    if github_summary:
        summary_file()


def write_wanted(report: ParityReport, reports: Sequence[str], *, github_summary: bool) -> None:
    """Write the reports and the summary that were asked for.

    Raises:
        InflateError: one of them cannot be written.
    """
    if not reports and not github_summary:
        return
    from inflate.report.documents import parity_document
    from inflate.report.writing import write_github_summary, write_report

    document = parity_document(report)
    for path in reports:
        write_report(document, path, report.pictures)
    if github_summary:
        write_github_summary(document)
