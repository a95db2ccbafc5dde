"""Diffusers in and out, held against its own classes: files it writes, folders it reads."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import inflate
from inflate.errors import PlanError
from inflate.workflow import ConversionResult, convert, verify
from tests.io.opening import assert_same

from ..checkpoints import autoencoder, write_safetensors
from ..cli.conftest import Run
from ..conversions import CPU, metadata_of, spoil_file
from ..models.builders import error, noise
from .making import (
    INSIDE,
    LIKE_CLASS,
    THREE_LEVELS,
    diffusers_model,
    old_names,
    weights_file,
)

TOLERANCE = 1e-5
"""How far our layers and those of diffusers may be apart: rounding, in another order."""

EXPORT: dict[str, Any] = {**CPU, "layout": "diffusers", "video_kernel_size": (3, 1, 1)}

LATENTS = noise(6, 4, 3, 5)
IMAGES = noise(2, 3, 16, 24).clamp(-1, 1)


def same_decoder(video: Path, model: nn.Module, **arguments: Any) -> None:
    """Our video autoencoder of a file, set against an image autoencoder of diffusers."""
    ours = inflate.load_video_autoencoder(video)
    with torch.inference_mode():
        z = LATENTS.to(next(iter(ours.parameters())).dtype)
        theirs = model.decode(LATENTS, **arguments).sample
        assert error(ours.decode(z, timesteps=3).float(), theirs) < TOLERANCE
        mean = model.encode(IMAGES)
        if hasattr(mean, "latent_dist"):
            assert error(ours.encode(IMAGES.to(z.dtype)).float(), mean.latent_dist.mean) < TOLERANCE


def spoken_for(result: ConversionResult) -> str:
    assert result.parity is not None
    return result.parity.verdict


# In


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, "diffusion_pytorch_model.safetensors"),
        ({"safe_serialization": False}, "diffusion_pytorch_model.bin"),
        ({"max_shard_size": "600KB"}, "diffusion_pytorch_model-*-of-*.safetensors"),
        (
            {"max_shard_size": "600KB", "safe_serialization": False},
            "diffusion_pytorch_model-*-of-*.bin",
        ),
        ({"variant": "fp16"}, "diffusion_pytorch_model.fp16.safetensors"),
        (
            {"variant": "fp16", "safe_serialization": False},
            "diffusion_pytorch_model.fp16.bin",
        ),
    ],
    ids=["safetensors", "bin", "shards", "shards of bin", "variant", "variant of bin"],
)
@pytest.mark.parametrize("inside", ["", "vae"], ids=["folder", "pipeline"])
def test_a_folder_as_save_pretrained_writes_it(
    diffusers: ModuleType, options: dict[str, Any], names: str, inside: str, tmp_path: Path
) -> None:
    model = diffusers_model(diffusers.AutoencoderKL, scaling_factor=0.13025)
    model.save_pretrained(tmp_path / "model" / inside, **options)
    written = sorted((tmp_path / "model" / inside).glob(names))
    assert len(written) > 2 if "*" in names else len(written) == 1
    result = convert(tmp_path / "model", **CPU)
    assert spoken_for(result) == "bitwise"
    assert result.output == tmp_path / "model.video.safetensors"
    assert result.plan.config.architecture.scaling_factor == 0.13025
    same_decoder(result.output, model)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        INSIDE,
        {"use_quant_conv": False, "use_post_quant_conv": False},
        {"use_quant_conv": False},
        {"mid_block_add_attention": False},
        {**THREE_LEVELS, "block_out_channels": (32, 96, 64), "layers_per_block": 1},
        {"in_channels": 4, "out_channels": 1},
    ],
    ids=["kl", "attention inside", "sd3", "post quant alone", "no attention", "three levels",
         "other images"],
)  # fmt: skip
def test_any_autoencoder_of_its_class_decodes_as_there(
    diffusers: ModuleType, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = diffusers_model(diffusers.AutoencoderKL, **changes)
    model.save_pretrained(tmp_path / "model")
    result = convert(tmp_path / "model", tmp_path / "out", **CPU)
    assert spoken_for(result) == "bitwise"
    ours = inflate.load_video_autoencoder(tmp_path / "out")
    images = noise(2, model.config["in_channels"], 16, 24)
    with torch.inference_mode():
        theirs = model.decode(LATENTS).sample
        assert error(ours.decode(LATENTS, timesteps=2), theirs) < TOLERANCE
        mean = model.encode(images).latent_dist.mean
        assert error(ours.encode(images), mean) < TOLERANCE


@pytest.mark.parametrize("inside", [{}, INSIDE], ids=["plain", "attention inside"])
def test_its_vq_models_decode_as_there(
    diffusers: ModuleType, inside: dict[str, Any], tmp_path: Path
) -> None:
    model = diffusers_model(diffusers.VQModel, num_vq_embeddings=16, **inside)
    model.save_pretrained(tmp_path / "model")
    result = convert(tmp_path / "model", tmp_path / "out", **CPU)
    assert spoken_for(result) == "bitwise"
    assert result.plan.config.architecture.n_embed == 16
    same_decoder(tmp_path / "out", model, force_not_quantize=True)


@pytest.mark.parametrize("naming", [dict, old_names], ids=["new names", "old names"])
@pytest.mark.parametrize("folder", [True, False], ids=["folder", "single file"])
def test_names_of_every_age_decode_as_there(
    diffusers: ModuleType, naming: Any, folder: bool, tmp_path: Path
) -> None:
    model = diffusers_model(diffusers.AutoencoderKL)
    model.save_pretrained(tmp_path / "model")
    path = weights_file(tmp_path / "model")
    weights = naming(load_file(path))
    assert any(".query." in name for name in weights) is (naming is old_names)
    save_file(weights, path, {"format": "pt"})
    # Diffusers itself reads the old names still.
    theirs = diffusers.AutoencoderKL.from_pretrained(tmp_path / "model")
    assert_same(theirs.state_dict(), model.state_dict())
    result = convert(tmp_path / "model" if folder else path, tmp_path / "out", **CPU)
    assert spoken_for(result) == "bitwise"
    same_decoder(tmp_path / "out", model)


# Out: what is written is what its class reads


def exported(diffusers: ModuleType, folder: Path) -> Any:
    """What ``from_pretrained`` makes of a folder, with nothing missing and nothing left."""
    model, info = diffusers.AutoencoderKLTemporalDecoder.from_pretrained(
        folder, output_loading_info=True
    )
    assert {key: list(value) for key, value in info.items()} == {
        "missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []
    }  # fmt: skip
    return model.eval()


SOURCES: dict[str, dict[str, Any]] = {
    "kl": {"use_post_quant_conv": False},
    "sd3": {"use_quant_conv": False, "use_post_quant_conv": False},
    "three levels": {**THREE_LEVELS, "use_post_quant_conv": False},
    "other images": {"in_channels": 4, "out_channels": 1, "use_post_quant_conv": False},
}


@pytest.mark.parametrize("source", SOURCES)
def test_the_export_decodes_as_the_original_did(
    diffusers: ModuleType, source: str, tmp_path: Path
) -> None:
    model = diffusers_model(diffusers.AutoencoderKL, scaling_factor=0.5, **SOURCES[source])
    model.save_pretrained(tmp_path / "model")
    result = convert(tmp_path / "model", tmp_path / "out", **EXPORT)
    assert spoken_for(result) == "bitwise"
    assert result.parity is not None
    assert result.parity.notes == (
        f"both sides were computed by diffusers {diffusers.__version__}",
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "config.json", "diffusion_pytorch_model.safetensors"
    ]  # fmt: skip
    made = exported(diffusers, tmp_path / "out")
    assert made.config["scaling_factor"] == 0.5
    assert made.config["block_out_channels"] == list(model.config["block_out_channels"])
    images = noise(2, model.config["in_channels"], 16, 24)
    with torch.inference_mode():
        for frames in (1, 3, 6):
            theirs = model.decode(LATENTS).sample
            assert error(made.decode(LATENTS, num_frames=frames).sample, theirs) < TOLERANCE
        assert torch.equal(
            made.encode(images).latent_dist.mean, model.encode(images).latent_dist.mean
        )


@pytest.mark.parametrize(
    ("options", "stored"),
    [
        ({"dtype": "float16"}, {"float16"}),
        ({"dtype": "bfloat16"}, {"bfloat16"}),
        ({"dtype": "float16", "float32_norms": True}, {"float16", "float32"}),
    ],
)
def test_an_export_in_narrow_types(
    diffusers: ModuleType, options: dict[str, Any], stored: set[str], tmp_path: Path
) -> None:
    path = write_safetensors(tmp_path / "img.safetensors", autoencoder("plain", **LIKE_CLASS))
    result = convert(path, tmp_path / "out", **EXPORT, **options)
    assert spoken_for(result) == "bitwise"
    weights = load_file(weights_file(tmp_path / "out"))
    wide = {name for name, tensor in weights.items() if tensor.dtype == torch.float32}
    norms = {n for n in weights if ".temporal_res_block.norm" in n}
    assert wide == (norms if "float32_norms" in options else set())
    assert {str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()} == stored
    exported(diffusers, tmp_path / "out")


@pytest.mark.parametrize("alpha", [0.25, 0.9])
@pytest.mark.parametrize("time_mode", ["conv-only", "all"])
def test_a_fixed_blend_becomes_its_logit_and_attention_that_is_identity_is_left_out(
    diffusers: ModuleType, alpha: float, time_mode: str, tmp_path: Path
) -> None:
    path = write_safetensors(tmp_path / "img.safetensors", autoencoder("plain", **LIKE_CLASS))
    blend: dict[str, Any] = {"merge_strategy": "fixed", "alpha": alpha, "time_mode": time_mode}
    result = convert(path, tmp_path / "out", **EXPORT, **blend)
    assert spoken_for(result) != "fail"
    blends = [
        tensor for name, tensor in load_file(weights_file(tmp_path / "out")).items()
        if name.endswith("mix_factor")
    ]  # fmt: skip
    assert blends
    for tensor in blends:
        assert tensor.sigmoid().item() == pytest.approx(alpha)
    reasons = {d.source: d.reason for d in result.plan.dropped}
    assert all("time_mix_block" in k or "video_time_embed" in k or k.endswith("attn_1.mix_factor")
               for k in reasons)  # fmt: skip
    assert bool(reasons) is (time_mode == "all")
    assert set(reasons.values()) <= {"an identity at the start, which this layout has no place for"}
    exported(diffusers, tmp_path / "out")


# Out: the scaling factor


def scaling(folder: Path) -> float:
    found: float = json.loads((folder / "config.json").read_text())["scaling_factor"]
    return found


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({"set_": ["scaling_factor=0.13025"]}, 0.13025),
        ({"set_": ["architecture.scaling_factor=1.5305"]}, 1.5305),
    ],
)
def test_the_scaling_factor_is_what_was_said(
    diffusers: ModuleType, options: dict[str, Any], factor: float, tmp_path: Path
) -> None:
    path = write_safetensors(tmp_path / "img.safetensors", autoencoder("plain", **LIKE_CLASS))
    result = convert(path, tmp_path / "out", **EXPORT, **options)
    assert not any("scaling factor" in note for note in result.notes)
    assert scaling(tmp_path / "out") == factor
    again = convert(tmp_path / "out", dry_run=True, layout="diffusers", **CPU)
    assert again.plan.config.architecture.scaling_factor == factor
    assert again.notes == ()


# Out: what cannot be exported is one error with all reasons


def refusal(path: Path, **options: Any) -> tuple[str, ...]:
    """What keeps a source from being exported; nothing is written."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(PlanError) as caught:
        convert(path, path.parent / "out", skip_parity=True, **{**EXPORT, **options})
    assert sorted(path.parent.iterdir()) == before
    assert str(caught.value).startswith("layout 'diffusers' cannot hold this:\n  - ")
    return caught.value.problems


