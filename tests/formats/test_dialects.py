"""The names of diffusers, there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from inflate import inspect
from inflate.formats.dialects import to_diffusers
from inflate.models import VideoDecoder
from tests.formats.test_architecture import configurations
from tests.io.opening import assert_same, located

from ..checkpoints import DDCONFIG, autoencoder, autoencoder_shapes, write_safetensors
from ..conversions import converted
from .making import SVD, old_names

UNET = (
    "unet.up_blocks.9.attentions.0.transformer_blocks.0.attn1.to_q.weight",
    "up_blocks.7.resnets.0.conv1.weight",
    "text_encoder.text_model.encoder.layers.0.mlp.fc1.weight",
)
"""Names of diffusers that are not an autoencoder's, with more levels than one has."""


def renamed(weights: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """LDM's weights under the names of ``AutoencoderKL``, attention as ``[C, C]``."""
    return {
        to_diffusers(key, levels, video=False): v[:, :, 0, 0]
        if ".attn" in key and v.dim() == 4
        else v
        for key, v in weights.items()
    }


@settings(max_examples=25, deadline=None, derandomize=True)
@given(configurations(), st.sampled_from(["", "vae.", "module.first_stage_model."]))
def test_there_and_back_is_the_identity_for_images(config: dict[str, Any], prefix: str) -> None:
    levels = len(config["ch_mult"])
    names = {key: to_diffusers(key, levels, video=False) for key in autoencoder_shapes(**config)}
    assert len(set(names.values())) == len(names)
    stored = [prefix + name for name in names.values()]
    found = located({**dict.fromkeys(stored, (1,)), **dict.fromkeys(UNET, (1,))})
    assert {key: info.name for key, info in found.tensors.items()} == {
        key: prefix + name for key, name in names.items()
    }


@settings(max_examples=10, deadline=None, derandomize=True)
@given(configurations())
def test_there_and_back_is_the_identity_for_videos(config: dict[str, Any]) -> None:
    config = {**config, "attn_resolutions": []}
    around = [key for key in autoencoder_shapes(**config) if not key.startswith("decoder.")]
    del config["embed_dim"]
    with torch.device("meta"):
        decoder = VideoDecoder(**{**DDCONFIG, **config}, **SVD)
    keys = [*around, *(f"decoder.{key}" for key in decoder.state_dict())]
    names = {key: to_diffusers(key, len(config["ch_mult"])) for key in keys}
    found = located(dict.fromkeys(names.values(), (1,)))
    assert {key: info.name for key, info in found.tensors.items()} == names


@pytest.mark.parametrize(
    ("kind", "naming", "prefix"), [("kl", old_names, "vae."), ("vq", dict, "")]
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
    result = converted(path, tmp_path / "out")
    written = load_file(tmp_path / "out")
    assert_same({key: written[key] for key in weights}, weights)
    assert {dropped.info.name for dropped in result.plan.dropped} == set(UNET)
    sources = {t.key: t.origin for t in result.plan.tensors if t.part != "temporal"}
    assert sorted(sources.values()) == sorted(stored)
