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
from inflate import convert
from inflate.errors import ConfigError, PlanError
from inflate.formats.source import describe
from inflate.io.reader import open_checkpoint
from inflate.loading import read_tensor
from inflate.vocabulary import TARGETS
from tests.io.opening import assert_same

from ..checkpoints import (
    DDCONFIG,
    prefixed,
    under,
    video_autoencoder,
    write_lightning,
    write_safetensors,
    write_torch,
)
from ..conversions import CPU, converted
from ..models.builders import error, noise
from .making import DEEPER, LIKE_CLASS, SVD, diffusers_model, weights_file

WHOLE = [each for each in TARGETS if each != "temporal"]
COPIES = [
    (one, two) if j == (i + 1) % 4 else pytest.param(one, two, marks=pytest.mark.slow)
    for i, one in enumerate(TARGETS[:4]) for j, two in enumerate(WHOLE)
]  # fmt: skip
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
    whole = write_safetensors(folder / "whole.safetensors", trained())
    convert(whole, folder / "diffusers", layout="diffusers", skip_parity=True, **CPU)
    bare = held("sgm", trained())
    return {
        "autoencoder": whole,
        "decoder": write_torch(folder / "decoder.pt", under(bare, "decoder.")),
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
        with pytest.raises(PlanError, match="it needs the encoder, but the source has none"):
            convert(source, tmp_path / "out", **options)
        return
    assert convert(source, tmp_path / "out", **options).passed
    after = tensors_of(tmp_path / "out")
    expected = held(two, before)
    if two == "diffusers":
        expected |= {key: trained()[key] for key in IDENTITY}
    # Folding an identity changes no bit either.
    assert_same(after, expected)


def test_a_folder_of_its_own_class_comes_back_the_same(
    diffusers: ModuleType, tmp_path: Path
) -> None:
    kind = diffusers.AutoencoderKLTemporalDecoder
    model = diffusers_model(kind, scaling_factor=0.5, **DEEPER)
    model.save_pretrained(tmp_path / "model")
    decoders = {}
    for layout in ("autoencoder", "decoder"):
        convert(tmp_path / "model", tmp_path / layout, layout=layout, **CPU)
        decoders[layout] = inflate.load_video_decoder(tmp_path / layout)
    convert(tmp_path / "autoencoder", tmp_path / "back", layout="diffusers", **CPU)
    assert_same(load_file(weights_file(tmp_path / "back")), model.state_dict())
    assert kind.from_pretrained(tmp_path / "back").config["scaling_factor"] == 0.5
    z = noise(6, 4, 3, 5)
    with torch.inference_mode():
        theirs = model.decode(z, num_frames=3).sample
        for decoder in decoders.values():
            assert error(decoder(z, timesteps=3), theirs) < 1e-5


@pytest.mark.parametrize(("layout", "dtype"), [("decoder", "bfloat16"), ("sgm", "float32")])
def test_temporal_attention_is_copied_too(layout: str, dtype: Any, tmp_path: Path) -> None:
    temporal: dict[str, Any] = {"time_mode": "all"}
    weights = video_autoencoder("plain", temporal=temporal, attn_resolutions=[16])
    source = write_torch(tmp_path / "video.pt", prefixed(weights))
    converted(source, tmp_path / "out", layout=layout, dtype=dtype)
    stored = getattr(torch, dtype)
    expected = {key: tensor.to(stored) for key, tensor in held(layout, weights).items()}
    assert_same(tensors_of(tmp_path / "out"), expected)


@pytest.mark.parametrize(
    "change",
    [
        {"time_mode": "all"}, {"alpha": 0.5}, {"set_": ["temporal.alpha=0.5"]}, {"config": "svd"},
    ],
)  # fmt: skip
def test_a_copy_changes_no_temporal_layer(change: dict[str, Any], tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "video.safetensors", video_autoencoder(**LIKE_CLASS))
    with pytest.raises(ConfigError):
        convert(source, tmp_path / "out", layout="sgm", **change, **CPU)
    assert list(tmp_path.iterdir()) == [source]


BIAS = "decoder.up.0.block.0.time_stack.out_layers.3.bias"


@pytest.mark.parametrize(
    "change", [{BIAS: None}, {BIAS: torch.ones(3)}, {f"{BIAS}es": torch.ones(32)}],
    ids=["missing", "misshapen", "extra"],
)  # fmt: skip
def test_a_video_checkpoint_that_is_not_whole_is_refused(
    change: dict[str, Any], tmp_path: Path
) -> None:
    weights = {**video_autoencoder("plain", temporal=SVD, **LIKE_CLASS), **change}
    stored = {key: tensor for key, tensor in weights.items() if tensor is not None}
    source = write_safetensors(tmp_path / "video.safetensors", stored)
    with pytest.raises(PlanError) as caught:
        convert(source, tmp_path / "out", layout="decoder", skip_parity=True, **CPU)
    assert len(caught.value.problems) == 1
