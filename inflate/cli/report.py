"""``inflate report``, and the reports of other commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer

from inflate.cli.console import note, say_line
from inflate.cli.options import argument, option
from inflate.errors import ConfigError, InflateError, OutputError, nearest

if TYPE_CHECKING:
    from inflate.parity.result import ParityReport

# Typer reads these annotations on Python 3.10 too.
# ruff: noqa: UP045

_KINDS = ("html", "md", "xml")


def report(
    document: Path = argument("DOCUMENT", "JSON from --report FILE.json or verify --json."),
    to: Optional[str] = option(
        "--to",
        group="Output",
        words=_KINDS,
        help="Page, Markdown or JUnit. [default: by OUT's ending]",
    ),
    output: Optional[str] = option(
        "-o", "--output", metavar="OUT", help="File, or - for stdout. [default: DOCUMENT.KIND]"
    ),
) -> None:
    """Render a stored parity report; nothing is computed.

    Without --to and -o it is printed. Exit code 0 means that it was rendered, whatever its verdict.
    Documents hold no images; verify --report FILE.html writes a page with images.
    """
    from inflate.report.schemas import read_document

    kind = to or _kind_of(output)
    if to is not None and output not in (None, "-") and _kind_of(output) != to:
        raise ConfigError(f"--to is {to!r}, but -o is {output}; expected the ending .{to}")
    found = read_document(document)
    if kind is None:
        from inflate.cli.render_parity import print_document

        print_document(found)
        for text in found["notes"]:
            note(text)
    elif output == "-":
        from inflate.report.writing import render

        typer.echo(render(found, kind), nl=False)
    else:
        from inflate.io.protected import check_written
        from inflate.report.writing import write_report

        path = document.with_suffix(f".{kind}") if output is None else Path(output)
        check_written([path], [document])
        write_report(found, path)
        say_line(path)


def _kind_of(output: str | None) -> str | None:
    """The kind of report that the ending of an output means."""
    if output is None:
        return None
    if output == "-":
        raise ConfigError("-o - has no ending; expected --to html, md or xml")
    ending = Path(output).suffix.lower().removeprefix(".")
    if ending not in _KINDS:
        raise ConfigError(
            f"the ending of {output} is unknown{nearest(ending, _KINDS)}; expected .html, .md or "
            ".xml"
        )
    return ending


def check_wanted(reports: Sequence[str], *, github_summary: bool) -> list[str | Path]:
    """Refuse what cannot be written, before anything is computed.

    Returns:
        The files that :func:`write_wanted` will write.

    Raises:
        InflateError: a report or the summary cannot be written.
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
    """Add what is already done to an error or Ctrl-C that stops the writing of results."""
    try:
        with on_ctrl_c(lambda: done):
            yield
    except InflateError as error:
        raise OutputError(f"{error}; {done}") from error


@contextmanager
def on_ctrl_c(done: Callable[[], str]) -> Iterator[None]:
    """Add what is already done to the exception of Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(done()) from stop
