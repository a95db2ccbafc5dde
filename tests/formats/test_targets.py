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
from inflate.errors import PlanError
from inflate.io.reader import open_checkpoint
from inflate.models import VideoDecoder
from inflate.vocabulary import TARGETS
from inflate.workflow import convert, verify
from tests.io.opening import assert_same

from ..checkpoints import (
    DDCONFIG,
    FIRST_STAGE,
    KINDS,
    autoencoder,
    bare_decoder,
    prefixed,
    video_autoencoder,
    write_lightning,
    write_safetensors,
)
from ..cli.conftest import Run
from ..conversions import CPU, image_decode, metadata_of
from ..models.builders import noise
from .making import LIKE_CLASS, bare_video_decoder, under, weights_file

HERE: dict[str, Any] = {**CPU, "video_kernel_size": (3, 1, 1)}
FOLDED: dict[str, Any] = {"post_quant": "fold", "allow_inexact": True}


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """An autoencoder without quant convs, which every layout has a place for."""
    return write_lightning(tmp_path / "img.ckpt", autoencoder("plain", **LIKE_CLASS))


def weights_of(path: Path) -> Path:
    """The file of weights of a layout's output."""
    return weights_file(path) if path.is_dir() else path


# The names


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", [None, "autoencoder"])
def test_layout_autoencoder_is_the_default_and_holds_everything(
    layout: str | None, kind: str, tmp_path: Path
) -> None:
    weights = autoencoder(kind)
    path = write_lightning(tmp_path / "img.ckpt", weights)
    result = convert(path, layout=layout, **CPU)
    assert result.layout == "autoencoder"
    assert result.output == tmp_path / "img.video.safetensors"
    written = load_file(result.output)
    assert_same({key: written[key] for key in weights}, weights)
    assert {name.split(".")[0] for name in written} == {name.split(".")[0] for name in weights}
    assert metadata_of(result.output)["inflate.layout"] == "autoencoder"


@pytest.mark.parametrize("time_mode", ["all", "conv-only", "attn-only"])
@pytest.mark.parametrize("kind", KINDS)
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
    assert all("layout 'decoder'" in d.reason for d in result.plan.dropped)
    assert len(result.notes) == (kind != "plain")


