"""A plan carried out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from inflate.errors import PlanError
from inflate.inflation.apply import is_finite, planned_tensors
from inflate.inflation.plan import Copy, Make
from inflate.loading import make_tensor
from inflate.progress import silent

from ..checkpoints import autoencoder, prefixed
from .planning import planned

SMALLEST: dict[str, Any] = {"ch_mult": [1]}


def carried_out(weights: dict[str, Tensor], folder: Path, **settings: Any) -> dict[str, Tensor]:
    """The tensors that a plan gives, by their keys."""
    with planned(weights, folder, settings) as (plan, source):
        tensors = planned_tensors(plan, source.checkpoint, silent)
        return {t.key: tensor.clone() for t, tensor in zip(plan.tensors, tensors, strict=True)}


def complaints(weights: dict[str, Tensor], folder: Path, **settings: Any) -> list[str]:
    """What is said of a plan's tensors, after the last of them."""
    with planned(weights, folder, settings) as (plan, source):
        tensors = planned_tensors(plan, source.checkpoint, silent)
        for _ in plan.tensors:
            next(tensors)
        with pytest.raises(PlanError) as caught:
            next(tensors)
    assert str(caught.value).startswith("weights that are not finite cannot be converted:")
    return sorted(caught.value.problems)


@pytest.mark.parametrize("mode", ["all", "conv-only", "attn-only"])
def test_what_is_copied_is_the_sources_and_what_is_made_follows_its_rule(
    mode: str, tmp_path: Path
) -> None:
    weights = prefixed(autoencoder("vq"))
    with planned(weights, tmp_path, {"temporal.time_mode": mode, "seed": 5}) as (plan, source):
        tensors = list(planned_tensors(plan, source.checkpoint, silent))
        for target, tensor in zip(plan.tensors, tensors, strict=True):
            assert tuple(tensor.shape) == target.shape
            if isinstance(target.origin, Copy):
                assert torch.equal(tensor, weights[target.origin.source])
            else:
                assert isinstance(target.origin, Make)
                made = make_tensor(target.origin.rule, target.shape, target.key, 5)
                assert torch.equal(tensor, made)


def test_the_seed_decides_the_random_part_alone(tmp_path: Path) -> None:
    one, again, other = (
        carried_out(autoencoder(**SMALLEST), tmp_path, seed=seed) for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[key], again[key]) for key in one)
    changed = {key for key in one if not torch.equal(one[key], other[key])}
    assert changed == {key for key in one if "in_layers.2" in key}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_are_stored_in_the_type_asked_for(dtype: str, tmp_path: Path) -> None:
    weights = autoencoder(**SMALLEST)
    tensors = carried_out(weights, tmp_path, dtype=dtype)
    assert {str(tensor.dtype) for tensor in tensors.values()} == {f"torch.{dtype}"}
    for key, tensor in weights.items():
        assert torch.equal(tensors[key], tensor.to(getattr(torch, dtype)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_told_all_at_once(value: float, tmp_path: Path) -> None:
    weights = autoencoder(**SMALLEST)
    weights["decoder.conv_in.weight"][3, 2, 1, 0] = value
    weights["encoder.norm_out.bias"][:2] = value
    weights["post_quant_conv.bias"][-1] = value
    assert [said.partition(" (")[0] for said in complaints(weights, tmp_path)] == [
        "decoder.conv_in.weight holds NaN or infinity",
        "encoder.norm_out.bias holds NaN or infinity",
        "post_quant_conv.bias holds NaN or infinity",
    ]


@pytest.mark.parametrize(
    ("dtype", "names"),
    [
        ("float16", ["decoder.conv_out.bias", "encoder.conv_out.bias"]),
        ("bfloat16", ["encoder.conv_out.bias"]),
        ("float32", ["encoder.conv_out.bias"]),
    ],
)
def test_weights_that_the_stored_type_cannot_hold_are_told_all_at_once(
    dtype: str, names: list[str], tmp_path: Path
) -> None:
    weights = autoencoder(dtype=torch.float64, **SMALLEST)
    weights["encoder.conv_in.bias"][0] = 6e4  # Any type holds it.
    weights["decoder.conv_out.bias"][0] = 7e4
    weights["encoder.conv_out.bias"][0] = -1e39
    said = complaints(prefixed(weights), tmp_path, dtype=dtype)
    assert [one.partition(" (")[0] for one in said] == [
        f"first_stage_model.{name} overflows in {dtype}" for name in names
    ]


def test_what_is_left_behind_may_hold_anything(tmp_path: Path) -> None:
    weights = {**autoencoder(**SMALLEST), "loss.logvar": torch.tensor([math.nan])}
    assert "loss.logvar" not in carried_out(weights, tmp_path)


@pytest.mark.parametrize(
    ("dtype", "alpha"), [("float16", 7e4), ("float32", 1e39), ("bfloat16", 3.4e38)]
)
def test_a_start_that_the_stored_type_cannot_hold_is_told(
    dtype: str, alpha: float, tmp_path: Path
) -> None:
    settings = {"temporal.alpha": alpha, "dtype": dtype}
    assert complaints(autoencoder(**SMALLEST), tmp_path, **settings) == [
        f"decoder.{block}.mix_factor, made as constant({alpha:g}), overflows in {dtype}"
        for block in ("mid.block_1", "mid.block_2", "up.0.block.0", "up.0.block.1")
    ]


def test_progress_is_told_tensor_by_tensor(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    with planned(autoencoder(**SMALLEST), tmp_path) as (plan, source):
        total = len(plan.tensors)
        tensors = planned_tensors(plan, source.checkpoint, lambda *step: told.append(step))
        next(tensors)
        assert told == [("writing", 0, total)]
        list(tensors)
    assert told == [("writing", done, total) for done in range(total + 1)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("values", "finite"),
    [
        ([], True),
        ([0.0, -1.0], True),
        ([math.nan, 1.0], False),
        ([1.0, math.inf], False),
        ([-math.inf, 1.0], False),
        ([math.inf, math.nan], False),
    ],
)
def test_is_finite(values: list[float], finite: bool, dtype: torch.dtype) -> None:
    assert is_finite(torch.tensor(values, dtype=dtype)) is finite
