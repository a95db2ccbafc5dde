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

import inflate
from inflate import convert
from inflate.errors import PlanError

from ..checkpoints import autoencoder, write_safetensors
from ..cli.conftest import Run
from ..conversions import CPU, converted, corrupt_file, metadata_of
from ..models.builders import error, noise
from .making import INSIDE, LIKE_CLASS, THREE_LEVELS, diffusers_model, weights_file

TOLERANCE = 1e-5
"""How far our layers and those of diffusers may be apart: rounding, in another order."""

EXPORT: dict[str, Any] = {**CPU, "layout": "diffusers", "video_kernel_size": (3, 1, 1)}

LATENTS = noise(6, 4, 3, 5)


SHARDS = {"max_shard_size": "200KB"}
BIN = {"safe_serialization": False}
FP16 = {"variant": "fp16"}
STEM = "diffusion_pytorch_model"


@pytest.mark.parametrize(
    ("options", "names", "inside"),
    [
        ({}, f"{STEM}.safetensors", ""), (BIN, f"{STEM}.bin", ""),
        (SHARDS, f"{STEM}-*-of-*.safetensors", ""), ({**SHARDS, **BIN}, f"{STEM}-*-of-*.bin", ""),
        (FP16, f"{STEM}.fp16.safetensors", "vae"), ({**FP16, **BIN}, f"{STEM}.fp16.bin", ""),
    ],
    ids=["safetensors", "bin", "shards", "shards of bin", "variant in a pipeline", "bin variant"],
)  # fmt: skip
def test_a_folder_as_save_pretrained_writes_it(
    diffusers: ModuleType, options: dict[str, Any], names: str, inside: str, tmp_path: Path
) -> None:
    model = diffusers_model(diffusers.AutoencoderKL, scaling_factor=0.13025)
    model.save_pretrained(tmp_path / "model" / inside, **options)
    written = sorted((tmp_path / "model" / inside).glob(names))
    assert len(written) > 2 if "*" in names else len(written) == 1
    result = converted(tmp_path / "model")
    assert result.output == tmp_path / "model.video.safetensors"
    assert result.plan.config.architecture.scaling_factor == 0.13025
    ours = inflate.load_video_autoencoder(result.output)
    with torch.inference_mode():
        assert error(ours.decode(LATENTS, timesteps=3), model.decode(LATENTS).sample) < TOLERANCE


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("AutoencoderKL", {"mid_block_add_attention": False, "use_quant_conv": False,
                           "in_channels": 4, "out_channels": 1}),
        ("AutoencoderKL", {**THREE_LEVELS, "block_out_channels": (32, 96, 64),
                           "layers_per_block": 1}),
        ("AutoencoderKL", INSIDE),
        ("VQModel", {"num_vq_embeddings": 16, **INSIDE}),
    ],
    ids=["no attention, post quant alone", "three levels", "attention inside", "codebook"],
)  # fmt: skip
def test_any_autoencoder_of_its_classes_decodes_as_there(
    diffusers: ModuleType, kind: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = diffusers_model(getattr(diffusers, kind), **changes)
    arguments = {"force_not_quantize": True} if kind == "VQModel" else {}
    model.save_pretrained(tmp_path / "model")
    converted(tmp_path / "model", tmp_path / "out")
    ours = inflate.load_video_autoencoder(tmp_path / "out")
    images = noise(2, model.config["in_channels"], 16, 24)
    with torch.inference_mode():
        theirs = model.decode(LATENTS, **arguments).sample
        assert error(ours.decode(LATENTS, timesteps=2), theirs) < TOLERANCE
        if kind == "AutoencoderKL":
            mean = model.encode(images).latent_dist.mean
            assert error(ours.encode(images), mean) < TOLERANCE


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
    "kl": {"use_post_quant_conv": False, "in_channels": 4, "out_channels": 1},
    "sd3": {"use_quant_conv": False, "use_post_quant_conv": False},
    "three levels": {**THREE_LEVELS, "use_post_quant_conv": False},
}


@pytest.mark.parametrize("source", SOURCES)
def test_the_export_decodes_as_the_original_did(
    diffusers: ModuleType, source: str, tmp_path: Path
) -> None:
    model = diffusers_model(diffusers.AutoencoderKL, scaling_factor=0.5, **SOURCES[source])
    model.save_pretrained(tmp_path / "model")
    result = converted(tmp_path / "model", tmp_path / "out", **EXPORT)
    assert result.parity is not None
    assert any(diffusers.__version__ in note for note in result.parity.notes)
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


@pytest.mark.parametrize(("alpha", "time_mode"), [(0.25, "all"), (0.9, "conv-only")])
def test_a_fixed_blend_becomes_its_logit_and_attention_that_is_identity_is_left_out(
    diffusers: ModuleType, alpha: float, time_mode: str, plain: Path, tmp_path: Path
) -> None:
    blend: dict[str, Any] = {"merge_strategy": "fixed", "alpha": alpha, "time_mode": time_mode}
    result = convert(plain, tmp_path / "out", **EXPORT, **blend)
    assert result.passed
    blends = [
        tensor for name, tensor in load_file(weights_file(tmp_path / "out")).items()
        if name.endswith("mix_factor")
    ]  # fmt: skip
    assert blends
    for tensor in blends:
        assert tensor.sigmoid().item() == pytest.approx(alpha)
    left = [dropped.info.name for dropped in result.plan.dropped]
    assert all("attn" in name for name in left)
    assert bool(left) is (time_mode == "all")
    exported(diffusers, tmp_path / "out")


