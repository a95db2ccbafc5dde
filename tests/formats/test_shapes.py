"""The tensors of every preset, in full size and without a number of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from inflate.config.presets import load_presets
from inflate.config.schema import Architecture
from inflate.models import Decoder, Encoder, VideoDecoder
from inflate.workflow import convert
from tests.io.opening import architecture_of_preset

from ..checkpoints import FIRST_STAGE
from ..conversions import CPU
from ..models.builders import REFERENCE, shapes_of

Shapes = Mapping[str, tuple[int, ...]]

IMAGES = {name: FIRST_STAGE if name in ("kl-f8", "sdxl", "sd3") else ""
          for name in load_presets() if name != "svd"}  # fmt: skip
"""Presets of image autoencoders, and the prefix in the file that each is known from."""


def module_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Key to shape of the modules and convolutions that make up an autoencoder."""
    e, z = architecture.embed_dim, architecture.z_channels
    twice = 2 if architecture.double_z else 1
    with torch.device("meta"):
        modules: dict[str, torch.nn.Module] = {
            "encoder": Encoder(**architecture.module_arguments()),
            "decoder": Decoder(**architecture.module_arguments()),
        }
        if e is not None:
            modules["quant_conv"] = torch.nn.Conv2d(twice * z, twice * e, 1)
            modules["post_quant_conv"] = torch.nn.Conv2d(e, z, 1)
        if architecture.n_embed is not None:
            modules["quantize.embedding"] = torch.nn.Embedding(architecture.n_embed, e or z)
    return {f"{name}.{key}": s for name, m in modules.items() for key, s in shapes_of(m).items()}


def hollow(path: Path, shapes: Shapes) -> Path:
    """A float16 safetensors file of these tensors, all of it a hole behind the header."""
    entries = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        entries[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    return path


def planned(path: Path, **options: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes that a conversion of a file would write."""
    result = convert(path, dry_run=True, **CPU, **options)
    return {t.info.name: t.shape for t in result.plan.tensors}


def known(case: str) -> dict[str, tuple[int, ...]]:
    """Key to shape of a decoder as the original modules show it."""
    cases = json.loads((REFERENCE / "state_dict_keys.json").read_text())
    return {key: tuple(shape) for key, shape in cases[case].items()}


@pytest.mark.parametrize("preset", IMAGES)
def test_a_file_of_a_preset_in_full_size_is_planned(preset: str, tmp_path: Path) -> None:
    shapes = module_shapes(architecture_of_preset(preset))
    stored = {IMAGES[preset] + key: shape for key, shape in shapes.items()}
    path = hollow(tmp_path / "full.safetensors", stored)
    with torch.device("meta"):
        video = VideoDecoder(**architecture_of_preset(preset).module_arguments(), time_mode="all")
    expected = shapes | {f"decoder.{key}": shape for key, shape in shapes_of(video).items()}
    assert planned(path, time_mode="all") == expected
    assert planned(path, time_mode="all", config=preset) == expected


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("kl-f8/conv-only/k3", {}),
        ("kl-f8/conv-only/k3-1-1", {"config": "svd"}),
        ("kl-f8/all/k3", {"time_mode": "all"}),
        ("kl-f8/attn-only", {"time_mode": "attn-only"}),
        ("kl-f16/all/k3", {"time_mode": "all"}),
    ],
)
def test_layout_decoder_has_the_keys_of_the_original_module(
    case: str, options: dict[str, Any], tmp_path: Path
) -> None:
    shapes = module_shapes(architecture_of_preset(case.split("/")[0]))
    path = hollow(tmp_path / "full.safetensors", shapes)
    assert planned(path, layout="decoder", **options) == known(case)


def test_layout_diffusers_has_the_keys_of_its_class_in_full_size(
    diffusers: Any, tmp_path: Path
) -> None:
    path = hollow(tmp_path / "full.safetensors", module_shapes(architecture_of_preset("flux")))
    made = planned(path, layout="diffusers", video_kernel_size=(3, 1, 1))
    with torch.device("meta"):
        model = diffusers.AutoencoderKLTemporalDecoder(
            latent_channels=16,
            down_block_types=("DownEncoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
    assert made == shapes_of(model)
