"""The presets, held against the table of what is known of each family."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from inflate.config import presets
from inflate.config.loading import build_config, known_keys, read_config
from inflate.config.presets import load_presets, matching_presets
from inflate.config.schema import Architecture, Config
from inflate.models import Decoder, Encoder, VideoDecoder
from inflate.vocabulary import DDCONFIG_KEYS
from tests.io.opening import architecture_of

from ..checkpoints import autoencoder_shapes

COMMON: dict[str, Any] = {
    "ch": 128,
    "num_res_blocks": 2,
    "in_channels": 3,
    "out_ch": 3,
    "resolution": 256,
    "dropout": 0.0,
    "attn_type": "vanilla",
    "double_z": True,
    "embed_dim": None,
    "n_embed": None,
    "scaling_factor": None,
    "shift_factor": None,
    "resamp_with_conv": True,
    "give_pre_end": False,
    "tanh_out": False,
}
VQ: dict[str, Any] = {"double_z": False}
# Name: ch_mult, z_channels, attn_resolutions, and what is not as in COMMON.
TABLE: dict[str, tuple[tuple[int, ...], int, tuple[int, ...], dict[str, Any]]] = {
    "kl-f4": ((1, 2, 4), 3, (), {"embed_dim": 3}),
    "kl-f8": ((1, 2, 4, 4), 4, (), {"embed_dim": 4, "scaling_factor": 0.18215}),
    "sdxl": ((1, 2, 4, 4), 4, (), {"embed_dim": 4, "scaling_factor": 0.13025}),
    "sd3": ((1, 2, 4, 4), 16, (), {"scaling_factor": 1.5305, "shift_factor": 0.0609}),
    "flux": ((1, 2, 4, 4), 16, (), {"scaling_factor": 0.3611, "shift_factor": 0.1159}),
    "kl-f16": ((1, 1, 2, 2, 4), 16, (16,), {"embed_dim": 16}),
    "kl-f32": ((1, 1, 2, 2, 4, 4), 64, (16, 8), {"embed_dim": 64}),
    "vq-f4": ((1, 2, 4), 3, (), {**VQ, "embed_dim": 3, "n_embed": 8192}),
    "vq-f4-noattn": (
        (1, 2, 4), 3, (), {**VQ, "embed_dim": 3, "n_embed": 8192, "attn_type": "none"}
    ),
    "vq-f8": ((1, 2, 2, 4), 4, (32,), {**VQ, "embed_dim": 4, "n_embed": 16384}),
    "vq-f8-n256": ((1, 2, 2, 4), 4, (32,), {**VQ, "embed_dim": 4, "n_embed": 256}),
    "vq-f16": ((1, 1, 2, 2, 4), 8, (16,), {**VQ, "embed_dim": 8, "n_embed": 16384}),
    # Its tensors leave the quant convs open; this checkpoint has them.
    "svd": ((1, 2, 4, 4), 4, (), {"embed_dim": 4, "scaling_factor": 0.18215}),
}  # fmt: skip


def expected(name: str) -> dict[str, Any]:
    ch_mult, z_channels, attn_resolutions, rest = TABLE[name]
    return {
        **COMMON,
        "ch_mult": ch_mult,
        "z_channels": z_channels,
        "attn_resolutions": attn_resolutions,
        **rest,
    }


def known(values: dict[str, Any]) -> dict[str, Any]:
    """The values that are set, and all that the table names."""
    return {k: v for k, v in values.items() if v is not None or k in COMMON}


def seen(name: str) -> Architecture:
    """What a checkpoint of a row of the table shows of itself."""
    row = expected(name)
    kind = "vq" if row["n_embed"] else "plain" if row["embed_dim"] is None else "kl"
    ddconfig = {k: v for k, v in row.items() if k in DDCONFIG_KEYS}
    shapes = autoencoder_shapes(kind, **ddconfig, embed_dim=row["embed_dim"])
    if kind == "vq":
        shapes["quantize.embedding.weight"] = (row["n_embed"], row["embed_dim"])
    return architecture_of(shapes)


def configured(name: str) -> Config:
    return build_config(seen(name), read_config(name))


def test_presets_are_found_in_the_package_or_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "inflate"
    monkeypatch.setattr(presets, "__file__", str(package / "config" / "presets.py"))
    assert presets.preset_folder() == tmp_path / "configs"
    (package / "configs").mkdir(parents=True)
    assert presets.preset_folder() == package / "configs"


@pytest.mark.parametrize("name", TABLE)
def test_a_preset_says_what_the_table_says_and_builds(name: str) -> None:
    config = configured(name)
    assert known(asdict(config.architecture)) == expected(name)
    arguments = config.architecture.module_arguments()
    with torch.device("meta"):
        decoder, encoder = Decoder(**arguments), Encoder(**arguments)
        video = VideoDecoder(**arguments, **config.temporal.module_arguments())
    out = 2 if config.architecture.double_z else 1
    assert encoder.conv_out.weight.shape[0] == out * config.architecture.z_channels
    assert set(decoder.state_dict()) < set(video.state_dict())


@pytest.mark.parametrize("name", TABLE)
def test_the_tensors_alone_show_what_a_preset_says_of_them(name: str) -> None:
    unseen = {"scaling_factor": None, "shift_factor": None}
    assert known(asdict(seen(name))) == {**expected(name), **unseen}
    assert name in matching_presets(seen(name)) or name == "svd"


@pytest.mark.parametrize(
    ("name", "alike"),
    [
        ("kl-f8", ["kl-f8", "sdxl"]),
        ("sd3", ["flux", "sd3"]),
        ("vq-f8", ["vq-f8"]),
        ("vq-f4-noattn", ["vq-f4-noattn"]),
    ],
)
def test_matching_presets_are_those_that_tensors_cannot_tell_apart(
    name: str, alike: list[str]
) -> None:
    assert matching_presets(seen(name)) == alike


@pytest.mark.parametrize("name", TABLE)
def test_a_preset_describes_itself_in_a_line_and_has_known_keys_only(name: str) -> None:
    preset = load_presets()[name]
    assert preset.path.name == f"{name}.yaml"
    assert 10 < len(preset.description) < 80
    assert "\n" not in preset.description
    assert set(read_config(name)) <= set(known_keys())
