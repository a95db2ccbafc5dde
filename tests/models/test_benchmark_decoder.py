"""The decoder's benchmark: that its yardsticks do the same work, and its ratios are of rounds."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_decoder.py"
SMALL_CASE = {
    "mode": "conv-only",
    "kernel": "3,1,1",
    "latent": 4,
    "frames": 3,
    "threads": None,
    "clock": "wall",
}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("benchmark_decoder", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "KL_F8", {**module.KL_F8, "ch": 32, "ch_mult": [1, 2]})
    return module


# What diffusers warns of when it is imported does not concern these tests.


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("change", [{"what": "convolutions"}, {"what": "forward", "chunk": 2}])
def test_a_case_is_measured(benchmark: Any, change: dict[str, Any]) -> None:
    measured = benchmark._measure({**SMALL_CASE, **change})
    assert measured["seconds"] > 0
    assert measured["peak_bytes"] >= 0
