"""Settings of diffusers' classes that no tensor shows: of folders, of files in them, of headers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from inflate import convert, inspect
from inflate.errors import CheckpointError, ConfigError, FamilyError, InflateError
from inflate.formats.source import describe
from inflate.io.folder import FOLDER_FILES
from inflate.io.reader import open_checkpoint

from ..checkpoints import ATTENTION_IN_UP, NO_ATTENTION, autoencoder, write_safetensors
from ..conversions import CPU

CONFIG: dict[str, Any] = {
    "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2, "in_channels": 3, "latent_channels": 4,
    "layers_per_block": 1, "norm_num_groups": 32, "out_channels": 3, "scaling_factor": 0.5,
    "shift_factor": None, "latents_mean": [0.5, -1.0, 0.0, 2.0], "latents_std": None,
    "force_upcast": False, "sample_size": 64, "up_block_types": ["UpDecoderBlock2D"] * 2,
    "use_quant_conv": True, "use_post_quant_conv": True, "mid_block_add_attention": True,
}  # fmt: skip
"""What describes the autoencoder of these tests."""

Place = Callable[[Path, Mapping[str, Any]], Path]
"""Puts weights and a configuration somewhere; gives what is converted."""


def _folder(folder: Path, config: Mapping[str, Any], name: str = FOLDER_FILES[0]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return write_safetensors(folder / name, autoencoder())


PLACES: dict[str, Place] = {
    "folder": lambda folder, config: _folder(folder, config).parent,
    "pipeline": lambda folder, config: _folder(folder / "vae", config).parent.parent,
    "file in it": _folder,
    "file of another name": lambda folder, config: _folder(folder, config, "vae.safetensors"),
    "header": lambda folder, config: write_safetensors(
        folder / "a.safetensors", autoencoder(), {"config": json.dumps(config)}
    ),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_configuration_that_fits_is_taken(place: Place, tmp_path: Path) -> None:
    source = place(tmp_path, {**CONFIG, "act_fn": "swish"})
    assert inspect(source).obstacles == ()
    result = convert(source, tmp_path / "out", **CPU)
    assert result.passed
    with open_checkpoint(tmp_path / "out") as checkpoint:
        recorded = describe(checkpoint).config.architecture
    assert (recorded.scaling_factor, recorded.sample_size) == (0.5, 64)
    assert recorded.force_upcast is False
    assert (recorded.latents_mean, recorded.latents_std) == ((0.5, -1.0, 0.0, 2.0), None)


REFUSED: list[tuple[type[InflateError], str, Any]] = [
    (FamilyError, "norm_num_groups", "32"), (FamilyError, "act_fn", None),
    (FamilyError, "norm_type", "spatial"),
    (ConfigError, "up_block_types", ["UpDecoderBlock2D", "SkipUpBlock2D"]),
    (ConfigError, "down_block_types", ["DownEncoderBlock2D", ["x"]]),
    (ConfigError, "mid_block_add_attention", False), (ConfigError, "use_quant_conv", False),
    (ConfigError, "use_post_quant_conv", False),
    (ConfigError, "up_block_types", ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"]),
    (ConfigError, "down_block_types", ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]),
    (ConfigError, "scaling_factor", 10**400), (ConfigError, "shift_factor", float("-inf")),
    (ConfigError, "latents_std", [1.0, float("nan")]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("place", "kind", "key", "value"),
    [
        *((place, FamilyError, "act_fn", "relu") for place in PLACES),
        *((place, ConfigError, "scaling_factor", float("nan")) for place in PLACES),
        *(("folder", *case) for case in REFUSED),
    ],
)
def test_a_setting_that_this_family_lacks_or_the_tensors_contradict_is_refused(
    place: str, kind: type[InflateError], key: str, value: Any, tmp_path: Path
) -> None:
    source = PLACES[place](tmp_path, {**CONFIG, key: value})
    with pytest.raises(kind, match=key):
        convert(source, tmp_path / "out", **CPU)
    assert any(key in obstacle for obstacle in inspect(source).obstacles)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "other", [{"block_out_channels": [128, 256]}, {"_class_name": "UNet2DConditionModel"}]
)
def test_the_configuration_of_another_model_is_not_taken(
    other: dict[str, Any], tmp_path: Path
) -> None:
    path = _folder(tmp_path, {**CONFIG, "act_fn": "relu", **other})
    result = convert(path, dry_run=True, **CPU)
    assert result.plan.config.architecture.scaling_factor is None
    with pytest.raises(InflateError):  # The folder says that it is what its weights are of.
        convert(tmp_path, dry_run=True, **CPU)


def test_one_that_cannot_be_read_is_reported_where_diffusers_reads_it(tmp_path: Path) -> None:
    path = _folder(tmp_path, {})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        convert(path, dry_run=True, **CPU)
    convert(path.rename(tmp_path / "vae.safetensors"), dry_run=True, **CPU)


def test_the_header_of_ours_wins_over_a_file_next_to_it(tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    convert(_folder(tmp_path, CONFIG), output, layout="decoder", skip_parity=True, **CPU)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "act_fn": "relu"}))
    with open_checkpoint(output) as checkpoint:
        assert describe(checkpoint).config.architecture.scaling_factor == 0.5


@pytest.mark.parametrize(
    ("changes", "types"),
    [
        (ATTENTION_IN_UP, {"up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
                           "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]}),
        (NO_ATTENTION, {"mid_block_add_attention": False}),
    ],
)  # fmt: skip
def test_attention_is_where_a_configuration_says(
    changes: dict[str, Any], types: dict[str, Any], tmp_path: Path
) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", autoencoder(**changes))
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **types}))
    assert inspect(path).obstacles == ()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert inspect(path).obstacles != ()
