"""The benchmark of the decoder runs."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_decoder.py"
SMALL_CASE = {"mode": "conv-only", "kernel": "3,1,1", "latent": 4, "frames": 3, "threads": None,
              "clock": "wall"}  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("change", [{"what": "convolutions"}, {"what": "forward", "chunk": 2}])
def test_a_case_is_measured(change: dict[str, Any]) -> None:
    script = runpy.run_path(str(SCRIPT))
    script["KL_F8"].update(ch=32, ch_mult=[1, 2])
    measured = script["_measure"]({**SMALL_CASE, **change})
    assert measured["seconds"] > 0
    assert measured["peak_bytes"] >= 0
