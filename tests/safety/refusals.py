"""What holds for every file that is refused."""

from __future__ import annotations

import io
import signal
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from inflate.cli.app import main
from inflate.errors import CheckpointError
from inflate.io.reader import open_checkpoint

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
    # As strict as a terminal's: what cannot be encoded cannot be printed.
    said = io.BytesIO(), io.BytesIO()
    out, err = (
        io.TextIOWrapper(stream, "utf-8", errors, newline="", write_through=True)
        for stream, errors in zip(said, ("strict", "backslashreplace"), strict=True)
    )
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main([str(argument) for argument in arguments])
    finally:
        signal.signal(signal.SIGTERM, handler)
    return code, said[0].getvalue().decode(), said[1].getvalue().decode()


def check_refusal(code: int, out: str, err: str) -> None:
    """Exit code 2, and one message that a terminal can show."""
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert is_one_message(err), err


def is_one_message(err: str) -> bool:
    """Whether this is one error that a terminal can show, after notes or a line of usage."""
    lines = err.splitlines()
    return (
        sum(line.lower().startswith("error: ") for line in lines) == 1
        and "Traceback" not in err
        and err.endswith("\n")
        and err.replace("\n", "").isprintable()
    )


def refused(folder: Path, *arguments: object) -> str:
    """Run a command that cannot work: one message, and nothing changed in the folder."""
    before = snapshot(folder)
    code, out, err = command(arguments)
    check_refusal(code, out, err)
    assert snapshot(folder) == before
    return err
