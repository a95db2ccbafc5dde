"""When temporal tensors learn, by two backward passes; and the notes on what never will."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from inflate.formats.layouts import DECODER
from inflate.models import VideoDecoder
from inflate.parity.result import TensorLearning
from inflate.parity.trainability import learn_once

from ..checkpoints import autoencoder
from ..inflation.planning import plan_of
from ..models.builders import TINY, video_decoder
from .damage import sound_pair


def tiny(change: Callable[[VideoDecoder], None] | None = None, **changes: Any) -> VideoDecoder:
    """A small decoder as inflation starts it, in float64, and then changed."""
    _, decoder = sound_pair(dtype=torch.float64, **{**TINY, "time_mode": "all", **changes})
    if change is not None:
        with torch.no_grad():
            change(decoder)
    return decoder


def by_name(result: tuple[TensorLearning, ...]) -> dict[str, TensorLearning]:
    return {tensor.name: tensor for tensor in result}


def test_the_ends_of_the_branches_learn_now_and_the_rest_after_them() -> None:
    result = learn_once(tiny(ch=64))
    found = by_name(result)
    block = "decoder.mid.block_1."
    assert found[f"{block}time_stack.out_layers.3.weight"].learns == "now"
    assert found["decoder.conv_out.time_mix_conv.weight"].learns == "now"
    for later in ("time_stack.in_layers.2.weight", "mix_factor"):
        assert (found[block + later].learns, found[block + later].change) == ("next-step", None)
    assert "never" not in {tensor.learns for tensor in result}


@pytest.mark.parametrize(
    ("strategy", "alpha"),
    [
        *(("learned", alpha) for alpha in (0.0, -50.0, 50.0, 15.0)),
        *(("fixed", alpha) for alpha in (0.0, 0.25, 1e-9, 1e-4)),
    ],
)
def test_dead_weight_is_measured(strategy: str, alpha: float, tmp_path: Path) -> None:
    settings = {"time_mode": "all", "merge_strategy": strategy, "alpha": alpha}
    never = {t for t in learn_once(tiny(**settings)) if t.learns == "never" and t.change}
    layer = {f"temporal.{name}": value for name, value in settings.items()}
    notes = plan_of(autoencoder(ch_mult=[1]), tmp_path, layer).notes
    assert bool(notes) is bool(never)


def test_the_decoder_is_left_as_it_was() -> None:
    decoder = tiny(ch=64)
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
    assert {tensor.learns for tensor in learn_once(decoder)} == {"now"}


KEY = "mid.block_1.time_stack.out_layers.3.weight"


def never(decoder: VideoDecoder, key: str = KEY) -> tuple[str, str | None]:
    tensor = by_name(learn_once(decoder))[DECODER + key]
    assert tensor.learns == "never"
    return tensor.reason, tensor.change


def test_a_frozen_tensor() -> None:
    decoder = tiny(ch=64, change=lambda d: d.get_parameter(KEY).requires_grad_(False))
    assert never(decoder)[1] is not None
    # What stands before it waits for it in vain, since its zeros stay.
    reason, _ = never(decoder, "mid.block_1.time_stack.in_layers.2.weight")
    assert DECODER + KEY in reason
    frozen = tiny(ch=64)
    frozen.requires_grad_(False)
    assert {t.learns for t in learn_once(frozen)} == {"never"}


def test_a_gradient_that_is_not_finite() -> None:
    decoder = tiny(lambda d: d.conv_out.weight.fill_(torch.inf))
    assert never(decoder)[1] is not None


@pytest.mark.parametrize(
    ("zero", "spared"),
    [
        ("conv_out.weight", "conv_out.time_mix_conv"),
        ("mid.attn_1.proj_out.weight", "mid.block_1"),
        ("norm_out.weight", "conv_out.time_mix_conv"),
    ],
)
def test_a_layer_that_is_all_zero_is_named(zero: str, spared: str) -> None:
    decoder = tiny(ch=64, change=lambda d: d.get_parameter(zero).zero_())
    found = [t for t in learn_once(decoder) if t.learns == "never"]
    assert found, "something is cut off"
    assert all(f"decoder.{zero}" in tensor.reason for tensor in found)
    assert not any(tensor.name.startswith(DECODER + spared) for tensor in found)
