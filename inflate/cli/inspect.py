"""``inflate inspect``."""

from __future__ import annotations

from typing import Any

import typer

import inflate
from inflate.cli.console import print_json, say_line
from inflate.cli.options import JSON, QUIET, SOURCES, argument, option, takes
from inflate.cli.progress import progress_bar
from inflate.options import ConvertOptions


@takes(ConvertOptions, ("prefix", "weights", "ignore"))
def inspect(
    source: str = argument("SOURCE", f"Any {SOURCES}"),
    *,
    options: dict[str, Any],
    check: bool = option(
        "--check",
        default=False,
        group="Checks",
        help="Exit with 1 if convert would refuse the file.",
    ),
    fingerprint: bool = option(
        "--fingerprint",
        default=False,
        group="Checks",
        help="Read the tensors; print their fingerprint.",
    ),
    as_json: bool = JSON,
    quiet: bool = QUIET,
) -> None:
    """Show what a checkpoint contains and whether it can be converted.

    Makes the same plan as convert. With -q, prints only problems that prevent a conversion.
    """
    with progress_bar(quiet, "reading") as progress:
        found = inflate.inspect(
            source, fingerprint=fingerprint or None, progress=progress, **options
        )
    if as_json:
        from inflate.report.documents import inspection_document

        print_json(inspection_document(found))
    elif quiet:
        for obstacle in found.obstacles:
            say_line(obstacle)
    else:
        from inflate.cli.render import print_inspection

        print_inspection(found)
    if check and found.obstacles:
        raise typer.Exit(1)
