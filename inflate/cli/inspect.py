"""``inflate inspect``."""

from __future__ import annotations

from typing import Annotated

import typer

from inflate.cli.console import print_json, say_line
from inflate.cli.options import Json, Quiet, SourceLocation, option, shared
from inflate.cli.progress import progress_bar
from inflate.options import ConvertOptions

Prefix = shared(ConvertOptions, "prefix")
FromWeights = shared(ConvertOptions, "weights")
Ignore = shared(ConvertOptions, "ignore")


def inspect(
    source: SourceLocation,
    prefix: Prefix = None,  # type: ignore[valid-type]
    weights: FromWeights = "plain",  # type: ignore[valid-type]
    ignore: Ignore = None,  # type: ignore[valid-type]
    check: Annotated[
        bool,
        option("--check", group="Checks", help="Exit with 1 if convert would refuse the file."),
    ] = False,
    fingerprint: Annotated[
        bool,
        option("--fingerprint", group="Checks", help="Read the tensors; print their fingerprint."),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a checkpoint contains and if it can be converted.

    Makes the plan that convert would make. With -q, prints only what prevents a conversion.
    """
    with progress_bar(quiet, "reading") as progress:
        from inflate import workflow

        found = workflow.inspect(
            source,
            prefix=prefix,
            weights=weights,
            ignore=ignore,
            fingerprint=fingerprint or None,
            progress=progress,
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
