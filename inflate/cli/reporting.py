"""The reports that ``--report`` and ``--github-summary`` ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from inflate.errors import InflateError, OutputError

if TYPE_CHECKING:
    from inflate.parity.result import ParityReport


def check_wanted(reports: Sequence[str], *, github_summary: bool) -> list[str | Path]:
    """Refuse what could not be written, before anything is computed.

    Returns:
        The files that :func:`write_wanted` will write.

    Raises:
        InflateError: a report or the summary could not be written.
    """
    if not reports and not github_summary:
        return []
    from inflate.report.writing import check_reports
    from inflate.report.writing import github_summary as summary_file

    check_reports(reports)
    return [*reports, *([summary_file()] if github_summary else [])]


@contextmanager
def saying_done(done: str) -> Iterator[None]:
    """Add what is already done to an error or Ctrl-C that stops the writing of results."""
    try:
        with on_ctrl_c(lambda: done):
            yield
    except InflateError as error:
        raise OutputError(f"{error}; {done}") from error


@contextmanager
def on_ctrl_c(left: Callable[[], str]) -> Iterator[None]:
    """Say in the exception of Ctrl-C what was done before, which is printed."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(left()) from stop


def write_wanted(report: ParityReport, reports: Sequence[str], *, github_summary: bool) -> None:
    """Write the reports and the summary that were asked for.

    Raises:
        InflateError: one of them cannot be written.
    """
    if not reports and not github_summary:
        return
    from inflate.report.documents import parity_document
    from inflate.report.markdown import as_markdown
    from inflate.report.writing import append_summary, write_report
    from inflate.report.writing import github_summary as summary_file

    document = parity_document(report)
    for path in reports:
        write_report(document, path, report.pictures)
    if github_summary:
        append_summary(summary_file(), as_markdown(document))
