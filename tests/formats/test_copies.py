"""Video checkpoints from one layout to another, bit for bit, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import inflate
from inflate.errors import ConfigError, PlanError
from inflate.formats.source import describe
from inflate.io.reader import open_checkpoint
from inflate.loading import read_tensor
from inflate.vocabulary import TARGETS
from inflate.workflow import convert
from tests.io.opening import assert_same

from ..checkpoints import (
    DDCONFIG,
    FIRST_STAGE,
    autoencoder,
    prefixed,
    video_autoencoder,
    write_lightning,
    write_safetensors,
    write_torch,
)
from ..conversions import CPU, metadata_of
from ..models.builders import error, noise
from .making import LIKE_CLASS, SVD, bare_video_decoder, temporal_model, weights_file

WHOLE = [each for each in TARGETS if each != "temporal"]
COPIES = [(one, two) for one in TARGETS[:4] for two in WHOLE]
NO_QUANT = ("sgm", "comfyui", "cogvideo")
pytestmark = pytest.mark.usefixtures("tiny_comfyui")
IDENTITY = ("quant_conv.weight", "quant_conv.bias")
"""What diffusers' class always has, made where a source has none."""


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The autoencoder in a file of any layout, under LDM's keys."""
    with open_checkpoint(path) as checkpoint:
        source = describe(checkpoint)
        return {key: read_tensor(source, key) for key in source.located.tensors}


def trained() -> dict[str, Tensor]:
    """A video autoencoder, its temporal layers trained, in which every layout finds its tensors."""
    weights = video_autoencoder("plain", temporal=SVD, **LIKE_CLASS)
    channels = 2 * DDCONFIG["z_channels"]
    identity = {"quant_conv.weight": torch.eye(channels)[:, :, None, None],
                "quant_conv.bias": torch.zeros(channels)}  # fmt: skip
    return {**weights, **identity}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same trained video autoencoder in every layout; the folder alone is made by convert."""
    folder = tmp_path_factory.mktemp("layouts")
    weights = trained()
    bare = {k: v for k, v in weights.items() if k not in IDENTITY}
    decoder = {k.removeprefix("decoder."): v for k, v in bare.items() if k.startswith("decoder.")}
    whole = write_safetensors(folder / "whole.safetensors", weights)
    convert(whole, folder / "diffusers", layout="diffusers", skip_parity=True, **CPU)
    return {
        "autoencoder": whole,
        "decoder": write_torch(folder / "decoder.pt", decoder),
        "sgm": write_lightning(folder / "sgm.ckpt", prefixed(bare)),
        "diffusers": folder / "diffusers",
    }


def held(layout: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a whole video autoencoder that a layout holds."""
    if layout == "decoder":
        return {k: v for k, v in weights.items() if k.startswith("decoder.")}
    if layout in NO_QUANT:
        return {k: v for k, v in weights.items() if k not in IDENTITY}
    return dict(weights)


@pytest.mark.parametrize(("one", "two"), COPIES)
def test_from_each_layout_to_each(
    request: pytest.FixtureRequest, layouts: dict[str, Path], one: str, two: str, tmp_path: Path
) -> None:
    if two == "diffusers":
        request.getfixturevalue("diffusers")
    source = layouts[one]
    before = tensors_of(source)
    options: dict[str, Any] = {**CPU, "layout": two}
    if two in NO_QUANT and one in ("autoencoder", "diffusers"):
        options["post_quant"] = "fold"
    if one == "decoder" and two in ("diffusers", "comfyui"):
        with pytest.raises(PlanError, match="it needs the encoder, and the source has none"):
            convert(source, tmp_path / "out", **options)
        return
    result = convert(source, tmp_path / "out", **options)
    assert result.parity is not None
    assert result.parity.passed
    after = tensors_of(tmp_path / "out")
    expected = held(two, before)
    if two == "diffusers":
        expected |= {key: trained()[key] for key in IDENTITY}
    # Folding an identity changes no bit either.
    assert_same(after, expected)


