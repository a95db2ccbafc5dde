"""The plan: each tensor of the target has an origin, each of the source a place or a reason."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from inflate.errors import ConfigError, FamilyError, PlanError
from inflate.inflation.initializers import start_rules
from inflate.inflation.plan import Copy, InflationPlan, Make
from inflate.loading import build_video_decoder

from ..checkpoints import (
    ATTENTION_IN_UP,
    FIRST_STAGE,
    NO_ATTENTION,
    autoencoder,
    bare_decoder,
    prefixed,
    video_autoencoder,
)
from .planning import plan_of

SMALLEST: dict[str, Any] = {"ch_mult": [1]}
AROUND = {
    "model.diffusion_model.out.2.weight": torch.ones(2, 2),
    "model_ema.decay": torch.ones(()),
    "cond_stage_model.transformer.positions": torch.ones(3, dtype=torch.int64),
    "loss.discriminator.main.0.weight": torch.ones(4),
    "betas": torch.ones(5),
}
SOURCES: dict[str, dict[str, Tensor]] = {
    "kl": autoencoder("kl"),
    "vq": autoencoder("vq"),
    "plain": autoencoder("plain"),
    "attention in up": autoencoder(**ATTENTION_IN_UP),
    "no attention": autoencoder(**NO_ATTENTION),
    "no encoder": {k: v for k, v in autoencoder().items() if not k.startswith(("enc", "quant"))},
    "bare": bare_decoder(),
    "prefixed": prefixed(autoencoder(**SMALLEST)),
    "with much around": {**prefixed(autoencoder(**SMALLEST)), **AROUND},
}
MODES = ("all", "conv-only", "attn-only")


def refused(weights: dict[str, Tensor], folder: Path, *layers: dict[str, Any]) -> list[str]:
    """Every problem that a plan is refused for."""
    with pytest.raises(PlanError) as caught:
        plan_of(weights, folder, *layers)
    problems = list(caught.value.problems)
    path = folder / "weights.pt"
    assert str(caught.value) == "\n  - ".join([f"{path} does not fit its architecture:", *problems])
    return problems


def copies(plan: InflationPlan) -> dict[str, str]:
    """Each copied key, and the name in the file that it comes from."""
    return {t.key: t.origin.source for t in plan.tensors if isinstance(t.origin, Copy)}


# Totality


@pytest.mark.parametrize(
    ("name", "mode"),
    [(n, m) for n in SOURCES for m in MODES if (n, m) != ("no attention", "attn-only")],
)
def test_a_plan_is_total(name: str, mode: str, tmp_path: Path) -> None:
    weights = SOURCES[name]
    plan = plan_of(weights, tmp_path, {"temporal.time_mode": mode})
    # Every tensor of the source is used, passed through or dropped, exactly once.
    gone = Counter(copies(plan).values()) + Counter(d.source for d in plan.dropped)
    assert gone == Counter(list(weights))
    # Every tensor of the target has one origin, and one part.
    keys = [tensor.key for tensor in plan.tensors]
    assert len(set(keys)) == len(keys)
    parts = [plan.of(part) for part in ("spatial", "temporal", "passed-through")]
    assert sum(map(len, parts)) == len(keys)
    # The decoder's are those of the module; the temporal ones are made, all others copied.
    decoder = build_video_decoder(plan.config)
    shapes = {f"decoder.{k}": tuple(v.shape) for k, v in decoder.state_dict().items()}
    assert {t.key: t.shape for t in plan.tensors if t.key.startswith("decoder.")} == shapes
    made = {t.key: t.origin.rule for t in plan.tensors if isinstance(t.origin, Make)}
    assert made == start_rules(plan.config)
    assert {t.key for t in plan.of("temporal")} == set(made)
    assert {t.key for t in plan.of("spatial")} == set(shapes) - set(made)


@pytest.mark.parametrize("prefix", ["", FIRST_STAGE, "model."])
def test_what_is_left_behind_has_a_reason(prefix: str, tmp_path: Path) -> None:
    around = {
        f"{prefix}loss.perceptual_loss.lin0.weight": "training loss (discriminator, perceptual)",
        f"{prefix}model_ema.decoderconv_inweight": "moving average of the training weights",
        f"{prefix}logvar": "not part of an autoencoder of this family",
    }
    if prefix == FIRST_STAGE:
        around |= {
            "model.diffusion_model.time_embed.0.weight": "diffusion model",
            "model_ema.decay": "moving average of the training weights",
            "cond_stage_model.model.ln_final.weight": "text encoder",
            "conditioner.embedders.0.weight": "conditioner of the diffusion model",
            "text_encoders.clip_l.weight": "text encoder",
            "alphas_cumprod": "outside the autoencoder (first_stage_model.)",
        }
    weights = prefixed(autoencoder(**SMALLEST), prefix) | {k: torch.ones(3) for k in around}
    plan = plan_of(weights, tmp_path)
    assert {d.source: d.reason for d in plan.dropped} == around
    assert {d.nbytes for d in plan.dropped} == {12}


# Types


def types(plan: InflationPlan) -> dict[str, set[str]]:
    return {part: {t.dtype for t in plan.of(part)}
            for part in ("spatial", "temporal", "passed-through")}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_stored_type_is_what_is_asked_for(dtype: str, tmp_path: Path) -> None:
    weights = autoencoder(dtype=torch.float64, **SMALLEST)
    plan = plan_of(weights, tmp_path, {"dtype": dtype})
    assert types(plan) == {"spatial": {dtype}, "temporal": {dtype}, "passed-through": {dtype}}


def test_norms_of_the_temporal_layers_stay_in_float32_where_asked(tmp_path: Path) -> None:
    settings = {"dtype": "float16", "float32_norms": True, "temporal.time_mode": "all"}
    plan = plan_of(SOURCES["kl"], tmp_path, settings)
    wide = {tensor.key for tensor in plan.tensors if tensor.dtype == "float32"}
    assert {tensor.dtype for tensor in plan.tensors} == {"float16", "float32"}
    norms = ("in_layers.0", "out_layers.0", "norm_in", "norm1", "norm2", "norm3")
    assert wide == {
        tensor.key for tensor in plan.of("temporal")
        if tensor.key.rpartition(".")[0].endswith(norms)
    }  # fmt: skip
    assert len(wide) == 2 * (2 * 6 + 4)


def mixed() -> dict[str, Tensor]:
    """Weights of four types; the decoder's first is bfloat16."""
    weights = autoencoder(**SMALLEST)
    order = (torch.bfloat16, torch.float32, torch.float64, torch.float16)
    return {
        key: tensor.to(torch.bfloat16 if key == "decoder.conv_in.weight" else order[i % 4])
        for i, (key, tensor) in enumerate(weights.items())
    }


