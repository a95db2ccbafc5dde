"""Families that are not this one: named from their keys, on models made by their own classes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from inflate.workflow import inspect

from ..checkpoints import autoencoder, prefixed, write_safetensors, write_torch
from ..cli.conftest import Run
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
    "AutoencoderKLQwenImage": ("a causal 3D autoencoder (Wan)", _WAN),
    "AutoencoderKLHunyuanVideo": (
        "a causal 3D autoencoder (HunyuanVideo)", {**_VIDEO, "latent_channels": 4}
    ),
    "AutoencoderKLLTXVideo": (
        "a causal 3D autoencoder (LTX-Video)",
        {
            "block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4,
            "latent_channels": 4, "layers_per_block": (1,) * 5,
            "decoder_layers_per_block": (1,) * 5,
        },
    ),
    "AutoencoderKLAllegro": ("a 3D autoencoder (Allegro)", _VIDEO),
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

EXPECTED = "; expected an image autoencoder in the names of LDM, sgm or diffusers"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_of_another_family_is_refused_by_name(
    run: Run, diffusers: ModuleType, name: str, tmp_path: Path
) -> None:
    family, arguments = FAMILIES[name]
    getattr(diffusers, name)(**arguments).save_pretrained(tmp_path / "model")
    path = weights_file(tmp_path / "model")
    ran = run("convert", path, "--device", "cpu")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"error: {path} holds {family}{EXPECTED}\n"
    assert inspect(path).obstacles == (f"{path} holds {family}{EXPECTED}",)
    folder = run("convert", tmp_path / "model", "--device", "cpu")
    assert (folder.code, folder.err.count("\n")) == (2, 1)
    assert f"holds a '{name}' of diffusers; expected one of AutoencoderKL, " in folder.err
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
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "with names of this family"])
@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_the_original_names_are_known_too(
    run: Run, names: tuple[str, ...], family: str, beside: bool, prefix: str, tmp_path: Path
) -> None:
    weights = {name: torch.ones(1) for name in names}
    if beside:
        weights.update(autoencoder(ch_mult=[1]))
    path = write_torch(tmp_path / "file.pth", prefixed(weights, prefix))
    ran = run("convert", path, "--device", "cpu")
    assert ran.code == 2
    assert ran.err == f"error: {path} holds {family}{EXPECTED}\n"


def test_another_family_beside_one_of_this_is_left_behind(tmp_path: Path) -> None:
    weights = autoencoder(ch_mult=[1])
    beside = {"preview.decoder.layers.3.conv.0.weight": torch.ones(1)}
    path = write_safetensors(tmp_path / "file.safetensors", {**prefixed(weights, "vae."), **beside})
    seen = inspect(path)
    assert (seen.prefix, seen.obstacles) == ("vae.", ())


def test_folders_of_other_groups_are_refused(
    run: Run, diffusers: ModuleType, tmp_path: Path
) -> None:
    model = diffusers.AutoencoderKL(block_out_channels=(32,), norm_num_groups=16)
    model.save_pretrained(tmp_path / "model")
    ran = run("convert", tmp_path / "model", "--device", "cpu")
    assert ran.code == 2
    assert "norm_num_groups is 16; expected 32" in ran.err