POST_QUANT = "it has no place for post_quant_conv: fold it in with --post-quant fold"
BLOCKS = "it has 2 residual blocks a level, not 1"


@pytest.mark.parametrize(
    ("kind", "changes", "options", "problems"),
    [
        ("kl", {}, {}, (POST_QUANT,)),
        (
            "plain",
            {"attn_resolutions": [32, 16]},
            {},
            ("it has no attention inside the levels, and this architecture has: 0, 1",),
        ),
        (
            "plain",
            {},
            {"video_kernel_size": 3},
            ("its kernel is 3,1,1, not 3,3,3: choose --video-kernel-size 3,1,1",),
        ),
        (
            "plain",
            {},
            {"time_mode": "attn-only"},
            ("it needs temporal residual blocks: choose --time-mode conv-only",),
        ),
        (
            "plain",
            {},
            {"merge_strategy": "fixed", "alpha": 1.0},
            ("its blend is learned, and no sigmoid reaches the fixed alpha 1: choose "
             "--merge-strategy learned, or an alpha between 0 and 1",),
        ),
        ("plain", {"num_res_blocks": 1}, {}, (BLOCKS,)),
        (
            "plain",
            {"attn_type": "none"},
            {},
            ("it has attention in the middle, and this architecture none",),
        ),
        ("plain", {}, {"set_": ["tanh_out=true"]}, ("it does not end in a tanh",)),
        (
            "plain",
            {"ch_mult": [2, 3]},
            {},
            ("its encoder begins with the channels of its first level, 64, and this one with 32",),
        ),
        (
            "plain",
            {"resamp_with_conv": False},
            {},
            ("its levels are resampled with convolutions",),
        ),
        (
            "vq",
            {},
            {"post_quant": "fold", "allow_inexact": True},
            ("it has no place for a codebook (quantize.*): choose 'autoencoder' or 'decoder'",
             "its encoder gives mean and log-variance (double_z)"),
        ),
    ],
)  # fmt: skip
def test_each_reason_is_told(
    kind: str,
    changes: dict[str, Any],
    options: dict[str, Any],
    problems: tuple[str, ...],
    tmp_path: Path,
) -> None:
    weights = autoencoder(kind, **{**LIKE_CLASS, **changes})
    assert refusal(write_safetensors(tmp_path / "img.safetensors", weights), **options) == problems


