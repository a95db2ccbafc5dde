"""The fingerprints that a conversion takes on its way are those of the files, read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import inflate
from inflate.formats.fingerprint import fingerprint_of
from inflate.formats.source import describe
from inflate.io.reader import open_checkpoint
from inflate.workflow import conversion
from inflate.workflow.production import Made

from ..checkpoints import autoencoder, video_autoencoder, write_safetensors, write_torch
from ..conversions import CPU, spoil_start

FOLD = {"post_quant": "fold", "allow_inexact": True}
LIKE_CLASS = {"ch_mult": [1], "num_res_blocks": 2}
SVD = {"time_mode": "conv-only", "video_kernel_size": (3, 1, 1)}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Made]:
    """What conversions produce."""
    found: list[Made] = []
    real = conversion.produce

    def produce(*arguments: Any, **more: Any) -> Made:
        found.append(real(*arguments, **more))
        return found[-1]

    monkeypatch.setattr(conversion, "produce", produce)
    return found


def print_of(path: Path) -> str:
    with open_checkpoint(path) as checkpoint:
        return fingerprint_of(describe(checkpoint).checkpoint)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "float16"},
        {"layout": "decoder"},
        {"layout": "decoder", **FOLD},
        {"layout": "sgm", **FOLD},
        {"layout": "diffusers", **FOLD, **SVD},
    ],
    ids=str,
)
def test_of_a_conversion(options: dict[str, Any], made: list[Made], tmp_path: Path) -> None:
    weights = autoencoder(**LIKE_CLASS)
    weights["decoder.conv_in.weight"] = weights["decoder.conv_in.weight"].transpose(2, 3)
    source = write_torch(tmp_path / "img", weights)
    inflate.convert(source, tmp_path / "v", skip_parity=True, **options, **CPU)
    assert made[0].source_fingerprint == print_of(source)
    assert made[0].fingerprint == print_of(tmp_path / "v")
    assert made[0].fingerprint != made[0].source_fingerprint


def test_of_a_copy(made: list[Made], tmp_path: Path) -> None:
    weights = video_autoencoder("plain", temporal=SVD, **LIKE_CLASS)
    source = write_safetensors(tmp_path / "video", weights)
    inflate.convert(source, tmp_path / "v", layout="sgm", skip_parity=True, **CPU)
    assert made[0].fingerprint == made[0].source_fingerprint == print_of(tmp_path / "v")


def test_of_an_output_that_failed(
    made: list[Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_start(monkeypatch, lambda *_: True)
    source = write_safetensors(tmp_path / "img", autoencoder(ch_mult=[1]))
    assert not inflate.convert(source, tmp_path / "v", **CPU).passed
    assert made[0].source_fingerprint == print_of(source)
    assert made[0].sha256 is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_tensor_of_an_output_is_aligned_as_far_as_its_size_allows(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    source = write_safetensors(tmp_path / "img", autoencoder("vq", dtype=dtype))
    inflate.convert(source, tmp_path / "v", time_mode="all", skip_parity=True, **CPU)
    with open_checkpoint(tmp_path / "v") as checkpoint:
        for key, info in checkpoint.tensors.items():
            extent = checkpoint.extent(key)
            assert extent is not None
            power = next(p for p in (64, 32, 16, 8, 4, 2) if info.nbytes % p == 0)
            assert extent.offset % power == 0, key


def test_the_header_holds_both(tmp_path: Path) -> None:
    source, output = write_torch(tmp_path / "img", autoencoder(ch_mult=[1])), tmp_path / "v"
    inflate.convert(source, output, **CPU)
    with open_checkpoint(output) as checkpoint:
        header = checkpoint.metadata
    assert header["inflate.source.fingerprint"] == print_of(source)
    assert header["inflate.fingerprint"] == print_of(output)


def test_the_same_weights_in_another_file_are_the_recorded_source(tmp_path: Path) -> None:
    weights = autoencoder(ch_mult=[1])
    inflate.convert(write_torch(tmp_path / "img", weights), tmp_path / "v", **CPU)
    copy = write_safetensors(tmp_path / "copy", weights)
    report = inflate.verify(copy, tmp_path / "v", **CPU)
    assert report.recorded_source is not None
    assert report.recorded_source.given
