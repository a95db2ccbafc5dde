"""The configuration's data: what it derives, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from inflate.config.schema import Architecture, Config, Temporal
from inflate.models import Decoder, Encoder, VideoDecoder

SMALL = Architecture(ch=32, ch_mult=(1, 2), num_res_blocks=1, z_channels=4)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"ch": 0}, "architecture.ch is 0; expected 1 or more"),
        ({"num_res_blocks": 0}, "architecture.num_res_blocks is 0; expected 1 or more"),
        ({"z_channels": -4}, "architecture.z_channels is -4; expected 1 or more"),
        ({"in_channels": 0}, "architecture.in_channels is 0; expected 1 or more"),
        ({"out_ch": 0}, "architecture.out_ch is 0; expected 1 or more"),
        ({"embed_dim": 0}, "architecture.embed_dim is 0; expected 1 or more"),
        ({"n_embed": -1}, "architecture.n_embed is -1; expected 1 or more"),
        (
            {"ch_mult": ()},
            "architecture.ch_mult is []; expected at least one number, each 1 or more",
        ),
        (
            {"ch_mult": (1, 0)},
            "architecture.ch_mult is [1, 0]; expected at least one number, each 1 or more",
        ),
        (
            {"ch": 24, "ch_mult": (4, 8)},
            "architecture.ch is 24 and ch_mult [4, 8]: every level's channels must be a multiple "
            "of 32, the groups of its norms",
        ),
        (
            {"resolution": 1},
            "architecture.resolution is 1; expected at least 2, so that 2 levels fit",
        ),
        ({"dropout": 1.0}, "architecture.dropout is 1.0; expected 0 or more, below 1"),
        ({"dropout": -0.1}, "architecture.dropout is -0.1; expected 0 or more, below 1"),
        ({"dropout": math.nan}, "architecture.dropout is nan; expected 0 or more, below 1"),
        (
            {"give_pre_end": True},
            "architecture.give_pre_end is true: such a decoder gives features, not images, "
            "and cannot be checked against one; set it to false",
        ),
    ],
)
def test_what_cannot_be_built_is_said(change: dict[str, Any], problem: str) -> None:
    assert replace(SMALL, **change).problems() == [problem]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"merge_strategy": "fixed", "alpha": 1.5},
            "temporal.alpha is 1.5; expected 0 to 1, since merge_strategy 'fixed' uses it as the "
            "share of the temporal branch",
        ),
        (
            {"merge_strategy": "fixed", "alpha": math.nan},
            "temporal.alpha is nan; expected 0 to 1, since merge_strategy 'fixed' uses it as the "
            "share of the temporal branch",
        ),
        ({"alpha": math.nan}, "temporal.alpha is nan; expected a finite number"),
        ({"alpha": -math.inf}, "temporal.alpha is -inf; expected a finite number"),
        (
            {"video_kernel_size": (3, 2, 1)},
            "temporal.video_kernel_size is (3, 2, 1); expected one positive odd number, or three "
            "for time, height and width, such as 3 or [3, 1, 1]",
        ),
    ],
)
def test_temporal_layers_that_cannot_be_built_are_said(
    change: dict[str, Any], problem: str
) -> None:
    assert Temporal(**change).problems() == [problem]


def test_attention_over_time_needs_attention() -> None:
    bare = replace(SMALL, attn_type="none")
    assert Config(bare, Temporal(time_mode="attn-only")).problems() == [
        "temporal.time_mode is 'attn-only' and architecture.attn_type 'none': there is no "
        "attention to make temporal; choose 'conv-only' or 'all'"
    ]
    assert Config(bare, Temporal(time_mode="all")).problems() == []


FLOATS = [
    (section, entry.name)
    for section in (Architecture, Temporal)
    for entry in dataclasses.fields(section)
    if "float" in str(entry.type)
]


@pytest.mark.parametrize(("section", "name"), FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_in_every_float(
    section: type, name: str, value: float
) -> None:
    start: Any = SMALL if section is Architecture else Temporal()
    (problem,) = replace(start, **{name: value}).problems()
    assert name in problem


@pytest.mark.parametrize(
    ("ch", "ch_mult", "channels", "downsampling"),
    [(32, (1,), (32,), 1), (32, (1, 2, 4), (32, 64, 128), 4), (128, (1, 1, 2), (128, 128, 256), 4)],
)
def test_levels(
    ch: int, ch_mult: tuple[int, ...], channels: tuple[int, ...], downsampling: int
) -> None:
    architecture = replace(SMALL, ch=ch, ch_mult=ch_mult)
    assert architecture.level_channels == channels
    assert architecture.downsampling == downsampling


@pytest.mark.parametrize(
    ("resolution", "attn_resolutions", "attn_type", "levels"),
    [
        (256, (), "vanilla", ()),
        (256, (64,), "vanilla", (2,)),
        (256, (16, 128, 256), "vanilla-xformers", (0, 1)),
        (30, (7,), "vanilla", (2,)),
        (256, (64,), "none", ()),
    ],
)
def test_attention_levels_are_those_the_modules_give_keys(
    resolution: int, attn_resolutions: tuple[int, ...], attn_type: Any, levels: tuple[int, ...]
) -> None:
    architecture = replace(
        SMALL,
        ch_mult=(1, 1, 1),
        resolution=resolution,
        attn_resolutions=attn_resolutions,
        attn_type=attn_type,
    )
    assert architecture.attention_levels == levels
    with torch.device("meta"):
        keys = Decoder(**architecture.module_arguments()).state_dict()
    assert {int(k.split(".")[1]) for k in keys if k.startswith("up.") and "attn" in k} == {*levels}


def test_the_modules_arguments_reach_the_modules() -> None:
    architecture = replace(
        SMALL, z_channels=5, in_channels=4, out_ch=2, tanh_out=True, double_z=False, embed_dim=7,
        resamp_with_conv=False, scaling_factor=2.0,
    )  # fmt: skip
    temporal = Temporal("all", "fixed", 0.25, (3, 1, 1))
    assert not {"embed_dim", "n_embed", "scaling_factor"} & set(architecture.module_arguments())
    with torch.device("meta"):
        video = VideoDecoder(**architecture.module_arguments(), **temporal.module_arguments())
        encoder = Encoder(**architecture.module_arguments())
    assert video.conv_in.weight.shape[1] == 5
    assert video.get_last_layer().shape == (2, 2, 3, 1, 1)
    assert (video.tanh_out, video.time_mode, video.alpha) == (True, "all", 0.25)
    assert "up.1.upsample.conv.weight" not in video.state_dict()
    assert encoder.conv_in.weight.shape[1] == 4
    assert encoder.conv_out.weight.shape[0] == 5
