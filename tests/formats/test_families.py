"""Families that are not this one: named from their keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inflate.errors import FamilyError
from inflate.workflow import convert, inspect

from ..checkpoints import autoencoder, prefixed, write_safetensors, write_torch
from ..conversions import CPU

FAMILIES = {
    "decoder.mid_block.resnets.0.conv1.conv.weight": "a causal 3D autoencoder",
    "decoder.middle.0.residual.2.weight": "a causal 3D autoencoder",
    "decoder.temp_conv_in.weight": "a 3D autoencoder (Allegro)",
    "decoder.mid.block_1.norm1.norm_layer.weight": "MOVQ",
    "8.conv.0.weight": "TAESD",
    "decoder.stages.0.0.main.conv.weight": "DC-AE",
    # The image tokenizer of Cosmos has the very names of this family, and wavelets.
    "decoder.unpatcher.wavelets": "a Cosmos tokenizer",
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("others", "prefix"), [(False, ""), (True, "first_stage_model.")],
    ids=["alone", "under a prefix, with names of this family"],
)  # fmt: skip
def test_a_file_of_another_family_is_refused_by_name(
    name: str, others: bool, prefix: str, tmp_path: Path
) -> None:
    weights = {name: torch.ones(1), **(autoencoder(ch_mult=[1]) if others else {})}
    path = write_torch(tmp_path / "file.pth", prefixed(weights, prefix))
    with pytest.raises(FamilyError) as caught:
        convert(path, **CPU)
    assert f"{path} holds {FAMILIES[name]}" in str(caught.value)
    assert inspect(path).obstacles == (str(caught.value),)


def test_another_family_next_to_one_of_this_is_left_behind(tmp_path: Path) -> None:
    other = {"preview.decoder.layers.3.conv.0.weight": torch.ones(1)}
    weights = {**prefixed(autoencoder(ch_mult=[1]), "vae."), **other}
    seen = inspect(write_safetensors(tmp_path / "file.safetensors", weights))
    assert (seen.prefix, seen.obstacles) == ("vae.", ())
