"""Configuration files as sgm and LDM write them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from inflate.config.loading import read_config
from inflate.errors import ConfigError

from ..checkpoints import DDCONFIG

SETTINGS = {f"architecture.{key}": value for key, value in DDCONFIG.items()}


def autoencoder(**params: Any) -> dict[str, Any]:
    """An autoencoder as LDM configures it."""
    return {
        "target": "ldm.models.autoencoder.AutoencoderKL",
        "params": {
            "monitor": "val/rec_loss",
            "embed_dim": 4,
            "lossconfig": {"target": "ldm.modules.losses.LPIPSWithDiscriminator", "params": {}},
            "ddconfig": DDCONFIG,
            **params,
        },
    }


def engine(**decoder: Any) -> dict[str, Any]:
    """An autoencoder as sgm configures its engine: encoder and decoder for themselves."""
    return {
        "target": "sgm.models.autoencoder.AutoencodingEngine",
        "params": {
            "loss_config": {"target": "torch.nn.Identity"},
            "regularizer_config": {"target": "sgm.modules.DiagonalGaussianRegularizer"},
            "encoder_config": {"target": "sgm.modules.model.Encoder", "params": DDCONFIG},
            "decoder_config": {
                "target": "sgm.modules.autoencoding.temporal_ae.VideoDecoder",
                "params": {**DDCONFIG, **decoder},
            },
        },
    }


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Reads a configuration that is first written to a file."""

    def read_(content: Any) -> dict[str, Any]:
        path = tmp_path / "config.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return read_config(str(path))

    return read_


def test_inside_a_diffusion_model_the_first_stage_is_taken(read: Any) -> None:
    other = autoencoder(embed_dim=99, ddconfig={**DDCONFIG, "z_channels": 99})
    content = {
        "model": {
            "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
            "params": {
                "scale_factor": 0.18215,
                "unet_config": {"target": "ldm.UNetModel", "params": {"channel_mult": [1, 2]}},
                "conditioner_config": {"params": {"embedder": {"encoder_config": other}}},
                "first_stage_config": autoencoder(n_embed=8192),
            },
        }
    }
    around = {"architecture.embed_dim": 4, "architecture.n_embed": 8192}
    assert read(content) == {**SETTINGS, **around}


def test_the_decoder_of_an_engine_with_its_temporal_layers(read: Any) -> None:
    settings = read({"model": engine(time_mode="all", alpha=0.25, video_kernel_size=[3, 1, 1])})
    assert settings == {
        **SETTINGS,
        "temporal.time_mode": "all",
        "temporal.alpha": 0.25,
        "temporal.video_kernel_size": [3, 1, 1],
    }


def test_interpolations_are_followed(read: Any) -> None:
    content = """
    latent: 4
    model:
      params:
        embed_dim: ${latent}
        encoder_config: {params: {ch: 32, z_channels: "${latent}", ch_mult: [1, 2]}}
        decoder_config: {params: "${model.params.encoder_config.params}"}
    """
    assert read(content) == {
        "architecture.ch": 32,
        "architecture.z_channels": 4,
        "architecture.ch_mult": [1, 2],
    }


def test_of_two_autoencoders_neither_is_chosen(read: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        read({"teacher": autoencoder(), "student": engine()})
    for place in ("student.params.decoder_config.params", "teacher.params.ddconfig"):
        assert place in str(caught.value)


def test_keys_that_this_family_leaves_at_one_value(read: Any) -> None:
    usual = {"use_linear_attn": False, "use_timestep": False}
    assert read({"ddconfig": {**DDCONFIG, **usual}}) == SETTINGS
    with pytest.raises(ConfigError) as caught:
        read({"ddconfig": {**DDCONFIG, "use_linear_attn": True, "chmult": [1], "zzz": 1}})
    assert set(caught.value.problems) == {
        "ddconfig.use_linear_attn is True; this family supports only False",
        "ddconfig.chmult: unknown key (did you mean 'ch_mult'?)",
        "ddconfig.zzz: unknown key",
    }


def test_no_class_that_a_file_names_is_imported(
    read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "inflate_test_trap.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    content = engine()
    for part in (content, *content["params"].values()):
        part["target"] = "inflate_test_trap.Model"
    content["_target_"] = "inflate_test_trap.Model"
    assert read({"model": content}) == SETTINGS
    assert "inflate_test_trap" not in sys.modules
    assert not trace.exists()
