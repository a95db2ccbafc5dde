"""A warm process that forks one child a job, so that jobs may crash, be killed and be measured.

``python -m tests.safety.serving`` reads jobs as lines of JSON and answers each with a line.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
EXPORT = (
    "--layout", "diffusers", "--post-quant", "fold", "--allow-inexact", "--video-kernel-size",
    "3,1,1", "--time-mode", "conv-only", "--device", "cpu", "--skip-parity",
)  # fmt: skip
"""Options that make a folder of diffusers."""

_SOUND: list[str] = []


@dataclass(frozen=True)
class Answer:
    """How a job ended: its exit code, or minus the signal that ended it, and what it said."""

    code: int
    out: str
    err: str
    seconds: float


class Server:
    """The warm process, seen from a test."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.safety.serving"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def run(self, *jobs: Mapping[str, Any]) -> list[Answer]:
        """Run jobs at once, each in a child of its own.

        Each has ``arguments`` of the command line, or ``open``, paths to open one after another,
        or ``python``, a program; and perhaps ``kill_after`` seconds, ``umask``, ``memory`` in
        bytes, ``die`` (where to die), ``wait`` seconds before it begins.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(jobs) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the server died"
        return [Answer(**answer) for answer in json.loads(line)]

    def command(self, *arguments: object, **more: Any) -> Answer:
        """Run one command."""
        return self.run({"arguments": [str(argument) for argument in arguments], **more})[0]

    def open(self, paths: Sequence[Path], memory: int) -> list[dict[str, Any]]:
        """Open files in one child, and read all their tensors.

        Returns:
            For each file ``said`` (None where it opened), ``peak`` (bytes of memory that it took
            beyond what came before), ``seconds`` and its ``tensors``; fewer if the child died.
        """
        (answer,) = self.run({"open": list(map(str, paths)), "memory": memory})
        found = [json.loads(line) for line in answer.out.splitlines()]
        if answer.code:
            found.append({"said": f"died: {answer.code} {answer.err}", "peak": 0, "seconds": 0.0})
        return found


def serve() -> None:
    """Answer jobs until there are no more."""
    import torch

    import inflate.cli.app
    import inflate.workflow.conversion  # noqa: F401

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name, zipped in (("new", True), ("old", False)):
            path = Path(folder) / name
            torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=zipped)
            _SOUND.append(str(path))
        _warm_up(Path(folder))
        for line in sys.stdin:
            started = [_start(job) for job in json.loads(line)]
            sys.stdout.write(json.dumps([_finish(*one) for one in started]) + "\n")
            sys.stdout.flush()


def _warm_up(folder: Path) -> None:
    """Load now what every child would else load for itself."""
    from ..checkpoints import autoencoder, write_safetensors

    source = folder / "img.safetensors"
    write_safetensors(source, autoencoder(ch_mult=[1], num_res_blocks=2))
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        for options in (("--device", "cpu"), EXPORT):
            code = _command(["convert", str(source), "-o", str(folder / options[0]), *options])
            assert code == 0


def _start(job: Mapping[str, Any]) -> tuple[int, Mapping[str, Any], float, Any, Any]:
    out, err = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115
    started = time.monotonic()
    child = os.fork()
    if child:
        return child, job, started, out, err
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        time.sleep(job.get("wait", 0.0))
        if "umask" in job:
            os.umask(job["umask"])
        if "memory" in job:
            limit = _virtual_memory() + job["memory"]
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        if "die" in job:
            _die_at(*job["die"])
        if "python" in job:
            sys.argv[1:] = job["arguments"]
            exec(job["python"], {"__name__": "job"})
            code = 0
        else:
            code = _open(job["open"]) if "open" in job else _command(job["arguments"])
    except BaseException:  # noqa: BLE001
        import traceback

        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _finish(
    child: int, job: Mapping[str, Any], started: float, out: Any, err: Any
) -> dict[str, Any]:
    deadline = started + job.get("kill_after", 120.0)
    waiting = os.pidfd_open(child)
    ended, _, _ = select.select([waiting], [], [], max(0.0, deadline - time.monotonic()))
    os.close(waiting)
    if not ended:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - started
    said = []
    for file in (out, err):
        file.seek(0)
        said.append(file.read().decode("utf-8", "replace"))
        file.close()
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, "out": said[0], "err": said[1], "seconds": seconds}


def _command(arguments: Sequence[str]) -> int:
    from inflate.cli.app import main

    return main(arguments)


def _open(paths: Sequence[str]) -> int:
    from inflate.errors import InflateError
    from inflate.io.reader import open_checkpoint

    # Sound files first: what a child loads at its first use is nobody's fault.
    for i, path in enumerate([*_SOUND, *paths]):
        said, tensors = None, {}
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Forget the peak so far.
        before, started = _peak_memory(), time.monotonic()
        try:
            with open_checkpoint(Path(path)) as checkpoint:
                for key in checkpoint.tensors:
                    tensor = checkpoint.read(key)
                    tensors[key] = [str(value) for value in tensor.reshape(-1)[:8].tolist()]
        except InflateError as error:
            said = str(error)
        seconds = time.monotonic() - started
        peak = _peak_memory() - before
        line = {"said": said, "peak": peak, "seconds": seconds, "tensors": tensors}
        if i >= len(_SOUND):
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
    return 0


def _die_at(function: str, when: str, count: int) -> None:
    """Be killed before or after the ``count``-th call of a function of ``os``."""
    real = getattr(os, function)
    calls = iter(range(1 << 30))

    def deadly(*arguments: Any, **more: Any) -> Any:
        last = next(calls) == count
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **more)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(os, function, deadly)


def _peak_memory() -> int:
    return _status("VmHWM")


def _virtual_memory() -> int:
    return _status("VmSize")


def _status(word: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(word + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(word)


if __name__ == "__main__":
    serve()