@pytest.mark.parametrize("layout", WHOLE)
def test_an_inflated_image_goes_round_by_every_layout(
    request: pytest.FixtureRequest, layout: str, tmp_path: Path
) -> None:
    if layout == "diffusers":
        request.getfixturevalue("diffusers")
    weights = autoencoder(**LIKE_CLASS)
    for key in ("post_quant_conv.weight", "post_quant_conv.bias"):
        del weights[key]
    if layout in NO_QUANT:
        weights = {k: v for k, v in weights.items() if not k.startswith("quant_conv.")}
    image = write_safetensors(tmp_path / "img.safetensors", weights)
    straight, there, back = (tmp_path / name for name in ("straight", "there", "back"))
    options: dict[str, Any] = {**CPU, "video_kernel_size": (3, 1, 1), "seed": 3}
    convert(image, straight, **options)
    convert(image, there, layout=layout, **options)
    convert(there, back, layout="autoencoder", **CPU)
    first, last = load_file(straight), load_file(back)
    assert_same(last, held(layout, first))
    header = metadata_of(back)
    assert header["inflate.seed"] == "3"
    assert header["inflate.layout"] == "autoencoder"
    if layout == "autoencoder":
        assert straight.read_bytes() != back.read_bytes()  # Its source is another.
        assert header["inflate.config"] == metadata_of(straight)["inflate.config"]


def test_a_folder_of_its_own_class_comes_back_the_same(
    diffusers: ModuleType, tmp_path: Path
) -> None:
    model = temporal_model(diffusers.AutoencoderKLTemporalDecoder, scaling_factor=0.5)
    model.save_pretrained(tmp_path / "model")
    decoders = {}
    for layout in ("autoencoder", "decoder"):
        convert(tmp_path / "model", tmp_path / layout, layout=layout, **CPU)
        decoders[layout] = inflate.load_video_decoder(tmp_path / layout)
    convert(tmp_path / "autoencoder", tmp_path / "back", layout="diffusers", **CPU)
    assert_same(load_file(weights_file(tmp_path / "back")), model.state_dict())
    made = diffusers.AutoencoderKLTemporalDecoder.from_pretrained(tmp_path / "back")
    own = {k: v for k, v in model.config.items() if not k.startswith("_")}
    differ = {k for k in own if list_of(made.config[k]) != list_of(own[k])}
    assert differ <= {"sample_size"}  # No tensor shows it.
    z = noise(6, 4, 3, 5)
    with torch.inference_mode():
        theirs = model.decode(z, num_frames=3).sample
        for decoder in decoders.values():
            assert error(decoder(z, timesteps=3), theirs) < 1e-5


