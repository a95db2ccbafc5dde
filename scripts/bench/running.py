"""Programs run one at a time, each in a fresh process that is measured from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_KILO = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Run:
    """What a run took: seconds on the wall, seconds of all cores, its largest resident memory.

    ``said`` is what it printed.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    said: str


def measure(command: Sequence[str], *, code: int = 0) -> Run:
    """Run a command in the checkout, and expect it to end with ``code``.

    Raises:
        RuntimeError: it ended otherwise.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        said, complaint = process.stdout.read(), process.stderr.read()
        # Not communicate(): wait4 alone reports what this process took, and no other.
        _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != code:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{complaint}")
    return Run(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * _KILO, said)


def _environment() -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
