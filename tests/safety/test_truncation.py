"""Files cut short while they are read: an error, where a mapping would kill the process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import inflate
from inflate.errors import CheckpointError
from inflate.workflow import checking, verification

from ..checkpoints import autoencoder, write_lightning, write_safetensors
from ..conversions import CPU, snapshot

every_format = pytest.mark.parametrize("write", [write_safetensors, write_lightning])


def cut(path: Path) -> None:
    """Leave half of a file."""
    os.truncate(path, path.stat().st_size // 2)


def cut_once_described(monkeypatch: pytest.MonkeyPatch, module: Any, victim: Path) -> None:
    """Cut a file short as soon as a checkpoint of the workflow is opened and described."""
    real = module.describe

    def describe(*arguments: Any, **more: Any) -> Any:
        found = real(*arguments, **more)
        cut(victim)
        return found

    monkeypatch.setattr(module, "describe", describe)


@every_format
def test_while_a_conversion_writes(write: Callable[..., Path], tmp_path: Path) -> None:
    source = write(tmp_path / "img", autoencoder(ch_mult=[1]))

    def progress(phase: str, done: int, total: int) -> None:
        if (phase, done) == ("writing", 0):
            cut(source)

    with pytest.raises(CheckpointError, match=str(source)):
        inflate.convert(source, tmp_path / "v", progress=progress, **CPU)
    assert list(snapshot(tmp_path)) == ["img"]


@every_format
def test_while_a_conversion_is_checked(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "img", autoencoder(ch_mult=[1]))
    cut_once_described(monkeypatch, checking, source)
    with pytest.raises(CheckpointError, match=str(source)):
        inflate.convert(source, tmp_path / "v", **CPU)
    assert list(snapshot(tmp_path)) == ["img"]


@every_format
@pytest.mark.parametrize("victim", ["img", "v"])
def test_while_files_are_verified(
    write: Callable[..., Path], victim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "img", autoencoder(ch_mult=[1]))
    inflate.convert(source, tmp_path / "v", skip_parity=True, **CPU)
    real = verification.compare_temporal if victim == "v" else verification.against_source
    name = real.__name__

    def late(*arguments: Any) -> Any:
        cut(tmp_path / victim)
        return real(*arguments)

    monkeypatch.setattr(verification, name, late)
    with pytest.raises(CheckpointError, match=str(tmp_path / victim)):
        inflate.verify(source, tmp_path / "v", **CPU)