def test_layout_sgm_is_under_the_prefix_of_a_first_stage(plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    convert(plain, out, layout="sgm", **HERE)
    written = load_file(out)
    weights = autoencoder("plain", **LIKE_CLASS)
    assert_same(
        {
            key: tensor
            for key, tensor in written.items()
            if key.removeprefix(FIRST_STAGE) in weights
        },
        prefixed(weights),
    )
    whole = video_autoencoder("plain", temporal={"video_kernel_size": 3}, **LIKE_CLASS)
    assert set(written) == set(prefixed(whole))
    # What tells others that this first stage is a video one.
    assert f"{FIRST_STAGE}decoder.mid.block_1.mix_factor" in written
    bare_video_decoder(
        under(written, f"{FIRST_STAGE}decoder."),
        **{**DDCONFIG, **LIKE_CLASS}, video_kernel_size=[3, 1, 1],
    )  # fmt: skip


@pytest.mark.parametrize("layout", [each for each in TARGETS if each != "temporal"])
@pytest.mark.usefixtures("tiny_comfyui")
def test_every_layout_verifies_against_its_source(plain: Path, layout: str, tmp_path: Path) -> None:
    convert(plain, tmp_path / "out", layout=layout, skip_parity=True, **HERE)
    assert verify(plain, tmp_path / "out", **CPU).verdict == "bitwise"
    ours = inflate.load_video_decoder(tmp_path / "out")
    assert isinstance(ours, VideoDecoder)


def test_a_bare_decoder_goes_where_a_decoder_is_enough(tmp_path: Path) -> None:
    weights = bare_decoder()
    path = write_safetensors(tmp_path / "img.safetensors", weights)
    for layout, prefix in (("autoencoder", "decoder."), ("decoder", ""), ("sgm", FIRST_STAGE)):
        convert(path, tmp_path / layout, layout=layout, **CPU)
        own = prefix if layout != "sgm" else f"{FIRST_STAGE}decoder."
        written = under(load_file(tmp_path / layout), own)
        assert_same({key: written[key] for key in weights}, weights)
    with pytest.raises(PlanError, match="it needs the encoder"):
        convert(path, layout="diffusers", dry_run=True, **HERE)


# What has no place


@pytest.mark.parametrize(
    ("kind", "layout", "problems"),
    [
        (
            "kl",
            "sgm",
            [
                "it has no place for post_quant_conv: fold it in with --post-quant fold",
                "it has no place for quant_conv: fold it in with --post-quant fold",
            ],
        ),
        (
            "vq",
            "sgm",
            [
                "it has no place for post_quant_conv: fold it in with --post-quant fold",
                "it has no place for quant_conv: fold it in with --post-quant fold",
                "it has no place for a codebook (quantize.*): choose 'autoencoder' or 'decoder'",
            ],
        ),
        (
            "kl",
            "diffusers",
            ["it has no place for post_quant_conv: fold it in with --post-quant fold"],
        ),
    ],
)
def test_a_layout_without_a_place_says_so_and_folds_nothing_unasked(
    run: Run, kind: str, layout: str, problems: list[str], tmp_path: Path
) -> None:
    path = write_safetensors(tmp_path / "img.safetensors", autoencoder(kind, **LIKE_CLASS))
    # Leave to fold is no order to.
    ran = run("convert", path, "--layout", layout, "--video-kernel-size", "3,1,1",
              "--allow-inexact", "--skip-parity", "--device", "cpu")  # fmt: skip
    assert (ran.code, ran.out) == (2, "")
    first, *said = ran.err.splitlines()
    assert first == f"error: layout '{layout}' cannot hold this:"
    assert [line.removeprefix("  - ") for line in said if "double_z" not in line] == problems
    assert list(tmp_path.iterdir()) == [path]


# Where everything came from


def grouped(names: Iterable[str]) -> Counter[str]:
    """Names counted by their first two parts."""
    parts = [name.split(".") for name in names]
    return Counter(".".join(p[:2]) + ".*" if len(p) > 2 else ".".join(p) for p in parts)


@pytest.mark.parametrize("layout", TARGETS)
@pytest.mark.usefixtures("tiny_comfyui")
def test_the_header_says_where_every_group_of_tensors_came_from(
    plain: Path, layout: str, tmp_path: Path
) -> None:
    result = convert(plain, tmp_path / "out", layout=layout, skip_parity=True, **HERE)
    path = weights_of(tmp_path / "out")
    with open_checkpoint(path) as checkpoint:
        written, header = set(checkpoint.tensors), checkpoint.metadata
    said = json.loads(header["inflate.provenance"])
    counted: Counter[str] = Counter()
    for entry in said:
        counted[entry["tensors"]] += entry["count"]
        copied = entry["origin"].startswith("copied from ")
        made = entry["origin"] in {f"made: {r}" for r in ("zeros", "ones", "dirac", "constant",
                                                          "uniform")}  # fmt: skip
        assert copied or made
        if entry["part"] == "spatial":
            assert copied
        if entry["part"] == "temporal":
            assert made
    assert counted == grouped(written)
    origins = {e["origin"].removeprefix("copied from ") for e in said if e["part"] == "spatial"}
    assert origins <= set(grouped(autoencoder("plain", **LIKE_CLASS)))
    assert sum(counted.values()) == len(result.plan.tensors)


# Types


def test_values_that_overflow_are_counted_and_refused(run: Run, tmp_path: Path) -> None:
    weights = autoencoder("plain")
    weights["decoder.conv_in.weight"].view(-1)[:7] = 1e6
    weights["encoder.conv_in.bias"][3] = -7e4
    path = write_safetensors(tmp_path / "img.safetensors", weights)
    for layout in TARGETS[:3]:
        ran = run("convert", path, "--dtype", "float16", "--layout", layout, "--device", "cpu")
        assert ran.code == 2
        count = weights["decoder.conv_in.weight"].numel()
        assert (
            f"  - decoder.conv_in.weight overflows in float16 (7 of {count} values, the largest "
            "1e+06); store it in bfloat16 or float32"
        ) in ran.err
        told = "encoder.conv_in.bias overflows in float16 (1 of 32 values, the largest 7e+04)"
        assert (told in ran.err) is (layout != "decoder")
        assert list(tmp_path.iterdir()) == [path]
    assert run("convert", path, "--dtype", "bfloat16", "--device", "cpu").code == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("time_mode", ["all", "conv-only", "attn-only"])
def test_temporal_norms_can_stay_in_float32(dtype: str, time_mode: str, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "img.safetensors", autoencoder())
    out = tmp_path / "out.safetensors"
    options: dict[str, Any] = {"dtype": dtype, "time_mode": time_mode, "float32_norms": True}
    result = convert(path, out, **options, **CPU)
    assert result.parity is not None
    assert result.parity.verdict == "bitwise"
    written = load_file(out)
    wide = {name for name, tensor in written.items() if tensor.dtype == torch.float32}
    norms = {
        t.key for t in result.plan.of("temporal")
        if {"norm_in", "norm1", "norm2", "norm3"} & set(t.key.split("."))
        or {("in_layers", "0"), ("out_layers", "0")} & {tuple(t.key.split(".")[-3:-1])}
    }  # fmt: skip
    assert norms
    assert wide == norms
    assert {str(tensor.dtype) for name, tensor in written.items() if name not in wide} == {
        f"torch.{dtype}"
    }
    # Half in, half out: the file is of use in the type that it is stored in.
    decoder = inflate.load_video_decoder(out)
    with torch.inference_mode():
        images = decoder(noise(4, 4, 4, 4).to(getattr(torch, dtype)), timesteps=2)
    assert images.dtype == getattr(torch, dtype)
    assert images.isfinite().all()
