"""The jobs on sources and destinations that lie elsewhere: fsspec's memory stands for any store."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

import inflate
from inflate.cli.app import main

from .checkpoints import autoencoder, write_torch
from .conversions import CPU

fsspec = pytest.importorskip("fsspec", reason="the extra remote is not installed")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder elsewhere with an ``img.ckpt``, and a cache of its own."""
    monkeypatch.setenv("INFLATE_CACHE", str(tmp_path / "cache"))
    local = write_torch(tmp_path / "img.ckpt", autoencoder(ch_mult=[1]))
    folder = f"memory://{uuid.uuid4().hex}"
    fsspec.filesystem("memory").pipe(f"{folder}/img.ckpt", local.read_bytes())
    return folder


def test_from_elsewhere_to_elsewhere_and_back(place: str, tmp_path: Path) -> None:
    result = inflate.convert(f"{place}/img.ckpt", f"{place}/video.safetensors", **CPU)
    assert result.passed
    assert result.output == f"{place}/video.safetensors"
    stored = fsspec.filesystem("memory").cat(f"{place}/video.safetensors")
    here = inflate.convert(tmp_path / "img.ckpt", tmp_path / "here.safetensors", **CPU)
    assert stored == (tmp_path / "here.safetensors").read_bytes()
    assert result.fingerprint == here.fingerprint
    report = inflate.verify(f"{place}/img.ckpt", f"{place}/video.safetensors", **CPU)
    assert report.verdict == "bitwise"
    assert report.candidate[0] == f"{place}/video.safetensors"


def test_the_default_output_of_a_source_elsewhere_is_here(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["convert", f"{place}/img.ckpt", "--device", "cpu", "-q"]) == 0
    assert capsys.readouterr().out == "img.video.safetensors\n"
    assert (tmp_path / "img.video.safetensors").is_file()
