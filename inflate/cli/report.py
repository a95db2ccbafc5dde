"""``inflate report``, and report options of other commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer

from inflate.cli.console import note, say_line
from inflate.cli.options import argument, option
from inflate.errors import ConfigError, InflateError, OutputError

if TYPE_CHECKING:
    from inflate.parity.result import ParityReport

# Typer reads these annotations on Python 3.10 too.
# ruff: noqa: UP045


def report(
    document: Path = argument("DOCUMENT", "JSON from --report FILE.json or verify --json."),
    to: Optional[str] = option(
        "--to",
        group="Output",
        words=("html", "md", "xml"),
        help="Page, Markdown or JUnit. [default: by OUT's ending]",
    ),
    output: Optional[str] = option(
        "-o", "--output", metavar="OUT", help="File, or - for stdout. [default: DOCUMENT.KIND]"
    ),
) -> None:
    """Render a stored parity report without computing anything.

    Without --to and -o it is printed. Exit code 0 means that it was rendered, with any verdict.
    Documents hold no images; verify --report FILE.html writes a page with images.
    """
    from inflate.report.schemas import read_document

    found = read_document(document)
    if to is None and output is None:
        from inflate.cli.render_parity import print_document

        print_document(found)
        for text in found["notes"]:
            note(text)
        return
    from inflate.io.protected import check_written
    from inflate.report.writing import render, write_report

    if output == "-":
        if to is None:
            raise ConfigError("-o - has no ending; expected --to html, md or xml")
        typer.echo(render(found, to), nl=False)
        return
    path = document.with_suffix(f".{to}") if output is None else Path(output)
    if to is not None and path.suffix.lower() != f".{to}":
        raise ConfigError(f"--to is {to!r}, but -o is {path}; expected the ending .{to}")
    check_written([path], [document])
    write_report(found, path)
    say_line(path)


def check_wanted(reports: Sequence[str], *, github_summary: bool) -> list[str | Path]:
    """The files that :func:`write_wanted` will write.

    Raises:
        InflateError: a report or the summary could not be written.
    """
    if not reports and not github_summary:  # Do not load the renderers.
        return []
    from inflate.report import writing

    writing.check_reports(reports)
    return [*reports, *([writing.github_summary()] if github_summary else [])]


def write_wanted(report: ParityReport, reports: Sequence[str], *, github_summary: bool) -> None:
    """Write the files of ``--report`` and the summary of ``--github-summary``.

    Raises:
        InflateError: one of them cannot be written.
    """
    if not reports and not github_summary:
        return
    from inflate.report import writing
    from inflate.report.documents import parity_document

    document = parity_document(report)
    for path in reports:
        writing.write_report(document, path, report.pictures)
    if github_summary:
        writing.append_summary(writing.github_summary(), writing.render(document, "md"))


@contextmanager
def adding_done(done: str) -> Iterator[None]:
    """If an error or Ctrl-C stops the writing of results, say in its message what is done."""
    try:
        with on_ctrl_c(done):
            yield
    except InflateError as error:
        raise OutputError(f"{error}; {done}") from error


@contextmanager
def on_ctrl_c(done: str) -> Iterator[None]:
    """Add what is already done to the message of Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(done) from stop
