"""What each layout writes: names, what has no place, types, and where every tensor came from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import inflate
from inflate import convert
from inflate.io.reader import open_checkpoint
from inflate.vocabulary import TARGETS
from tests.io.opening import assert_same

from ..checkpoints import (
    DDCONFIG,
    FIRST_STAGE,
    KINDS,
    autoencoder,
    prefixed,
    write_lightning,
    write_safetensors,
)
from ..conversions import CPU, image_decode, metadata_of
from ..models.builders import noise
from .making import LIKE_CLASS, bare_video_decoder, under, weights_file

HERE: dict[str, Any] = {**CPU, "video_kernel_size": (3, 1, 1)}


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """An autoencoder without quant convs, which every layout has a place for."""
    return write_lightning(tmp_path / "img.ckpt", autoencoder("plain", **LIKE_CLASS))


def weights_of(path: Path) -> Path:
    """The file of weights of a layout's output."""
    return weights_file(path) if path.is_dir() else path


@pytest.mark.parametrize("kind", KINDS)
def test_layout_autoencoder_is_the_default_and_holds_everything(kind: str, tmp_path: Path) -> None:
    weights = autoencoder(kind, ch_mult=[1])
    path = write_lightning(tmp_path / "img.ckpt", weights)
    result = convert(path, **CPU)
    assert result.output == tmp_path / "img.video.safetensors"
    written = load_file(result.output)
    assert_same({key: written[key] for key in weights}, weights)
    assert {name.split(".")[0] for name in written} == {name.split(".")[0] for name in weights}
    assert metadata_of(result.output)["inflate.layout"] == "autoencoder"


def test_layout_sgm_is_under_the_prefix_of_a_first_stage(plain: Path, tmp_path: Path) -> None:
    convert(plain, tmp_path / "out.safetensors", layout="sgm", **HERE)
    written = load_file(tmp_path / "out.safetensors")
    weights = prefixed(autoencoder("plain", **LIKE_CLASS))
    assert_same({key: written[key] for key in weights}, weights)
    assert all(name.startswith(FIRST_STAGE) for name in written)
    bare_video_decoder(
        under(written, f"{FIRST_STAGE}decoder."),
        **{**DDCONFIG, **LIKE_CLASS}, video_kernel_size=[3, 1, 1],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "time_mode"), [("kl", "all"), ("vq", "conv-only"), ("plain", "attn-only")]
)
def test_layout_decoder_loads_strictly_into_a_video_decoder(
    kind: str, time_mode: str, tmp_path: Path
) -> None:
    weights = autoencoder(kind)
    path = write_lightning(tmp_path / "img.ckpt", weights)
    out = tmp_path / "out.safetensors"
    result = convert(path, out, layout="decoder", time_mode=time_mode, **CPU)
    assert result.parity is not None
    assert result.parity.verdict == "bitwise"
    decoder = bare_video_decoder(load_file(out), **DDCONFIG, time_mode=time_mode)
    z = noise(6, 4, 4, 3)
    alone = {key: tensor for key, tensor in weights.items() if key.startswith("decoder.")}
    with torch.inference_mode():
        assert torch.equal(decoder(z, timesteps=3), image_decode(alone, z))
    left = {d.source for d in result.plan.dropped}
    assert left == set(weights) - set(alone)
    assert len(result.notes) == (kind != "plain")


def grouped(names: Iterable[str]) -> Counter[str]:
    """Names counted by their first two parts."""
    parts = [name.split(".") for name in names]
    return Counter(".".join(p[:2]) + ".*" if len(p) > 2 else ".".join(p) for p in parts)


@pytest.mark.parametrize("layout", TARGETS)
@pytest.mark.usefixtures("tiny_comfyui")
def test_the_header_says_where_every_group_of_tensors_came_from(
    plain: Path, layout: str, tmp_path: Path
) -> None:
    convert(plain, tmp_path / "out", layout=layout, skip_parity=True, **HERE)
    path = weights_of(tmp_path / "out")
    with open_checkpoint(path) as checkpoint:
        written, header = set(checkpoint.tensors), checkpoint.metadata
    groups = json.loads(header["inflate.provenance"])
    counted: Counter[str] = Counter()
    for entry in groups:
        counted[entry["tensors"]] += entry["count"]
        start = {"spatial": "copied from ", "temporal": "made: "}.get(entry["part"], "")
        assert entry["origin"].startswith(start)
    assert counted == grouped(written)


def test_temporal_norms_can_stay_in_float32(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "img.safetensors", autoencoder())
    out = tmp_path / "out.safetensors"
    options: dict[str, Any] = {"dtype": "float16", "time_mode": "all", "float32_norms": True}
    result = convert(path, out, **options, **CPU)
    assert result.parity is not None
    assert result.parity.verdict == "bitwise"
    written = load_file(out)
    wide = {name for name, tensor in written.items() if tensor.dtype == torch.float32}
    assert wide == {
        t.key for t in result.plan.of("temporal")
        if {"norm_in", "norm1", "norm2", "norm3"} & set(t.key.split("."))
        or {("in_layers", "0"), ("out_layers", "0")} & {tuple(t.key.split(".")[-3:-1])}
    }  # fmt: skip
    assert {written[name].dtype for name in written.keys() - wide} == {torch.float16}
    # Half in, half out: the file is of use in the type that it is stored in.
    with torch.inference_mode():
        images = inflate.load_video_decoder(out)(noise(4, 4, 4, 4).half(), timesteps=2)
    assert images.dtype == torch.float16
    assert images.isfinite().all()
