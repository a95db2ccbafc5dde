"""Run commands in this process, and check what holds for every refusal."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from inflate.cli.app import main
from inflate.errors import CheckpointError
from inflate.io.reader import open_checkpoint

from ..conversions import snapshot

FOUR = [1.0, 2.0, 3.0, 4.0]


def read(path: Path) -> dict[str, list[float]] | None:
    """All numbers of a checkpoint; None where it is refused, with one line that names the file."""
    try:
        with open_checkpoint(path) as checkpoint:
            return {key: checkpoint.read(key).tolist() for key in checkpoint.tensors}
    except CheckpointError as error:
        message = str(error)
        assert str(path) in message
        assert message.isprintable()
        assert len(message) < 2000
        return None


def command(arguments: Sequence[object]) -> tuple[int, str, str]:
    """Run a command here, and return its exit code, stdout and stderr."""
    # As strict as a terminal: what cannot be encoded cannot be printed.
    buffers = io.BytesIO(), io.BytesIO()
    out, err = (
        io.TextIOWrapper(buffer, "utf-8", errors, newline="", write_through=True)
        for buffer, errors in zip(buffers, ("strict", "backslashreplace"), strict=True)
    )
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main([str(argument) for argument in arguments])
    finally:
        signal.signal(signal.SIGTERM, handler)
    return code, buffers[0].getvalue().decode(), buffers[1].getvalue().decode()


def is_one_message(err: str) -> bool:
    """Whether this is one error that a terminal can show, after notes or a line of usage."""
    errors = [line for line in err.splitlines() if line.lower().startswith("error: ")]
    plain = err.endswith("\n") and err.replace("\n", "").isprintable()
    return len(errors) == 1 and plain and "Traceback" not in err


def is_refusal(arguments: Sequence[object], out: str, err: str) -> bool:
    """Whether these outputs are one message, with ``--json`` also as a document on stdout."""
    if out and "--json" in arguments:
        with suppress(ValueError, LookupError, TypeError):
            return is_one_message(err) and bool(json.loads(out)["schema"] == "inflate/error/1")
    return not out and is_one_message(err)


def refused(folder: Path, *arguments: object) -> str:
    """Run a command that must fail: exit code 2, one message, and no change in the folder."""
    before = snapshot(folder)
    code, out, err = command(arguments)
    assert code == 2, err
    assert err.startswith("error: ")
    assert is_refusal(arguments, out, err), (out, err)
    assert snapshot(folder) == before
    return err
