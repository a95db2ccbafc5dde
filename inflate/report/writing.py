"""Write reports atomically; the file name's ending decides the format."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inflate.errors import ConfigError, InflateError, OutputError, needs_extra
from inflate.io.protected import check_written
from inflate.io.staging import write_atomically
from inflate.report.documents import as_json, parity_document
from inflate.report.junit import as_junit
from inflate.report.markdown import as_markdown
from inflate.report.summary import Document

if TYPE_CHECKING:
    from inflate.parity.result import ParityReport, Picture
    from inflate.workflow.production import ConversionResult

ENDINGS = ("html", "json", "md", "xml")
"""The endings of reports: a page, a document, Markdown, JUnit."""
SUMMARY = "GITHUB_STEP_SUMMARY"


def save_report(result: ParityReport | ConversionResult, path: str | Path) -> None:
    """Write the report of a check to ``.html``, ``.json``, ``.md`` or ``.xml`` (JUnit).

    An older report is replaced.

    Raises:
        ConfigError: the conversion was not checked.
        OutputError: the ending is unknown, or the file cannot be written.
        InflateError: a page needs the extra ``report``, which is missing.
    """
    report = result.parity if hasattr(result, "parity") else result
    if report is None:
        raise ConfigError("the conversion has no report: parity was not checked")
    write_report(parity_document(report), path, report.pictures)


def write_report(document: Document, path: str | Path, pictures: Sequence[Picture] = ()) -> None:
    """Write a parity document in the format given by the ending of ``path``.

    ``pictures`` are for pages; documents do not hold them. Raises as :func:`check_reports`.
    """
    path = Path(path)
    check_reports([path])
    write_atomically(path, encoded(render(document, _ending(path), pictures)))


def encoded(text: str) -> bytes:
    """Text as UTF-8; names of files may have characters that it lacks."""
    return text.encode("utf-8", "backslashreplace")


def render(document: Document, ending: str, pictures: Sequence[Picture] = ()) -> str:
    """A parity document as the text of a report with one of ``ENDINGS``."""
    if ending == "html":
        require_pages()
        from inflate.report.html import as_page

        return as_page(document, pictures)
    return {"json": as_json, "md": as_markdown, "xml": as_junit}[ending](document)


def check_reports(paths: Iterable[str | Path]) -> None:
    """Check that reports can be written, before anything is computed for them.

    Raises:
        OutputError: the ending is unknown, the folder is missing or not writable, two reports are
            the same file, or a report is a device, pipe or socket.
        InflateError: a page without the extra ``report``.
    """
    paths = list(paths)
    for given in paths:
        path = Path(given)
        if "://" in str(given):  # Not quoted: it may hold a password.
            raise OutputError("a report cannot be written to a URL; expected a local file")
        if _ending(path) not in ENDINGS:
            known = ", ".join(f".{ending}" for ending in ENDINGS)
            raise _refused(path, f"has an unknown ending; expected {known}")
        if os.path.isdir(path):
            raise _refused(path, "is a folder; expected the name of a file")
        if not os.access(path.parent, os.W_OK):
            raise _refused(path, f"needs the folder {path.parent}; create it and make it writable")
        if _ending(path) == "html":
            require_pages()
    check_written(paths, ())


def github_summary() -> Path:
    """The file for GitHub's step summary.

    Raises:
        ConfigError: this is not a step in a GitHub workflow.
        OutputError: the file is a device, pipe or socket.
    """
    path = os.environ.get(SUMMARY)
    if not path:
        raise ConfigError(
            f"--github-summary needs ${SUMMARY}, which GitHub sets in the steps of workflows; "
            "elsewhere, use --report or --report-dir"
        )
    check_written([Path(path)], ())
    return Path(path)


def append_summary(path: Path, text: str) -> None:
    """Append Markdown to the file for GitHub's step summary.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        with path.open("ab") as file:
            file.write(encoded(text))
    except OSError as error:
        raise OutputError(
            f"${SUMMARY} cannot be written: {path}: {error.strerror}", path=path
        ) from error


def require_pages() -> None:
    """Raise InflateError if the extra ``report`` is missing, which pages need."""
    with needs_extra("report", "a page", InflateError):
        import jinja2  # noqa: F401
        import PIL  # noqa: F401


def _refused(path: Path, why: str) -> OutputError:
    return OutputError(f"the report {path} {why}", path=path)


def _ending(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")
