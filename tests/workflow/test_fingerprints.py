"""The fingerprints that a conversion takes on its way are those of the files, read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import inflate
from inflate.io.reader import open_checkpoint
from inflate.workflow import conversion, inspect, inspection
from inflate.workflow.production import Made

from ..checkpoints import autoencoder, video_autoencoder, write_safetensors, write_torch
from ..conversions import CPU, corrupt_start, metadata_of, print_of, sha256

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
    assert made[0].fingerprints.source == print_of(source)
    assert made[0].fingerprints.output == print_of(tmp_path / "v")
    assert made[0].fingerprints.output != made[0].fingerprints.source


def test_of_a_copy(made: list[Made], tmp_path: Path) -> None:
    weights = video_autoencoder("plain", temporal=SVD, **LIKE_CLASS)
    source = write_safetensors(tmp_path / "video", weights)
    inflate.convert(source, tmp_path / "v", layout="sgm", skip_parity=True, **CPU)
    assert made[0].fingerprints.output == made[0].fingerprints.source == print_of(tmp_path / "v")


def test_of_an_output_that_failed(
    made: list[Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrupt_start(monkeypatch, lambda *_: True)
    source = write_safetensors(tmp_path / "img", autoencoder(ch_mult=[1]))
    assert not inflate.convert(source, tmp_path / "v", **CPU).passed
    assert made[0].fingerprints.source == print_of(source)
    assert not made[0].published


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


def test_a_trained_file_under_its_old_header_is_recognised(tmp_path: Path) -> None:
    source = write_torch(tmp_path / "img", autoencoder(ch_mult=[1]))
    inflate.convert(source, tmp_path / "v", **CPU)
    header = metadata_of(tmp_path / "v")
    tensors = load_file(tmp_path / "v")
    key = next(key for key in tensors if key.endswith("time_stack.in_layers.2.bias"))
    tensors[key] += 1.0
    trained = write_safetensors(tmp_path / "trained", tensors, header)
    found = inspect(tmp_path / "v"), inspect(trained)
    assert [inspection.changed for inspection in found] == [False, True]
    assert found[0].fingerprint == header["inflate.fingerprint"]
    assert [inflate.verify(p, **CPU).changed for p in (tmp_path / "v", trained)] == [False, True]


def test_a_large_file_is_read_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_CHEAP", 1)
    source = write_torch(tmp_path / "img", autoencoder(ch_mult=[1]))
    assert inspect(source).fingerprint is None
    assert inspect(source, fingerprint=True).fingerprint == print_of(source)


def test_the_hash_of_the_whole_source_on_request(tmp_path: Path) -> None:
    source = write_torch(tmp_path / "img", autoencoder(ch_mult=[1]))
    results = [
        inflate.convert(source, tmp_path / name, source_sha256=wanted, **CPU)
        for name, wanted in (("a", False), ("b", True))
    ]
    assert [result.source_sha256 for result in results] == [None, sha256(source)]
    assert metadata_of(tmp_path / "b")["inflate.source.sha256"] == sha256(source)
    assert "inflate.source.sha256" not in metadata_of(tmp_path / "a")
