"""``inflate demo``: the real checkpoint in all three modes, and a tiny one where it goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from inflate.cli import demo

from ..checkpoints import autoencoder, write_torch
from ..conversions import sha256, snapshot, spoil_start
from .conftest import CPU, Run

MODES = ("all", "conv-only", "attn-only")
FILES = ["demo.ckpt", *(f"demo.{mode}.safetensors" for mode in MODES)]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny checkpoint in the place of the real one."""
    path = write_torch(tmp_path / "tiny.ckpt", autoencoder(ch_mult=[1]))
    monkeypatch.setattr(demo, "DEMO_CHECKPOINT", path)
    return path


def test_the_real_checkpoint_is_bitwise_in_every_mode(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    ran = run("demo", folder, *CPU)
    assert (ran.code, ran.err) == (0, "")
    verdicts = [line.split()[1] for line in ran.out.splitlines() if line.startswith("parity:")]
    assert verdicts == ["bitwise"] * 3
    assert sorted(snapshot(folder)) == sorted(FILES)
    assert sha256(folder / "demo.ckpt") == sha256(demo.DEMO_CHECKPOINT)
    for mode in MODES:
        target = folder / f"demo.{mode}.safetensors"
        assert f"$ inflate convert {folder / 'demo.ckpt'} --time-mode {mode} -o {target}" in ran.out
        assert f"$ inflate verify {folder / 'demo.ckpt'} {target}" in ran.out


@pytest.mark.usefixtures("tiny")
def test_quiet_prints_a_verdict_per_mode_and_may_be_repeated(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        ran = run("demo", "-q", *CPU)
        assert (ran.code, ran.err) == (0, "")
        assert ran.out == "".join(f"{mode} bitwise\n" for mode in MODES)
    assert sorted(snapshot(tmp_path / "inflate-demo")) == sorted(FILES)


def test_a_folder_that_is_a_file(run: Run, tiny: Path, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    ran = run("demo", tiny, *CPU)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"error: {tiny} ")
    assert snapshot(tmp_path) == before


@pytest.mark.usefixtures("tiny")
def test_where_parity_does_not_hold(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_start(monkeypatch, lambda key, _: key.endswith("time_mix_conv.bias"))
    ran = run("demo", tmp_path / "demo", "-q", *CPU)
    assert (ran.code, ran.err) == (1, "")
    assert ran.out == "all fail\nconv-only fail\nattn-only bitwise\n"
