"""``inflate demo``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

import typer

import inflate
from inflate.cli.console import note, say, say_line
from inflate.cli.options import QUIET, argument, takes
from inflate.cli.progress import progress_bar
from inflate.cli.report import on_ctrl_c
from inflate.options import ConvertOptions
from inflate.vocabulary import TimeMode

DEMO_CHECKPOINT = Path(__file__).resolve().parent.parent / "assets" / "demo.ckpt"


@takes(ConvertOptions, ("device",))
def demo(
    folder: Path = argument(
        "DIR", "Folder for the files. [default: inflate-demo]", Path("inflate-demo")
    ),
    *,
    options: dict[str, Any],
    quiet: bool = QUIET,
) -> None:
    """Convert and verify a small real autoencoder.

    The autoencoder was trained on photographs and video clips. It is converted in every time mode.
    The files stay in DIR and replace those of an earlier run.
    """
    with on_ctrl_c(f"finished files are in {folder}"):
        _run(folder, options, quiet=quiet)


def _run(folder: Path, options: dict[str, Any], *, quiet: bool) -> None:
    from inflate.io.protected import check_written
    from inflate.io.staging import make_folder, write_atomically

    source = folder / "demo.ckpt"
    targets = {mode: folder / f"demo.{mode}.safetensors" for mode in get_args(TimeMode)}
    make_folder(folder)
    replaced = [path.name for path in (source, *targets.values()) if os.path.exists(path)]
    if replaced and not quiet:
        note(f"files of an earlier run in {folder} are replaced: {', '.join(replaced)}")
    check_written([source], [DEMO_CHECKPOINT])
    write_atomically(source, DEMO_CHECKPOINT.read_bytes())
    passed = 0
    for mode, target in targets.items():
        if not quiet:
            say_line(f"$ inflate convert {source} --time-mode {mode} -o {target}")
        with progress_bar(quiet) as progress:
            result = inflate.convert(
                source, target, time_mode=mode, overwrite=True, progress=progress, **options
            )
            # If parity did not hold, there is no published file to verify.
            report = result.parity if not result.passed else None
            if report is None:
                report = inflate.verify(source, target, progress=progress, **options)
        passed += report.passed
        if quiet:
            say(f"{mode} {report.verdict}")
        else:
            from inflate.cli.render_parity import print_document
            from inflate.report.documents import parity_document

            say_line(f"$ inflate verify {source} {target}")
            print_document(parity_document(report))
            say()
    if not quiet:
        say_line(f"{passed} of {len(targets)} conversions passed the check; files: {folder}")
        say_line(f"next: inflate inspect {source}")
    if passed < len(targets):
        raise typer.Exit(1)
