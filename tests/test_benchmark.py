"""``scripts/benchmark.py``: that it measures and judges; how long anything takes is not tested."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The modules of the benchmark, which lie next to their script."""
    import importlib

    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    names = ("bench.running", "bench.cases", "bench.report", "benchmark")
    return {name.removeprefix("bench."): importlib.import_module(name) for name in names}


def test_a_program_is_measured_from_outside(bench: dict[str, ModuleType]) -> None:
    code = "import os; a = bytearray(os.urandom(1 << 20)) * 50; print(len(a)); raise SystemExit(3)"
    run = bench["running"].measure([sys.executable, "-c", code], code=3)
    assert run.said == f"{50 << 20}\n"
    assert run.peak_bytes > 50 << 20
    assert run.cpu_seconds > 0 < run.seconds
    with pytest.raises(RuntimeError):
        bench["running"].measure([sys.executable, "-c", "raise SystemExit(1)"])


def test_medians_ratios_and_floors(bench: dict[str, ModuleType], tmp_path: Path) -> None:
    cases = {case.name: case for case in bench["cases"].all_cases(tmp_path)}
    cases["convert"].output.write_bytes(bytes(1000))
    times = {
        "import torch": [1.0, 1.0, 1.0], "hand-written": [4.0, 10.0, 8.0],
        "convert": [2.0, 2.5, 6.0], "convert, checked": [4.0, 6.5, 8.0],
    }  # fmt: skip
    run = bench["running"].Run
    found = {k: [run(s, 2 * s, int(s * 1e9), "") for s in v] for k, v in times.items()}
    machine = {"disk_bytes_per_second": 1000.0, "flops_per_second": 2e9}
    (row,) = bench["report"].rows_of([cases["convert"]], found, machine)
    assert (row["seconds"], row["cpu_seconds"], row["peak_bytes"]) == (2.5, 5.0, 2_500_000_000)
    assert row["ratio"] == row["cpu_ratio"] == 0.5  # of 0.5, 0.25, 0.75
    assert (row["floor_seconds"], row["above_floor"]) == (2, 1.25)
    targets = bench["report"].targets_of(found)
    met = {t["target"]: t["met"] for t in targets if t["of"] == "time"}
    assert (met["convert / hand-written"], met["convert, checked / convert"]) == (False, True)
    assert "| convert |" in bench["report"].table([row], targets, [])
