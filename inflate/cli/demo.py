"""``inflate demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from inflate.cli.console import progress_bar, say, say_line
from inflate.cli.options import Quiet
from inflate.cli.reporting import on_ctrl_c
from inflate.errors import OutputError
from inflate.vocabulary import TimeMode

DEMO_CHECKPOINT = Path(__file__).resolve().parent.parent / "assets" / "demo.ckpt"


def demo(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where the files go; made if missing.")
    ] = Path("inflate-demo"),
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda|cuda:N|mps", help="Where parity is computed.")
    ] = "auto",
    quiet: Quiet = False,
) -> None:
    """Convert and verify a small real autoencoder in all three time modes.

    It was trained on photographs and video clips; the files are kept in DIR to play with.
    """
    with on_ctrl_c(lambda: f"what was finished is in {folder}"):
        _run(folder, device, quiet=quiet)


def _run(folder: Path, device: str, *, quiet: bool) -> None:
    from inflate import workflow
    from inflate.cli.render_parity import print_parity
    from inflate.io.files import find_files
    from inflate.io.staging import saying_why, stage

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from error
    source = folder / "demo.ckpt"
    with stage(source, find_files(DEMO_CHECKPOINT).read, overwrite=True) as staged:
        with saying_why(source):
            staged.file.write(DEMO_CHECKPOINT.read_bytes())
            staged.file.flush()
        staged.publish()
    passed = True
    for mode in get_args(TimeMode):
        target = folder / f"demo.{mode}.safetensors"
        if not quiet:
            say_line(f"$ inflate convert {source} --time-mode {mode} -o {target}")
        with progress_bar(quiet) as progress:
            result = workflow.convert(
                source, target, time_mode=mode, device=device, overwrite=True, progress=progress
            )
            # Nothing was published where parity did not hold: there is nothing to verify.
            report = result.parity if not result.passed else None
            if report is None:
                report = workflow.verify(source, target, device=device, progress=progress)
        passed = passed and report.passed
        if quiet:
            say(f"{mode} {report.verdict}")
        else:
            say_line(f"$ inflate verify {source} {target}")
            print_parity(report)
            say()
    if not passed:
        raise typer.Exit(1)
