"""Reports as files: their kind follows from the ending, and they appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inflate.errors import ConfigError, InflateError, OutputError, needs_extra
from inflate.io.leftovers import write_atomically
from inflate.io.protected import check_written
from inflate.report.compact import as_json
from inflate.report.junit import as_junit
from inflate.report.markdown import as_markdown
from inflate.report.summary import Document

if TYPE_CHECKING:
    from inflate.parity.result import Picture

ENDINGS = ("html", "json", "md", "xml")
"""The endings of reports: a page, a document, Markdown, JUnit."""
SUMMARY = "GITHUB_STEP_SUMMARY"


def write_report(document: Document, path: str | Path, pictures: Sequence[Picture] = ()) -> None:
    """Write a parity document as what the ending of ``path`` says; an older report is replaced.

    Args:
        document: the report, as ``inflate/parity-report/1``.
        path: where to: ``.html``, ``.json``, ``.md`` or ``.xml`` (JUnit).
        pictures: frames for the page; the document does not hold them.

    Raises:
        OutputError: another ending, or a place that cannot be written.
        InflateError: a page without the extra ``report``.
    """
    path = Path(path)
    check_reports([path])
    text = render(document, _ending(path), pictures)
    write_whole(path, text)


def write_whole(path: Path, text: str) -> None:
    """Write a text so that whoever reads the file finds it whole, or as it was.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        write_atomically(path, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise OutputError(f"the report {path} cannot be written: {error.strerror}") from error


def render(document: Document, ending: str, pictures: Sequence[Picture] = ()) -> str:
    """A parity document as the text of a report with one of ``ENDINGS``."""
    if ending == "html":
        return _page(document, pictures)
    return {"json": as_json, "md": as_markdown, "xml": as_junit}[ending](document)


def check_reports(paths: Iterable[str | Path]) -> None:
    """Refuse reports that could not be written, before anything is computed for them.

    Raises:
        OutputError: an ending that no report has, a folder that is missing or may not be written,
            two reports in one file, or a report that is a device, pipe or socket.
        InflateError: a page without the extra ``report``.
    """
    paths = list(paths)
    for given in paths:
        path = Path(given)
        if "://" in str(given):  # Not shown: it may hold a password.
            raise OutputError("a report is asked for at a URL; expected a local file")
        if _ending(path) not in ENDINGS:
            known = ", ".join(f".{ending}" for ending in ENDINGS)
            raise OutputError(f"the report {path} has no ending that is known; expected {known}")
        try:
            folder = path.parent.resolve()
            if path.is_dir():
                raise OutputError(f"the report {path} is a folder; expected the name of a file")
            if not folder.is_dir():
                raise OutputError(
                    f"the report {path} needs the folder {path.parent}; make it first"
                )
        except OSError as error:
            raise OutputError(f"the report {path} cannot be written: {error.strerror}") from error
        if not os.access(folder, os.W_OK):
            raise OutputError(f"the report {path} cannot be written: {folder} is read-only")
        if _ending(path) == "html":
            require_pages()
    check_written(paths, ())


def github_summary() -> Path:
    """The file in which GitHub collects a step's summary.

    Raises:
        ConfigError: this is no step of a GitHub workflow.
        OutputError: it is a device, pipe or socket.
    """
    named = os.environ.get(SUMMARY)
    if not named:
        raise ConfigError(
            f"--github-summary needs ${SUMMARY}, which is not set: it is for steps of GitHub "
            "workflows; elsewhere, --report summary.md writes the same"
        )
    check_written([Path(named)], ())
    return Path(named)


def write_github_summary(document: Document) -> None:
    """Append a report to the summary of the step that runs.

    Raises:
        ConfigError: this is no step of a GitHub workflow.
        OutputError: the file cannot be written.
    """
    append_summary(github_summary(), as_markdown(document))


def append_summary(path: Path, text: str) -> None:
    """Append Markdown to the file in which GitHub collects a step's summary.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        with path.open("ab") as file:
            file.write(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise OutputError(f"${SUMMARY} cannot be written: {path}: {error.strerror}") from error


def _ending(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")


def _page(document: Document, pictures: Sequence[Picture]) -> str:
    require_pages()
    from inflate.report.html import as_page

    return as_page(document, pictures)


def require_pages() -> None:
    """Refuse a page where what makes pages is not installed.

    Raises:
        InflateError: the extra ``report`` is missing.
    """
    with needs_extra("report", "a page", InflateError):
        import jinja2  # noqa: F401
