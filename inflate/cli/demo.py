"""``inflate demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from inflate.cli.console import say, say_line
from inflate.cli.options import Quiet, argument, shared
from inflate.cli.progress import progress_bar
from inflate.cli.report import on_ctrl_c
from inflate.errors import OutputError
from inflate.options import ConvertOptions
from inflate.vocabulary import TimeMode

DEMO_CHECKPOINT = Path(__file__).resolve().parent.parent / "assets" / "demo.ckpt"
Device = shared(ConvertOptions, "device")


def demo(
    folder: Annotated[
        Path, argument("DIR", "Folder for the files. [default: inflate-demo]")
    ] = Path("inflate-demo"),
    device: Device = "auto",  # type: ignore[valid-type]
    quiet: Quiet = False,
) -> None:
    """Convert and verify a small real autoencoder.

    The autoencoder was trained on photographs and video clips. It is converted in every time mode;
    the files stay in DIR.
    """
    with on_ctrl_c(lambda: f"what was finished is in {folder}"):
        _run(folder, device, quiet=quiet)


def _run(folder: Path, device: str, *, quiet: bool) -> None:
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
            from inflate import workflow

            result = workflow.convert(
                source, target, time_mode=mode, device=device, overwrite=True, progress=progress
            )
            # Where parity did not hold, nothing was published that could be verified.
            report = result.parity if not result.passed else None
            if report is None:
                report = workflow.verify(source, target, device=device, progress=progress)
        passed = passed and report.passed
        if quiet:
            say(f"{mode} {report.verdict}")
        else:
            from inflate.cli.render_parity import print_parity

            say_line(f"$ inflate verify {source} {target}")
            print_parity(report)
            say()
    if not passed:
        raise typer.Exit(1)
