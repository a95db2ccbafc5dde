"""How the temporal layers start: which tensor by which rule, and what each rule makes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from inflate.config.schema import Config
from inflate.inflation import initializers
from inflate.inflation.initializers import Rule, draw_chunks, make_array, start_rules
from inflate.models import VideoDecoder

from ..models.builders import SMALL
from .planning import config_of

KERNELS: list[Any] = [3, (5, 3, 1)]
MODES = ("all", "conv-only", "attn-only")

# Two levels, of 32 and 64 channels, the coarser with attention: every kind of block there is.
RESIDUAL = {
    "mid.block_1": 64, "mid.block_2": 64,
    "up.1.block.0": 64, "up.1.block.1": 64,
    "up.0.block.0": 32, "up.0.block.1": 32,
}  # fmt: skip
ATTENTION = {"mid.attn_1": 64, "up.1.attn.0": 64, "up.1.attn.1": 64}


def near(fan_in: int) -> Rule:
    """What torch's own layers of so many inputs start as."""
    return Rule("uniform", pytest.approx(1 / math.sqrt(fan_in), rel=1e-12))


ZEROS, ONES = Rule("zeros"), Rule("ones")


def residual_rules(channels: int, taps: int, mix_factor: float) -> dict[str, Rule]:
    """The contract's start of a ``VideoResBlock``."""
    return {
        "mix_factor": Rule("constant", mix_factor),
        "time_stack.in_layers.0.weight": ONES,
        "time_stack.in_layers.0.bias": ZEROS,
        "time_stack.in_layers.2.weight": near(channels * taps),
        "time_stack.in_layers.2.bias": near(channels * taps),
        "time_stack.out_layers.0.weight": ONES,
        "time_stack.out_layers.0.bias": ZEROS,
        "time_stack.out_layers.3.weight": ZEROS,
        "time_stack.out_layers.3.bias": ZEROS,
    }


def attention_rules(channels: int, mix_factor: float) -> dict[str, Rule]:
    """The contract's start of a ``VideoBlock``."""
    plain = near(channels)
    rules = {
        "mix_factor": Rule("constant", mix_factor),
        "video_time_embed.0.weight": plain,
        "video_time_embed.0.bias": plain,
        "video_time_embed.2.weight": ZEROS,
        "video_time_embed.2.bias": ZEROS,
    }
    for norm in ("norm_in", "norm1", "norm2", "norm3"):
        rules[f"time_mix_block.{norm}.weight"] = ONES
        rules[f"time_mix_block.{norm}.bias"] = ZEROS
    for ff in ("ff_in", "ff"):
        rules[f"time_mix_block.{ff}.net.0.proj.weight"] = plain
        rules[f"time_mix_block.{ff}.net.0.proj.bias"] = plain
        rules[f"time_mix_block.{ff}.net.2.weight"] = ZEROS
        rules[f"time_mix_block.{ff}.net.2.bias"] = ZEROS
    for attn in ("attn1", "attn2"):
        for to in ("to_q", "to_k", "to_v"):
            rules[f"time_mix_block.{attn}.{to}.weight"] = plain
        rules[f"time_mix_block.{attn}.to_out.0.weight"] = ZEROS
        rules[f"time_mix_block.{attn}.to_out.0.bias"] = ZEROS
    return rules


def under(prefix: str, rules: dict[str, Rule]) -> dict[str, Rule]:
    return {f"decoder.{prefix}.{key}": rule for key, rule in rules.items()}


def small(**arguments: Any) -> Config:
    return config_of(**{**SMALL, **arguments})


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("mode", MODES)
def test_the_rules_are_those_of_the_contract(mode: str, kernel: Any) -> None:
    taps = math.prod(kernel) if isinstance(kernel, tuple) else kernel**3
    expected = {}
    if mode != "attn-only":
        for block, channels in RESIDUAL.items():
            expected |= under(block, residual_rules(channels, taps, 0.25))
        expected |= under("conv_out.time_mix_conv", {"weight": Rule("dirac"), "bias": ZEROS})
    if mode != "conv-only":
        for block, channels in ATTENTION.items():
            expected |= under(block, attention_rules(channels, -0.25))
    assert start_rules(small(time_mode=mode, video_kernel_size=kernel, alpha=0.25)) == expected