def test_temporal_attention_that_has_learned_cannot_be_exported(tmp_path: Path) -> None:
    image = write_safetensors(tmp_path / "img.safetensors", autoencoder("plain", **LIKE_CLASS))
    video = tmp_path / "video.safetensors"
    options: dict[str, Any] = {"time_mode": "all", "video_kernel_size": (3, 1, 1)}
    convert(image, video, skip_parity=True, **CPU, **options)
    weights = load_file(video)
    weights["decoder.mid.attn_1.time_mix_block.ff.net.2.bias"][0] = 1e-6
    save_file(weights, video, metadata_of(video))
    (problem,) = refusal(video, video_kernel_size=None)
    assert problem.startswith(
        "it has no temporal attention, and this one's is no longer an identity"
    )
    assert "--layout autoencoder" in problem


# Out: parity through its own classes


def test_without_the_package_one_line_says_how_to_get_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    path = write_safetensors(tmp_path / "img.safetensors", autoencoder("plain", **LIKE_CLASS))
    command = ("convert", path, "-o", tmp_path / "out", "--layout", "diffusers",
               "--video-kernel-size", "3,1,1", "--device", "cpu")  # fmt: skip
    ran = run(*command)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "error: layout 'diffusers' is checked with diffusers' own classes, which are not "
        "installed: pip install 'inflate-video[diffusers]', or pass --skip-parity\n"
    )
    assert list(tmp_path.iterdir()) == [path]
    # What it is not needed for goes on without it.
    assert run(*command, "--dry-run").code == 0
    assert run(*command, "--skip-parity").code == 0
    assert (tmp_path / "out" / "config.json").is_file()
    assert run("verify", tmp_path / "out", "--device", "cpu").code == 0