def list_of(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("time_mode", ["all", "attn-only"])
@pytest.mark.parametrize("layout", ["autoencoder", "decoder", "sgm"])
def test_temporal_attention_is_copied_too(layout: str, time_mode: str, tmp_path: Path) -> None:
    temporal: dict[str, Any] = {"time_mode": time_mode}
    weights = video_autoencoder("plain", temporal=temporal, attn_resolutions=[16])
    source = write_torch(tmp_path / "video.pt", prefixed(weights))
    result = convert(source, tmp_path / "out", layout=layout, **CPU)
    assert result.parity is not None
    assert result.parity.verdict == "bitwise"
    assert_same(tensors_of(tmp_path / "out"), held(layout, weights))
    if layout == "decoder":
        bare_video_decoder(
            load_file(tmp_path / "out"), **{**DDCONFIG, "attn_resolutions": [16]}, **temporal
        )


def test_a_copy_can_be_cast(tmp_path: Path) -> None:
    weights = trained()
    source = write_safetensors(tmp_path / "video.safetensors", weights)
    result = convert(source, tmp_path / "out", layout="decoder", dtype="bfloat16", **CPU)
    assert result.parity is not None
    assert result.parity.passed
    expected = {k.removeprefix("decoder."): v.bfloat16() for k, v in weights.items()
                if k.startswith("decoder.")}  # fmt: skip
    assert_same(load_file(tmp_path / "out"), expected)
    weights["decoder.conv_in.bias"][0] = 1e6
    write_safetensors(source, weights)
    with pytest.raises(PlanError, match=r"overflows in float16 \(1 of 64 values"):
        convert(source, tmp_path / "half", layout="decoder", dtype="float16", **CPU)


# The command line


@pytest.mark.parametrize(
    "change",
    [
        {"time_mode": "all"},
        {"video_kernel_size": (3, 1, 1)},
        {"alpha": 0.5},
        {"merge_strategy": "fixed", "alpha": 0.5},
        {"set_": ["temporal.alpha=0.5"]},
        {"config": "svd"},
    ],
)
def test_a_copy_changes_no_temporal_layer(change: dict[str, Any], tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "video.safetensors", video_autoencoder("plain"))
    with pytest.raises(ConfigError):
        convert(source, tmp_path / "out", layout="sgm", **change, **CPU)
    assert list(tmp_path.iterdir()) == [source]


# A file that does not say how it blends


def blending(folder: Path, *shares: float) -> tuple[Path, dict[str, Tensor]]:
    """A video checkpoint of another tool, whose blocks blend by these numbers in turn."""
    weights = trained()
    keys = [key for key in weights if key.endswith("mix_factor")]
    for i, key in enumerate(keys):
        weights[key] = torch.tensor([shares[i % len(shares)]])
    return write_torch(folder / "video.pt", weights), weights


@pytest.mark.parametrize("layout", ["autoencoder", "decoder", "sgm"])
@pytest.mark.parametrize("shares", [(0.25,), (0.0, 0.5, 1.0)], ids=["one", "several"])
def test_a_blend_that_is_said_to_be_fixed_is_copied_as_that(
    layout: str, shares: tuple[float, ...], tmp_path: Path
) -> None:
    source, weights = blending(tmp_path, *shares)
    options: dict[str, Any] = {**CPU, "layout": layout}
    if layout == "sgm":
        options["post_quant"] = "fold"
    result = convert(source, tmp_path / "out", merge_strategy="fixed", **options)
    assert result.parity is not None
    assert result.parity.verdict == "bitwise"
    assert_same(tensors_of(tmp_path / "out"), held(layout, weights))
    with open_checkpoint(tmp_path / "out") as checkpoint:
        temporal = describe(checkpoint).config.temporal
    assert (temporal.merge_strategy, temporal.alpha) == ("fixed", shares[0])
    # What its own header says cannot be said again.
    with pytest.raises(ConfigError):
        convert(tmp_path / "out", tmp_path / "again", merge_strategy="learned", layout="decoder")


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_a_fixed_blend_that_no_sigmoid_reaches_is_not_exported(edge: float, tmp_path: Path) -> None:
    source, _ = blending(tmp_path, 0.25, edge)
    with pytest.raises(PlanError) as caught:
        convert(source, tmp_path / "out", merge_strategy="fixed", layout="diffusers",
                skip_parity=True, **CPU)  # fmt: skip
    (problem,) = caught.value.problems
    assert f"no sigmoid reaches the fixed alpha {edge:g}" in problem


@pytest.mark.parametrize("problem", ["missing", "extra", "misshapen"])
@pytest.mark.parametrize("layout", TARGETS)
def test_a_video_checkpoint_that_is_not_whole_is_told(
    problem: str, layout: str, tmp_path: Path
) -> None:
    weights = prefixed(video_autoencoder("plain", temporal=SVD, **LIKE_CLASS))
    key = f"{FIRST_STAGE}decoder.up.1.block.0.time_stack.out_layers.3.bias"
    said = f"{key} is missing"
    if problem == "missing":
        del weights[key]
    elif problem == "misshapen":
        weights[key] = torch.ones(3)
        said = f"{key} has the shape [3]; expected [64]"
    else:
        weights[f"{key}es"] = torch.ones(64)
        said = f"{key}es is not part of this architecture"
    source = write_safetensors(tmp_path / "video.safetensors", weights)
    with pytest.raises(PlanError) as caught:
        convert(source, tmp_path / "out", layout=layout, skip_parity=True, **CPU)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(said)
