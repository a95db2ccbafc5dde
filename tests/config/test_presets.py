"""The presets: known keys, modules that can be built, and tensors that show what a preset says."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from inflate.config.loading import known_keys, matching_presets, read_config
from inflate.config.presets import load_presets
from inflate.config.schema import Architecture
from inflate.vocabulary import DDCONFIG_KEYS
from tests.io.opening import architecture_of, architecture_of_preset

from ..checkpoints import autoencoder_shapes

UNSEEN = {"scaling_factor": None, "shift_factor": None}
"""What no tensor shows."""


def seen(name: str) -> Architecture:
    """What a checkpoint of a preset shows of itself."""
    preset = asdict(architecture_of_preset(name))
    kind = "vq" if preset["n_embed"] else "plain" if preset["embed_dim"] is None else "kl"
    ddconfig = {key: value for key, value in preset.items() if key in DDCONFIG_KEYS}
    shapes = autoencoder_shapes(kind, **ddconfig, embed_dim=preset["embed_dim"])
    if kind == "vq":
        shapes["quantize.embedding.weight"] = (preset["n_embed"], preset["embed_dim"])
    return architecture_of(shapes)


@pytest.mark.parametrize("name", load_presets())
def test_the_tensors_alone_show_what_a_preset_says_of_them(name: str) -> None:
    assert set(read_config(name)) <= set(known_keys())
    assert asdict(seen(name)) == asdict(architecture_of_preset(name)) | UNSEEN
    assert name in matching_presets(seen(name)) or name == "svd"


@pytest.mark.parametrize(
    "alike", [["kl-f8", "sdxl"], ["flux", "sd3"], ["vq-f8"], ["vq-f4-noattn"]], ids=str
)
def test_matching_presets_are_those_that_tensors_cannot_distinguish(alike: list[str]) -> None:
    assert matching_presets(seen(alike[0])) == alike