def test_the_wider_types_come_first_and_the_rest_as_it_came(tmp_path: Path) -> None:
    tensors = plan_of(mixed(), tmp_path).tensors
    widths = [tensor.info.nbytes // tensor.parameters for tensor in tensors]
    assert widths == sorted(widths, reverse=True)
    assert set(widths) == {2, 4, 8}
    uniform = [tensor.key for tensor in plan_of(autoencoder(**SMALLEST), tmp_path).tensors]
    place = {key: i for i, key in enumerate(uniform)}
    for width in (2, 4, 8):
        places = [place[t.key] for t, w in zip(tensors, widths, strict=True) if w == width]
        assert places == sorted(places)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool])
def test_weights_of_other_types_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = autoencoder("vq", **SMALLEST)
    changed = ["decoder.norm_out.bias", "encoder.conv_in.bias", "quantize.embedding.weight"]
    for key in changed:
        weights[key] = weights[key].to(dtype)
    stored = str(dtype).removeprefix("torch.")
    assert refused(weights, tmp_path) == [
        f"{key} is stored as {stored}; expected one of float64, float32, float16, bfloat16, "
        "float8_e4m3fn, float8_e5m2"
        for key in changed
    ]


# What does not fit


@pytest.mark.parametrize("prefix", ["", FIRST_STAGE])
def test_missing_and_extra_keys_and_wrong_shapes_are_told_at_once(
    prefix: str, tmp_path: Path
) -> None:
    weights = autoencoder()
    weights["decoder.mid.block_2.norm1.weihgt"] = weights.pop("decoder.mid.block_2.norm1.weight")
    weights["encoder.mid.attn_2.q.bias"] = weights.pop("encoder.mid.attn_1.q.bias")
    del weights["decoder.norm_out.bias"]
    weights["decoder.mid.block_1.conv2.bias"] = torch.ones(65)
    weights["encoder.down.0.block.0.conv1.weight"] = torch.ones(32, 32, 1, 1)
    weights["quant_conv.weight"] = torch.ones(8, 8)
    del weights["post_quant_conv.bias"]
    problems = refused(prefixed(weights, prefix), tmp_path)
    assert all(problem.startswith(prefix) for problem in problems)
    assert {problem.replace(prefix, "") for problem in problems} == {
        "decoder.mid.block_2.norm1.weight is missing; expected the shape [64] (did you mean "
        "'decoder.mid.block_2.norm1.weihgt'?)",
        "decoder.mid.block_2.norm1.weihgt is not part of this architecture (did you mean "
        "'decoder.mid.block_2.norm1.weight'?)",
        "encoder.mid.attn_1.q.bias is missing; expected the shape [64] (did you mean "
        "'encoder.mid.attn_2.q.bias'?)",
        "encoder.mid.attn_2.q.bias is not part of this architecture (did you mean "
        "'encoder.mid.attn_1.q.bias'?)",
        "decoder.norm_out.bias is missing; expected the shape [32]",
        "decoder.mid.block_1.conv2.bias has the shape [65]; expected [64]",
        "encoder.down.0.block.0.conv1.weight has the shape [32, 32, 1, 1]; expected [32, 32, 3, 3]",
        "quant_conv.weight has the shape [8, 8]; expected [8, 8, 1, 1]",
        "post_quant_conv.bias is missing; expected the shape [4]",
    }


