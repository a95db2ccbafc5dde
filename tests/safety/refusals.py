"""What holds for every file that is refused."""

from __future__ import annotations

import io
import signal
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from inflate.checkpoint.reader import open_checkpoint
from inflate.cli.app import main
from inflate.errors import CheckpointError

from ..conversions import snapshot


def said_of(path: Path) -> str | None:
    """What is said of a file; None where it opens, and all of its tensors can be read."""
    try:
        with open_checkpoint(path) as checkpoint:
            for key in checkpoint.tensors:
                checkpoint.read(key)
    except CheckpointError as error:
        said = str(error)
        assert str(path) in said
        assert said.isprintable()
        return said
    return None


def command(arguments: Sequence[object]) -> tuple[int, str, str]:
    """Run a command here: its exit code, what it said on stdout, and on stderr."""
    out, err = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main([str(argument) for argument in arguments])
    finally:
        signal.signal(signal.SIGTERM, handler)
    return code, out.getvalue(), err.getvalue()


def check_refusal(code: int, out: str, err: str) -> None:
    """Exit code 2, and one message that a terminal can show."""
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert sum(line.startswith("error:") for line in err.splitlines()) == 1
    assert "Traceback" not in err
    assert err.endswith("\n")
    assert err.replace("\n", "").isprintable()


def refused(folder: Path, *arguments: object) -> str:
    """Run a command that cannot work: one message, and nothing changed in the folder."""
    before = snapshot(folder)
    code, out, err = command(arguments)
    check_refusal(code, out, err)
    assert snapshot(folder) == before
    return err
