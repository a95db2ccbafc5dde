"""How the temporal layers start: which tensor by which rule, and what each rule makes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from inflate.inflation import initializers
from inflate.inflation.initializers import Rule, draw_chunks, make_array, start_rules
from inflate.models import Decoder, VideoDecoder
from inflate.vocabulary import TIME_MODES

from ..models.builders import SMALL
from .planning import config_of

ZEROS, ONES = Rule("zeros"), Rule("ones")
NORMS = ("in_layers.0", "out_layers.0", "norm_in", "norm1", "norm2", "norm3")
ENDS = ("out_layers.3", "to_out.0", "net.2", "video_time_embed.2")
"""The last layers of the temporal branches."""


def contract(key: str, fan_in: int, alpha: float) -> Rule:
    """How a temporal tensor must start: each branch an identity, all else as torch's own layers."""
    owner, _, leaf = key.rpartition(".")
    if leaf == "mix_factor":
        return Rule("constant", -alpha if ".attn" in owner else alpha)
    if owner.endswith("time_mix_conv"):
        return Rule("dirac") if leaf == "weight" else ZEROS
    if owner.endswith(NORMS):
        return ONES if leaf == "weight" else ZEROS
    if owner.endswith(ENDS):
        return ZEROS
    return Rule("uniform", pytest.approx(1 / math.sqrt(fan_in), rel=1e-12))


@pytest.mark.parametrize("kernel", [3, (5, 3, 1)])
@pytest.mark.parametrize("mode", TIME_MODES)
def test_the_rules_are_those_of_the_contract(mode: str, kernel: Any) -> None:
    arguments = {**SMALL, "time_mode": mode, "video_kernel_size": kernel}
    with torch.device("meta"):
        video = VideoDecoder(**arguments)
        image = Decoder(**SMALL)
    expected = {}
    for key in video.state_dict().keys() - image.state_dict().keys():
        weight = getattr(video.get_submodule(key.rpartition(".")[0]), "weight", None)
        fan_in = 1 if weight is None else weight[0].numel()
        expected[f"decoder.{key}"] = contract(key, fan_in, 0.25)
    assert start_rules(config_of(**arguments, alpha=0.25)) == expected


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
    rules = start_rules(config_of(**SMALL, time_mode="all", merge_strategy=strategy, alpha=alpha))
    blends = {key: rule for key, rule in rules.items() if key.endswith("mix_factor")}
    assert len(blends) == 9
    for key, rule in blends.items():
        value = attention if ".attn" in key else residual
        assert rule == Rule("constant", value)
        (made,) = make_array(rule, (1,), "mix_factor", 0)
        assert made == np.float32(value)
        assert made != 0 or not np.signbit(made)


def test_uniform_fills_its_bounds() -> None:
    made = make_array(Rule("uniform", 0.125), (64, 64), "key", 0)
    assert made.dtype == np.float32
    assert 0.99 * 0.125 < np.abs(made).max() <= 0.125
    assert made.std() == pytest.approx(0.125 / math.sqrt(3), rel=0.05)
    assert abs(made.mean()) < 0.05 * 0.125


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
@pytest.mark.parametrize("elements", [1, 8, 1000])
def test_chunks_are_the_whole(rule: Rule, elements: int) -> None:
    shape = (5, 5, 3, 1, 1)
    chunks = list(draw_chunks(rule, shape, "key", 7, elements))
    assert np.array_equal(np.concatenate(chunks), make_array(rule, shape, "key", 7).reshape(-1))
    assert {len(chunk) for chunk in chunks[:-1]} <= {elements}
    assert 0 < len(chunks[-1]) <= elements
