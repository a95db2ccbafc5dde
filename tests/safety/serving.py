"""A warm process that forks one child per job: jobs may crash, be killed and be measured."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inflate.cli.app import main
from inflate.errors import InflateError
from inflate.io.reader import open_checkpoint

MIB = 1 << 20
EXPORT = (
    "--layout", "diffusers", "--post-quant", "fold", "--allow-inexact", "--video-kernel-size",
    "3,1,1", "--time-mode", "conv-only", "--device", "cpu", "--skip-parity",
)  # fmt: skip
"""Options that make a folder of diffusers."""


@dataclass(frozen=True)
class Answer:
    """How a job ended: its exit code, or minus the signal that ended it, and its outputs."""

    code: int
    out: str
    err: str


class Server:
    """Runs jobs in children of a process that has loaded the package and torch."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is for the outputs of jobs, and two sound files."""
        import torch

        self._folder, self._count = folder, 0
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([f"{__package__}.warm"])
        self._sound = [folder / "new", folder / "old"]
        for path in self._sound:
            new = path.name == "new"
            torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=new)

    def run(self, *jobs: Mapping[str, Any]) -> list[Answer]:
        """Run jobs at once, each in its own child.

        Each has ``arguments`` of the command line, or ``open``, paths to open one after another,
        or ``python``, a program with ``arguments``; and perhaps ``umask``, ``memory`` in bytes,
        ``die`` (see ``_die_at``).
        """
        started = []
        for job in jobs:
            self._count += 1
            outputs = [str(self._folder / f"{self._count}.{name}") for name in ("out", "err")]
            process = self._context.Process(target=_run, args=(job, *outputs))
            process.start()
            started.append((process, outputs))
        answers = []
        for process, outputs in started:
            process.join(120)
            process.kill()
            process.join()
            code = process.exitcode
            texts = []
            for name in outputs:  # A child that was killed early has none.
                path = Path(name)
                texts.append(path.read_text("utf-8", "replace") if path.exists() else "")
            assert code is not None
            process.close()
            answers.append(Answer(code, *texts))
        return answers

    def command(self, *arguments: object, **more: Any) -> Answer:
        """Run one command."""
        return self.run({"arguments": [str(argument) for argument in arguments], **more})[0]

    def open(self, paths: Sequence[Path], memory: int = 512 * MIB) -> list[dict[str, Any]]:
        """Open files in one child, and read all of their tensors.

        The result is, per file, ``error`` (None where it opened), ``peak`` (bytes of memory beyond
        what came before) and ``tensors``; fewer if the child died.
        """
        # Sound files first: they load what a child loads at its first use.
        both = [*map(str, self._sound), *map(str, paths)]
        (answer,) = self.run({"open": both, "memory": memory})
        found = [json.loads(line) for line in answer.out.splitlines()]
        if answer.code:
            found.append({"error": f"died: {answer.code} {answer.err}", "peak": 0})
        return found[len(self._sound) :]


def _run(job: Mapping[str, Any], out: str, err: str) -> None:
    os.setsid()
    for number, name in ((1, out), (2, err)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    if "umask" in job:
        os.umask(job["umask"])
    if "memory" in job:
        limit = _status("VmSize") + job["memory"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if "die" in job:
        _die_at(*job["die"])
    if "open" in job:
        _open(job["open"])
    elif "python" in job:
        sys.argv[1:] = job["arguments"]
        exec(job["python"], {"__name__": "job"})
    else:
        sys.exit(main(job["arguments"]))


def _open(paths: Sequence[str]) -> None:
    for path in paths:
        message, tensors = None, {}
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Forget the peak so far.
        before = _status("VmHWM")
        try:
            with open_checkpoint(Path(path)) as checkpoint:
                for key in checkpoint.tensors:
                    values = checkpoint.read(key).reshape(-1)[:8].tolist()
                    tensors[key] = [str(value) for value in values]
        except InflateError as error:
            message = str(error)
        line = {"error": message, "peak": _status("VmHWM") - before, "tensors": tensors}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def _die_at(function: str, when: str, count: int, number: int = signal.SIGKILL) -> None:
    """Get a signal before or after the ``count``-th call of a function of ``os``."""
    real = getattr(os, function)
    calls = iter(range(1 << 30))

    def deadly(*arguments: Any, **more: Any) -> Any:
        last = next(calls) == count
        if last and when == "before":
            os.kill(os.getpid(), number)
        result = real(*arguments, **more)
        if last and when == "after":
            os.kill(os.getpid(), number)
        return result

    setattr(os, function, deadly)


def _status(word: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(word + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(word)