@pytest.mark.parametrize(
    "key", ["quant_conv.weight", "quant_conv.bias", "post_quant_conv.bias", "encoder.conv_in.bias"]
)
def test_a_part_that_is_there_must_be_whole(key: str, tmp_path: Path) -> None:
    weights = autoencoder()
    shape = list(weights.pop(key).shape)
    assert f"{key} is missing; expected the shape {shape}" in refused(weights, tmp_path)


@pytest.mark.parametrize(
    "parts",
    [
        ("encoder.",),
        ("quant_conv.",),
        ("post_quant_conv.",),
        ("encoder.", "quant_conv."),
        ("encoder.", "quant_conv.", "post_quant_conv."),
    ],
)
def test_parts_beside_the_decoder_may_be_absent(parts: tuple[str, ...], tmp_path: Path) -> None:
    weights = {k: v for k, v in autoencoder().items() if not k.startswith(parts)}
    assert set(copies(plan_of(weights, tmp_path))) == set(weights)


def test_channels_that_fit_no_architecture_are_told(tmp_path: Path) -> None:
    weights = autoencoder() | {"decoder.up.0.block.0.conv1.weight": torch.ones(33, 64, 3, 3)}
    with pytest.raises(ConfigError) as caught:
        plan_of(weights, tmp_path)
    path = tmp_path / "weights.pt"
    assert str(caught.value) == (
        f"{path}: the configuration for it has errors:\n  - architecture.decoder_ch is 1 and "
        "ch_mult [33, 64]: every level's channels must be a multiple of 32, the groups of its norms"
    )


def test_what_else_a_quantiser_keeps_is_passed_through(tmp_path: Path) -> None:
    weights = autoencoder("vq", **SMALLEST) | {"quantize.embedding.cluster_size": torch.ones(8)}
    assert "quantize.embedding.cluster_size" in copies(plan_of(weights, tmp_path))


@pytest.mark.parametrize("prefix", ["", FIRST_STAGE])
@pytest.mark.parametrize("mode", MODES)
def test_an_inflated_file_is_refused(mode: str, prefix: str, tmp_path: Path) -> None:
    weights = prefixed(video_autoencoder(temporal={"time_mode": mode}, **SMALLEST), prefix)
    with pytest.raises(FamilyError) as caught:
        plan_of(weights, tmp_path)
    assert str(caught.value).startswith(
        f"{tmp_path / 'weights.pt'} is inflated already: its decoder has temporal layers; expected "
        "an image autoencoder. 'inflate verify' checks it as it is"
    )
