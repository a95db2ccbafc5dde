"""Families that are not this one: named from their keys, on models made by their own classes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from inflate.errors import FamilyError
from inflate.workflow import convert, inspect

from ..checkpoints import autoencoder, prefixed, write_safetensors, write_torch
from ..conversions import CPU
from .making import weights_file

_WAN: dict[str, Any] = {
    "base_dim": 4, "z_dim": 4, "dim_mult": [1, 1], "num_res_blocks": 1,
    "temperal_downsample": [True], "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4,
}  # fmt: skip
_VIDEO: dict[str, Any] = {
    "block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 2,
}  # fmt: skip
_RES = ("ResBlock", "ResBlock")

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "AutoencoderTiny": (
        "TAESD, a tiny autoencoder",
        {
            "encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8),
            "num_encoder_blocks": (1, 3), "num_decoder_blocks": (3, 1),
        },
    ),
    "AutoencoderKLCogVideoX": (
        "a causal 3D autoencoder (CogVideoX)",
        {
            "down_block_types": ("CogVideoXDownBlock3D",) * 4,
            "up_block_types": ("CogVideoXUpBlock3D",) * 4,
            "latent_channels": 4, **_VIDEO,
        },
    ),
    "AutoencoderKLWan": ("a causal 3D autoencoder (Wan)", _WAN),
    "AutoencoderKLLTXVideo": (
        "a causal 3D autoencoder (LTX-Video)",
        {
            "block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4,
            "latent_channels": 4, "layers_per_block": (1,) * 5,
            "decoder_layers_per_block": (1,) * 5,
        },
    ),
    "AutoencoderKLCosmos": (
        "a Cosmos tokenizer",
        {
            "latent_channels": 4, "num_layers": 1, "encoder_block_out_channels": (8,) * 4,
            "decode_block_out_channels": (8,) * 4,
        },
    ),
    "AutoencoderDC": (
        "DC-AE, a deep compression autoencoder",
        {
            "latent_channels": 4, "attention_head_dim": 2, "upsample_block_type": "interpolate",
            "encoder_block_types": _RES, "decoder_block_types": _RES,
            "encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8),
            "encoder_layers_per_block": (1, 1), "decoder_layers_per_block": (1, 1),
            "encoder_qkv_multiscales": ((), ()), "decoder_qkv_multiscales": ((), ()),
        },
    ),
}  # fmt: skip
"""Classes of diffusers, what each is called here, and what makes a small one of it."""


@pytest.mark.parametrize(
    "name", [n if n == "AutoencoderTiny" else pytest.param(n, marks=pytest.mark.slow)
             for n in FAMILIES]
)  # fmt: skip
def test_a_file_of_another_family_is_refused_by_name(
    diffusers: ModuleType, name: str, tmp_path: Path
) -> None:
    family, arguments = FAMILIES[name]
    getattr(diffusers, name)(**arguments).save_pretrained(tmp_path / "model")
    path = weights_file(tmp_path / "model")
    for source, found in ((path, family), (tmp_path / "model", name)):
        with pytest.raises(FamilyError) as caught:
            convert(source, **CPU)
        assert found in str(caught.value)
    assert family in inspect(path).obstacles[0]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("names", "family"),
    [
        # As the original tools name them: sat, Wan, Cosmos, efficientvit.
        (
            ("decoder.mid.block_1.conv1.conv.weight", "decoder.conv_in.conv.weight"),
            "a causal 3D autoencoder",
        ),
        (
            ("decoder.middle.0.residual.0.gamma", "decoder.middle.0.residual.2.weight"),
            "a causal 3D autoencoder (Wan)",
        ),
        # Its image tokenizer has the very names of this family, and wavelets.
        (("decoder.unpatcher.wavelets", "encoder.patcher.wavelets"), "a Cosmos tokenizer"),
        (("decoder.unpatcher3d.wavelets",), "a Cosmos tokenizer"),
        (("decoder.stages.0.0.main.conv.weight",), "DC-AE, a deep compression autoencoder"),
    ],
)
@pytest.mark.parametrize(
    ("others", "prefix"), [(False, ""), (True, "first_stage_model.")],
    ids=["alone", "under a prefix, with names of this family"],
)  # fmt: skip
def test_the_original_names_are_known_too(
    names: tuple[str, ...], family: str, others: bool, prefix: str, tmp_path: Path
) -> None:
    weights = {name: torch.ones(1) for name in names}
    if others:
        weights.update(autoencoder(ch_mult=[1]))
    path = write_torch(tmp_path / "file.pth", prefixed(weights, prefix))
    with pytest.raises(FamilyError) as caught:
        convert(path, **CPU)
    assert f"{path} holds {family};" in str(caught.value)


def test_another_family_next_to_one_of_this_is_left_behind(tmp_path: Path) -> None:
    weights = autoencoder(ch_mult=[1])
    beside = {"preview.decoder.layers.3.conv.0.weight": torch.ones(1)}
    path = write_safetensors(tmp_path / "file.safetensors", {**prefixed(weights, "vae."), **beside})
    seen = inspect(path)
    assert (seen.prefix, seen.obstacles) == ("vae.", ())
