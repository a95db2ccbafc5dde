"""``inflate inspect``."""

from __future__ import annotations

from typing import Annotated

import typer

from inflate.cli.console import print_json, progress_bar, say_line
from inflate.cli.options import FromWeights, Json, Prefix, Quiet, SourceLocation


def inspect(
    source: SourceLocation,
    prefix: Prefix = None,
    weights: FromWeights = "plain",
    fingerprint: Annotated[
        bool, typer.Option("--fingerprint", help="Read the tensors and print their fingerprint.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what a file holds, what convert would do with it, and what stands in its way.

    Nothing is loaded: names, shapes and types are enough. -q prints the obstacles alone.
    """
    from inflate import workflow

    with progress_bar(quiet) as progress:
        found = workflow.inspect(
            source,
            prefix=prefix,
            weights=weights,
            fingerprint=fingerprint or None,
            progress=progress,
        )
    if as_json:
        from inflate.report.inspection import inspection_document

        print_json(inspection_document(found))
    elif quiet:
        for obstacle in found.obstacles:
            say_line(obstacle)
    else:
        from inflate.cli.render_inspection import print_inspection

        print_inspection(found)
