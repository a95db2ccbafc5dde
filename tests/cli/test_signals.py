"""Stopped from outside in the middle of its work, a conversion leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import inflate
from inflate.signals import ENDING

from ..conversions import snapshot

ROOT = Path(inflate.__file__).parents[1]

STOPPED = """
import os, signal, sys
from pathlib import Path
from inflate.workflow import production
from inflate.cli.app import main

# A shell that starts jobs in the background has them ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
number, source, output = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
carry_out = production.carry_out

def stopped(plan, checkpoint, writer, progress):
    def kill(phase, done, total):
        if done == 1:
            assert any(path.name.endswith(".staged") for path in output.parent.iterdir())
            os.kill(os.getpid(), number)

    return carry_out(plan, checkpoint, writer, kill)

production.carry_out = stopped
sys.exit(main(["convert", source, "-o", str(output), "--device", "cpu"]))
"""


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted: nothing was left behind\n"),
        *((number, 128 + number, "") for number in ENDING),
    ],
)
def test_a_signal_in_the_middle_of_writing(
    image: Path, tmp_path: Path, number: signal.Signals, code: int, said: str
) -> None:
    before = snapshot(image.parent)
    output = tmp_path / "video.safetensors"
    ran = subprocess.run(
        [sys.executable, "-c", STOPPED, str(int(number)), image, output],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (code, "", said)
    assert snapshot(tmp_path) == {}
    assert snapshot(image.parent) == before