@pytest.mark.parametrize(
    ("name", "weights_differ", "decoders_differ"),
    [
        ("decoder.mid_block.attentions.0.to_q.weight", True, True),
        ("decoder.time_conv_out.bias", False, True),
        ("decoder.up_blocks.0.resnets.0.temporal_res_block.conv2.bias", False, True),
        ("encoder.conv_in.bias", True, False),
        ("quant_conv.weight", True, False),
        ("quant_conv.bias", True, False),
    ],
)
def test_an_export_that_differs_is_not_published(
    diffusers: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    weights_differ: bool,
    decoders_differ: bool,
    tmp_path: Path,
) -> None:
    path = write_safetensors(tmp_path / "img.safetensors", autoencoder("plain", **LIKE_CLASS))
    spoil_file(monkeypatch, name, 0.05)
    result = convert(path, tmp_path / "out", **EXPORT)
    assert spoken_for(result) == "fail"
    assert result.output is None
    assert list(tmp_path.iterdir()) == [path]
    assert result.parity is not None
    assert bool(result.parity.weights.different) is weights_differ
    assert any(probe.verdict == "fail" for probe in result.parity.probes) is decoders_differ


def test_verify_takes_an_exported_folder(diffusers: ModuleType, tmp_path: Path) -> None:
    model = diffusers_model(diffusers.AutoencoderKL, use_post_quant_conv=False)
    model.save_pretrained(tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "out", skip_parity=True, **EXPORT)
    report = verify(tmp_path / "model", tmp_path / "out", **CPU)
    assert report.verdict == "bitwise"
    assert report.weights.temporal is not None
    assert report.weights.temporal.changed == ()
    assert report.layers
    assert verify(tmp_path / "out", **CPU).verdict == "bitwise"