@pytest.mark.parametrize(
    ("strategy", "alpha", "residual", "attention"),
    [
        ("learned", 0.0, 0.0, 0.0), ("learned", 0.3, 0.3, -0.3), ("learned", -2.0, -2.0, 2.0),
        ("fixed", 0.0, 0.0, 1.0), ("fixed", 0.3, 0.3, 0.7),
    ],
)  # fmt: skip
def test_mix_factor_weighs_time_in_a_residual_block_and_space_in_an_attention_block(
    strategy: str, alpha: float, residual: float, attention: float
) -> None:
    rules = start_rules(small(time_mode="all", merge_strategy=strategy, alpha=alpha))
    for block in RESIDUAL:
        assert rules[f"decoder.{block}.mix_factor"] == Rule("constant", residual)
    for block in ATTENTION:
        rule = rules[f"decoder.{block}.mix_factor"]
        assert rule == Rule("constant", attention)
        (made,) = make_array(rule, (1,), "mix_factor", 0)
        assert made == np.float32(attention)
        assert made != 0 or not np.signbit(made)


# What a rule makes


@pytest.mark.parametrize("bound", [0.01, 0.125, 1.0])
def test_uniform_fills_its_bounds(bound: float) -> None:
    made = make_array(Rule("uniform", bound), (64, 64), "key", 0)
    assert made.dtype == np.float32
    assert made.max() > 0.99 * bound
    assert made.min() < -0.99 * bound
    assert made.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert abs(made.mean()) < 0.05 * bound
    assert len(np.unique(made)) > 4000


def test_the_ends_of_the_draw_stay_within_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded to float32, this bound becomes larger."""

    class Least:
        def random(self, count: int, dtype: Any) -> Any:
            return np.zeros(count, dtype)

    monkeypatch.setattr(initializers, "_generator", lambda *_: Least())
    bound = 0.1
    assert float(np.float32(bound)) > bound
    made = make_array(Rule("uniform", bound), (2,), "key", 0)
    assert made.tolist() == pytest.approx([-bound] * 2, rel=1e-6)
    assert np.abs(made.astype(np.float64)).max() <= bound


def test_the_random_start_is_that_of_torchs_own_layers() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = VideoDecoder(**SMALL, time_mode="all")
    rules = start_rules(small(time_mode="all"))
    for key, parameter in decoder.named_parameters():
        rule = rules.get(f"decoder.{key}")
        if rule is not None and rule.name == "uniform" and parameter.numel() > 4000:
            assert parameter.abs().max().item() == pytest.approx(rule.value, rel=0.01)
            assert parameter.abs().max() <= rule.value


UNIFORM = Rule("uniform", 0.5)


def test_the_same_seed_and_key_give_the_same_numbers() -> None:
    first = make_array(UNIFORM, (3, 4), "a.weight", 7)
    for key in ("b.weight", "c.weight"):
        make_array(UNIFORM, (9,), key, 7)
    before, state = torch.get_rng_state(), np.random.get_state(legacy=False)
    assert np.array_equal(make_array(UNIFORM, (3, 4), "a.weight", 7), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert repr(np.random.get_state(legacy=False)) == repr(state)


@pytest.mark.parametrize("rule", [UNIFORM, ONES, Rule("dirac")])
@pytest.mark.parametrize("elements", [1, 7, 8, 100, 1000])
def test_chunks_are_the_whole(rule: Rule, elements: int) -> None:
    shape = (5, 5, 3, 1, 1)
    chunks = list(draw_chunks(rule, shape, "key", 7, elements))
    assert np.array_equal(np.concatenate(chunks), make_array(rule, shape, "key", 7).reshape(-1))
    assert {len(chunk) for chunk in chunks[:-1]} <= {elements}
    assert 0 < len(chunks[-1]) <= elements
