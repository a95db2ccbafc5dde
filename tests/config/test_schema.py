"""The configuration's data: what it derives, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from typing import Any

import pytest

from inflate.config.schema import Architecture, Config, Temporal

SMALL = Architecture(ch=32, ch_mult=(1, 2), num_res_blocks=1, z_channels=4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ch", 0), ("num_res_blocks", 0), ("z_channels", -4), ("in_channels", 0), ("out_ch", 0),
        ("embed_dim", 0), ("n_embed", -1), ("ch_mult", ()), ("ch_mult", (1, 0)), ("ch", 24),
        ("resolution", 1), ("dropout", 1.0), ("dropout", -0.1), ("give_pre_end", True),
    ],
)  # fmt: skip
def test_an_architecture_that_cannot_be_built_is_refused(name: str, value: Any) -> None:
    (problem,) = replace(SMALL, **{name: value}).problems()
    assert problem.startswith(f"architecture.{name} is ")


def test_attention_over_time_needs_attention() -> None:
    bare = replace(SMALL, attn_type="none")
    (problem,) = Config(bare, Temporal(time_mode="attn-only")).problems()
    assert "temporal.time_mode" in problem
    assert Config(bare, Temporal(time_mode="all")).problems() == []


FLOATS = [
    (section, entry.name)
    for section in (Architecture, Temporal)
    for entry in dataclasses.fields(section)
    if "float" in str(entry.type)
]


@pytest.mark.parametrize(("section", "name"), FLOATS)
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_number_that_is_not_finite_is_refused_in_every_float(
    section: type, name: str, value: float
) -> None:
    start: Any = SMALL if section is Architecture else Temporal()
    (problem,) = replace(start, **{name: value}).problems()
    assert name in problem
