"""The names of diffusers, there and back, held against those of its own classes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from inflate import convert, inspect
from inflate.formats.dialects import to_diffusers
from inflate.models import VideoDecoder
from tests.formats.test_architecture import configurations
from tests.io.opening import assert_same, located

from ..checkpoints import DDCONFIG, autoencoder, autoencoder_shapes, write_safetensors
from ..conversions import CPU
from .making import CLASS_CONFIG, INSIDE, LIKE_CLASS, SVD, THREE_LEVELS, old_names

UNET = (
    "unet.up_blocks.9.attentions.0.transformer_blocks.0.attn1.to_q.weight",
    "up_blocks.7.resnets.0.conv1.weight",
    "text_encoder.text_model.encoder.layers.0.mlp.fc1.weight",
)
"""Names of diffusers that are not an autoencoder's, with more levels than one has."""


def image_keys(**config: Any) -> list[str]:
    return list(autoencoder_shapes("kl", **config))


def video_keys(**changes: Any) -> list[str]:
    with torch.device("meta"):
        decoder = VideoDecoder(**{**DDCONFIG, **changes}, **SVD)
    return [f"decoder.{key}" for key in decoder.state_dict()]


def renamed(weights: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """LDM's weights under the names of ``AutoencoderKL``, attention as ``[C, C]``."""
    names = to_diffusers(weights, levels, video=False)
    return {names[key]: v[:, :, 0, 0] if ".attn" in key and v.dim() == 4 else v
            for key, v in weights.items()}  # fmt: skip


@settings(max_examples=25, deadline=None, derandomize=True)
@given(configurations(), st.sampled_from(["", "vae.", "module.first_stage_model."]))
def test_there_and_back_is_the_identity_for_images(config: dict[str, Any], prefix: str) -> None:
    names = to_diffusers(image_keys(**config), len(config["ch_mult"]), video=False)
    assert len(set(names.values())) == len(names)
    stored = [prefix + name for name in names.values()]
    found = located({**dict.fromkeys(stored, (1,)), **dict.fromkeys(UNET, (1,))})
    assert {key: info.name for key, info in found.tensors.items()} == {
        key: prefix + name for key, name in names.items()
    }


@settings(max_examples=10, deadline=None, derandomize=True)
@given(configurations())
def test_there_and_back_is_the_identity_for_videos(config: dict[str, Any]) -> None:
    image = {**config, "attn_resolutions": []}
    encoder = [key for key in image_keys(**image) if not key.startswith("decoder.")]
    keys = [*video_keys(**{k: v for k, v in image.items() if k != "embed_dim"}), *encoder]
    names = to_diffusers(keys, len(config["ch_mult"]))
    found = located(dict.fromkeys(names.values(), (1,)))
    assert {info.name: key for key, info in found.tensors.items()} == {
        name: key for key, name in names.items()
    }


@pytest.mark.parametrize(
    "key",
    ["quantize.embedding.weight", "decoder.mid.attn_1.time_mix_block.norm_in.weight",
     "decoder.up.0.block.0.conv3.weight", "decoder.up.0.attn.0.mix_factor", "loss.logvar"],
)  # fmt: skip
def test_a_key_without_a_place_there_is_refused(key: str) -> None:
    with pytest.raises(KeyError):
        to_diffusers([key], 2)


@pytest.mark.parametrize(
    ("changes", "ours"),
    [
        (INSIDE, {"attn_resolutions": [16], "ch_mult": [1, 2]}),
        ({"layers_per_block": 1}, {"num_res_blocks": 1}),
        ({"mid_block_add_attention": False}, {"attn_type": "none"}),
        (THREE_LEVELS, {"ch_mult": [1, 2, 2]}),
    ],
    ids=["attention inside", "one block", "no attention", "three levels"],
)
def test_they_are_those_of_the_image_class(
    diffusers: ModuleType, changes: dict[str, Any], ours: dict[str, Any]
) -> None:
    with torch.device("meta"):
        model = diffusers.AutoencoderKL(**{**CLASS_CONFIG, **changes})
    levels = len(model.config["block_out_channels"])
    names = to_diffusers(image_keys(**{**LIKE_CLASS, **ours}), levels, video=False)
    assert sorted(names.values()) == sorted(model.state_dict())


def test_they_are_those_of_the_video_class(diffusers: ModuleType) -> None:
    with torch.device("meta"):
        model = diffusers.AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * 3,
            block_out_channels=(32, 64, 64),
            layers_per_block=2,
        )
    ours: dict[str, Any] = {**LIKE_CLASS, "ch_mult": [1, 2, 2]}
    around = [k for k in image_keys(**ours) if k.startswith(("encoder.", "quant_conv."))]
    names = to_diffusers([*video_keys(**ours), *around], 3)
    assert sorted(names.values()) == sorted(model.state_dict())


@pytest.mark.parametrize(
    ("kind", "naming", "prefix"),
    [("kl", old_names, "vae."), ("vq", dict, "")],
)
def test_a_single_file_in_these_names_is_converted_bit_for_bit(
    kind: str, naming: Any, prefix: str, tmp_path: Path
) -> None:
    weights = autoencoder(kind, attn_resolutions=[16])
    codebook = {k: v for k, v in weights.items() if k.startswith("quantize.")}
    own = renamed({k: v for k, v in weights.items() if k not in codebook}, 2)
    stored = {prefix + k: v for k, v in {**naming(own), **codebook}.items()}
    around = {name: torch.ones(2) for name in UNET}
    path = write_safetensors(tmp_path / "file.safetensors", {**stored, **around})
    assert inspect(path).names == "diffusers"
    result = convert(path, tmp_path / "out", **CPU)
    assert result.parity is not None
    assert result.parity.verdict == "bitwise"
    written = load_file(tmp_path / "out")
    assert_same({key: written[key] for key in weights}, weights)
    assert {dropped.source for dropped in result.plan.dropped} == set(UNET)
    sources = {t.key: t.origin.source for t in result.plan.tensors if t.part != "temporal"}
    assert sorted(sources.values()) == sorted(stored)
