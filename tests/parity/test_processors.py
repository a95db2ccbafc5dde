"""Parity holds bit for bit on processors older than the one that the tests run on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .processors import THREADS

pytestmark = pytest.mark.slow  # test_matrix does the same on the processor that it runs on.

ROOT = Path(__file__).resolve().parents[2]
PROCESSORS = {
    # torch's own kernels, oneDNN's, and MKL's, in which the rows of a matrix differ by address.
    "SSE4": ("default", "SSE41", "SSE4_2"),
    "AVX2": ("avx2", "AVX2", "AVX2"),
}


@pytest.fixture(scope="module", params=PROCESSORS)
def found(request: pytest.FixtureRequest) -> Any:
    """What the cases came to on a processor, by the number of threads."""
    names = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
    chosen = dict(zip(names, PROCESSORS[request.param], strict=True))
    command = [sys.executable, "-m", "tests.parity.processors"]
    ran = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **chosen}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize("threads", THREADS)
def test_every_case_is_bitwise(found: Any, threads: int) -> None:
    verdicts = found[str(threads)]["verdicts"]
    assert len(verdicts) == 5
    assert verdicts == dict.fromkeys(verdicts, "bitwise")


@pytest.mark.parametrize("threads", THREADS)
def test_the_same_weights_at_every_offset_give_the_same_images(found: Any, threads: int) -> None:
    assert found[str(threads)]["offsets"] == []
