"""The plan: each tensor of the target has an origin, each of the source a place or a reason."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from inflate.errors import PlanError
from inflate.inflation.initializers import Rule, start_rules
from inflate.loading import build_video_decoder

from ..checkpoints import (
    ATTENTION_IN_UP,
    FIRST_STAGE,
    NO_ATTENTION,
    autoencoder,
    bare_decoder,
    prefixed,
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
    "kl": autoencoder("kl"), "vq": autoencoder("vq"), "plain": autoencoder("plain"),
    "attention in up": autoencoder(**ATTENTION_IN_UP), "no attention": autoencoder(**NO_ATTENTION),
    "no encoder": {k: v for k, v in autoencoder().items() if not k.startswith(("enc", "quant"))},
    "no quant conv": {k: v for k, v in autoencoder().items() if not k.startswith("quant_conv.")},
    "a counting quantiser": {**autoencoder("vq", **SMALLEST), "quantize.counter": torch.ones(8)},
    "bare": bare_decoder(), "prefixed": prefixed(autoencoder(**SMALLEST)),
    "with much around": {**prefixed(autoencoder(**SMALLEST)), **AROUND},
}  # fmt: skip


def refused(weights: dict[str, Tensor], folder: Path) -> list[str]:
    """Every problem that a plan is refused for."""
    with pytest.raises(PlanError) as caught:
        plan_of(weights, folder)
    assert str(folder / "weights.pt") in str(caught.value)
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("name", "mode"),
    [*zip(SOURCES, cycle(["all", "conv-only"]), strict=False), ("bare", "attn-only")],
)
def test_a_plan_is_total(name: str, mode: str, tmp_path: Path) -> None:
    weights = SOURCES[name]
    plan = plan_of(weights, tmp_path, {"temporal.time_mode": mode})
    # Every tensor of the source is used, passed through or dropped, exactly once.
    used = [tensor.origin for tensor in plan.tensors if isinstance(tensor.origin, str)]
    assert sorted(used + [d.info.name for d in plan.dropped]) == sorted(weights)
    # Every tensor of the target has one origin, and one part.
    keys = [tensor.key for tensor in plan.tensors]
    assert len(set(keys)) == len(keys)
    parts = [plan.of(part) for part in ("spatial", "temporal", "passed-through")]
    assert sum(map(len, parts)) == len(keys)
    # The decoder's are those of the module; the temporal ones are made, all others copied.
    decoder = build_video_decoder(plan.config)
    shapes = {f"decoder.{k}": tuple(v.shape) for k, v in decoder.state_dict().items()}
    assert {t.key: t.shape for t in plan.tensors if t.key.startswith("decoder.")} == shapes
    made = {t.key: t.origin for t in plan.tensors if isinstance(t.origin, Rule)}
    assert made == start_rules(plan.config)
    assert {t.key for t in plan.of("temporal")} == set(made)
    assert {t.key for t in plan.of("spatial")} == set(shapes) - set(made)


def test_what_is_left_behind_has_a_reason(tmp_path: Path) -> None:
    around = {
        f"{FIRST_STAGE}loss.perceptual_loss.lin0.weight": "loss",
        f"{FIRST_STAGE}model_ema.decoderconv_inweight": "moving average",
        f"{FIRST_STAGE}logvar": "not part of an autoencoder",
        "model.diffusion_model.time_embed.0.weight": "diffusion model",
        "model_ema.decay": "moving average",
        "cond_stage_model.model.ln_final.weight": "text encoder",
        "conditioner.embedders.0.weight": "conditioner",
        "text_encoders.clip_l.weight": "text encoder",
        "alphas_cumprod": "outside the autoencoder",
    }
    weights = prefixed(autoencoder(**SMALLEST)) | {k: torch.ones(3) for k in around}
    dropped = {d.info.name: d for d in plan_of(weights, tmp_path).dropped}
    assert dropped.keys() == around.keys()
    assert all(around[name] in d.reason for name, d in dropped.items())
    assert {d.info.nbytes for d in dropped.values()} == {12}


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
    widths = {tensor.key: tensor.info.nbytes // tensor.info.parameters for tensor in tensors}
    assert set(widths.values()) == {2, 4, 8}
    uniform = [tensor.key for tensor in plan_of(autoencoder(**SMALLEST), tmp_path).tensors]
    assert list(widths) == sorted(uniform, key=lambda key: -widths[key])


def test_weights_of_other_types_are_refused(tmp_path: Path) -> None:
    weights = autoencoder("vq", **SMALLEST)
    changed = ["decoder.norm_out.bias", "encoder.conv_in.bias", "quantize.embedding.weight"]
    for key in changed:
        weights[key] = weights[key].to(torch.int64)
    problems = refused(weights, tmp_path)
    assert [p.partition(";")[0] for p in problems] == [f"{k} is stored as int64" for k in changed]


def test_missing_and_extra_keys_and_wrong_shapes_are_reported_at_once(tmp_path: Path) -> None:
    weights = autoencoder()
    weights["decoder.mid.block_2.norm1.weihgt"] = weights.pop("decoder.mid.block_2.norm1.weight")
    weights["encoder.mid.attn_2.q.bias"] = weights.pop("encoder.mid.attn_1.q.bias")
    del weights["decoder.norm_out.bias"]
    weights["decoder.mid.block_1.conv2.bias"] = torch.ones(65)
    weights["encoder.down.0.block.0.conv1.weight"] = torch.ones(32, 32, 1, 1)
    weights["quant_conv.weight"] = torch.ones(8, 8, 3, 3)
    del weights["post_quant_conv.bias"]
    problems = refused(prefixed(weights), tmp_path)
    assert {problem.removeprefix(FIRST_STAGE).split()[0] for problem in problems} == {
        "decoder.mid.block_2.norm1.weight", "decoder.mid.block_2.norm1.weihgt",
        "encoder.mid.attn_1.q.bias", "encoder.mid.attn_2.q.bias", "decoder.norm_out.bias",
        "decoder.mid.block_1.conv2.bias", "encoder.down.0.block.0.conv1.weight",
        "quant_conv.weight", "post_quant_conv.bias",
    }  # fmt: skip
    assert sum("did you mean" in problem for problem in problems) == 4