def test_the_scaling_factor_is_what_was_set(plain: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {**EXPORT, "set_": ["scaling_factor=0.13025"], "skip_parity": True}
    assert convert(plain, tmp_path / "out", **options).notes == ()
    assert json.loads((tmp_path / "out/config.json").read_text())["scaling_factor"] == 0.13025
    again = convert(tmp_path / "out", dry_run=True, layout="diffusers", **CPU)
    assert again.plan.config.architecture.scaling_factor == 0.13025
    assert again.notes == ()


def refusal(path: Path, **options: Any) -> tuple[str, ...]:
    """What keeps a source from being exported; nothing is written."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(PlanError) as caught:
        convert(path, path.parent / "out", skip_parity=True, **{**EXPORT, **options})
    assert sorted(path.parent.iterdir()) == before
    return caught.value.problems


@pytest.mark.parametrize(
    ("kind", "changes", "options", "words"),
    [
        ("kl", {}, {}, ["--post-quant fold"]),
        ("plain", {"attn_resolutions": [32]}, {}, ["attention inside the levels"]),
        ("plain", {}, {"video_kernel_size": 3}, ["--video-kernel-size 3,1,1"]),
        ("plain", {}, {"time_mode": "attn-only"}, ["--time-mode conv-only"]),
        ("plain", {}, {"merge_strategy": "fixed", "alpha": 1.0}, ["--merge-strategy learned"]),
        ("plain", {"num_res_blocks": 1}, {}, ["num_res_blocks"]),
        ("plain", {"attn_type": "none"}, {}, ["attention in the middle"]),
        ("plain", {}, {"set_": ["tanh_out=true"]}, ["tanh"]),
        ("plain", {"ch_mult": [2, 3]}, {}, ["first level, 64"]),
        ("plain", {"ch_mult": [1, 2], "resamp_with_conv": False}, {}, ["resamp_with_conv"]),
        ("vq", {}, {"post_quant": "fold", "allow_inexact": True}, ["quantize.*", "double_z"]),
    ],
)
def test_each_reason_is_given(
    kind: str, changes: dict[str, Any], options: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    weights = autoencoder(kind, **{**LIKE_CLASS, **changes})
    problems = refusal(write_safetensors(tmp_path / "img.safetensors", weights), **options)
    assert len(problems) == len(words)
    assert all(word in problem for word, problem in zip(words, problems, strict=True))


def test_temporal_attention_that_has_learned_cannot_be_exported(
    plain: Path, tmp_path: Path
) -> None:
    video = tmp_path / "video.safetensors"
    options: dict[str, Any] = {"time_mode": "all", "video_kernel_size": (3, 1, 1)}
    convert(plain, video, skip_parity=True, **CPU, **options)
    weights = load_file(video)
    weights["decoder.mid.attn_1.time_mix_block.ff.net.2.bias"][0] = 1e-6
    save_file(weights, video, metadata_of(video))
    assert len(refusal(video, video_kernel_size=None)) == 1


def test_without_the_package_one_line_says_how_to_get_it(
    run: Run, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    command = ("convert", plain, "-o", tmp_path / "out", "--layout", "diffusers",
               "--video-kernel-size", "3,1,1", "--device", "cpu")  # fmt: skip
    ran = run(*command)
    assert (ran.code, ran.out) == (2, "")
    assert "pip install '.[diffusers]'" in ran.err
    assert list(tmp_path.iterdir()) == [plain]
    # What it is not needed for continues without it.
    assert run(*command, "--dry-run").code == 0
    assert run(*command, "--skip-parity").code == 0
    assert (tmp_path / "out" / "config.json").is_file()
    assert run("verify", tmp_path / "out", "--device", "cpu").code == 0


@pytest.mark.parametrize(
    ("name", "weights_differ", "decoders_differ"),
    [
        ("decoder.mid_block.attentions.0.to_q.weight", True, True),
        ("decoder.time_conv_out.bias", False, True),
        ("quant_conv.bias", True, False),
    ],
)
def test_an_export_that_differs_is_not_published(
    diffusers: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, weights_differ: bool,
    decoders_differ: bool, plain: Path, tmp_path: Path,
) -> None:  # fmt: skip
    corrupt_file(monkeypatch, name, 0.05)
    result = converted(plain, tmp_path / "out", "fail", **EXPORT)
    assert result.output is None
    assert list(tmp_path.iterdir()) == [plain]
    assert result.parity is not None
    assert bool(result.parity.weights.different) is weights_differ
    assert any(probe.verdict == "fail" for probe in result.parity.probes) is decoders_differ
