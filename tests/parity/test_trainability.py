"""When temporal tensors learn, by two backward passes; and the notes on what never will."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from inflate.formats.layouts import DECODER
from inflate.formats.source import Source
from inflate.inflation.initializers import Rule
from inflate.inflation.plan import InflationPlan
from inflate.loading import build_video_decoder, make_tensor, read_tensor
from inflate.models import VideoDecoder
from inflate.parity.result import TensorLearning, TrainabilityResult
from inflate.parity.trainability import learn_once

from ..checkpoints import autoencoder
from ..inflation.planning import plan_of, planned
from ..models.builders import TINY, make_identity, randomized, video_decoder


def decoder_of(plan: InflationPlan, source: Source) -> VideoDecoder:
    """The decoder that a plan makes, as its file would hold it, in float64."""
    tensors = {}
    for made in plan.tensors:
        if made.key.startswith(DECODER):
            if isinstance(made.origin, Rule):
                tensor = make_tensor(made.origin, made.shape, made.key, plan.config.seed)
            else:
                tensor = read_tensor(source, made.key)
            stored = tensor.to(getattr(torch, made.dtype))
            tensors[made.key.removeprefix(DECODER)] = stored.double()
    decoder = build_video_decoder(plan.config)
    decoder.load_state_dict(tensors, strict=True, assign=True)
    return decoder


def by_name(result: TrainabilityResult) -> dict[str, TensorLearning]:
    return {tensor.name: tensor for tensor in result.tensors}


def measured(settings: dict[str, Any], folder: Path, **shape: Any) -> TrainabilityResult:
    """What is measured of the decoder that inflation with these settings makes."""
    with planned(autoencoder(**{"ch_mult": [1], **shape}), folder, settings) as (plan, source):
        return learn_once(decoder_of(plan, source))


def test_the_ends_of_the_branches_learn_now_and_the_rest_after_them(tmp_path: Path) -> None:
    result = measured({"temporal.time_mode": "all"}, tmp_path, ch=64)
    found = by_name(result)
    block = "decoder.mid.block_1."
    assert found[f"{block}time_stack.out_layers.3.weight"].learns == "now"
    assert found["decoder.conv_out.time_mix_conv.weight"].learns == "now"
    inner = found[f"{block}time_stack.in_layers.2.weight"]
    assert (inner.learns, inner.change) == ("next-step", None)
    mix = found[f"{block}mix_factor"]
    assert (mix.learns, mix.change) == ("next-step", None)
    assert "never" not in {tensor.learns for tensor in result.tensors}


@pytest.mark.parametrize(
    ("strategy", "alpha"),
    [
        *(("learned", alpha) for alpha in (0.0, -50.0, 50.0, 15.0)),
        *(("fixed", alpha) for alpha in (0.0, 0.25, 1e-9, 1e-4)),
    ],
)
def test_dead_weight_is_measured(strategy: str, alpha: float, tmp_path: Path) -> None:
    settings = {
        "temporal.time_mode": "all",
        "temporal.merge_strategy": strategy,
        "temporal.alpha": alpha,
    }
    result = measured(settings, tmp_path)
    never = {t.reason for t in result.tensors if t.learns == "never" and t.change}
    notes = plan_of(autoencoder(ch_mult=[1]), tmp_path, settings).notes
    assert bool(notes) is bool(never)


def tiny(change: Callable[[VideoDecoder], None] | None = None, **changes: Any) -> VideoDecoder:
    """A small decoder as inflation starts it, in float64, and then changed."""
    arguments: dict[str, Any] = {**TINY, "ch": 64, "time_mode": "all", **changes}
    decoder = make_identity(randomized(VideoDecoder(**arguments), keep_mix=True)).double()
    if change is not None:
        with torch.no_grad():
            change(decoder)
    return decoder


def test_the_decoder_is_left_as_it_was() -> None:
    decoder = tiny()
    decoder.train()
    decoder.mid.block_1.eval()
    state = torch.get_rng_state()
    before = {key: value.clone() for key, value in decoder.state_dict().items()}
    learn_once(decoder)
    assert all(p.grad is None and p.requires_grad for p in decoder.parameters())
    assert (decoder.training, decoder.mid.block_1.training) == (True, False)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in decoder.state_dict().items())


def test_a_trained_decoder_learns_all_over_now() -> None:
    decoder = video_decoder("all", ch=64).double()
    assert {tensor.learns for tensor in learn_once(decoder).tensors} == {"now"}


KEY = "mid.block_1.time_stack.out_layers.3.weight"


def never(decoder: VideoDecoder, key: str = KEY) -> tuple[str, str | None]:
    tensor = by_name(learn_once(decoder))[DECODER + key]
    assert tensor.learns == "never"
    return tensor.reason, tensor.change


def test_a_frozen_tensor() -> None:
    decoder = tiny(lambda d: d.get_parameter(KEY).requires_grad_(False))
    assert never(decoder)[1] is not None
    # What stands before it waits for it in vain, since its zeros stay.
    reason, _ = never(decoder, "mid.block_1.time_stack.in_layers.2.weight")
    assert DECODER + KEY in reason
    frozen = tiny()
    frozen.requires_grad_(False)
    assert {t.learns for t in learn_once(frozen).tensors} == {"never"}


@pytest.mark.parametrize(
    ("zero", "spared"),
    [
        ("conv_out.weight", "conv_out.time_mix_conv"),
        ("mid.attn_1.proj_out.weight", "mid.block_1"),
        ("norm_out.weight", "conv_out.time_mix_conv"),
    ],
)
def test_a_layer_that_is_all_zero_is_named(zero: str, spared: str) -> None:
    decoder = tiny(lambda d: d.get_parameter(zero).zero_())
    found = [t for t in learn_once(decoder).tensors if t.learns == "never"]
    assert found, "something is cut off"
    assert all(f"decoder.{zero}" in tensor.reason for tensor in found)
    assert not any(tensor.name.startswith(DECODER + spared) for tensor in found)
