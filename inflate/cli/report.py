"""``inflate report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from inflate.cli.console import note, say_line
from inflate.errors import ConfigError

# Typer reads these annotations on Python 3.10 too.
# ruff: noqa: UP045

_KINDS = ("html", "md", "xml")


def report(
    document: Annotated[
        Path,
        typer.Argument(
            metavar="DOCUMENT",
            show_default=False,
            help="A report as --report FILE.json or verify --json wrote it.",
        ),
    ],
    to: Annotated[
        Optional[Literal["html", "md", "xml"]],
        typer.Option(help="A page, Markdown or JUnit. [default: by OUT's ending]"),
    ] = None,
    output: Annotated[
        Optional[str],
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="Where to; - is the standard output. [default: beside DOCUMENT]",
        ),
    ] = None,
) -> None:
    """Render a stored parity report again, without running anything.

    Without --to and -o it is printed. Exit code 0 says that it was rendered, whatever its verdict.
    Images are not in a document: a page with images is what verify --report FILE.html writes.
    """
    from inflate.report.schemas import read_document

    kind = to or _kind_of(output)
    if to is not None and output not in (None, "-") and _kind_of(output) != to:
        raise ConfigError(
            f"--to is {to!r}, and the ending of {output} says otherwise; expected .{to}"
        )
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
    """What the ending of an output says."""
    if output is None:
        return None
    if output == "-":
        raise ConfigError("-o - says nothing of what to write; expected --to html, md or xml")
    ending = Path(output).suffix.lower().removeprefix(".")
    if ending not in _KINDS:
        raise ConfigError(f"{output} has no ending that is known; expected .html, .md or .xml")
    return ending
