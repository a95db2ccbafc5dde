"""A sound conversion raises no alarm, whatever its configuration."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ..models.builders import SMALL
from .damage import check, sound_pair

pytestmark = pytest.mark.slow

CONFIGURATIONS = 200
PIECES = 4
"""Into which the configurations are split, so that they can run in parallel."""


def drawn(seed: int) -> dict[str, Any]:
    """A small configuration: every part of it drawn."""
    draw = random.Random(seed)
    mode = draw.choice(["all", "conv-only", "attn-only"])
    merge = draw.choice(["learned", "fixed"])
    alpha = draw.choice([0.0, 1.0, draw.random()])
    levels = draw.choice([[1], [2], [1, 2], [2, 1], [1, 1]])
    return {
        **SMALL,
        "z_channels": draw.choice([1, 2, 3, 4, 16]),
        "out_ch": draw.choice([1, 3, 4]),
        "ch_mult": levels,
        "num_res_blocks": draw.choice([0, 1]),
        "attn_resolutions": draw.choice([[], [16], [8]]),
        "attn_type": "vanilla" if mode == "attn-only" else draw.choice(["vanilla", "none"]),
        "tanh_out": draw.random() < 0.2,
        "resamp_with_conv": draw.random() < 0.8,
        "time_mode": mode,
        "merge_strategy": merge,
        "alpha": alpha if merge == "fixed" else draw.uniform(-6, 6),
        "video_kernel_size": draw.choice([1, 3, (3, 1, 1), (1, 3, 3), (5, 3, 1), (3, 5, 5)]),
    }


@pytest.mark.parametrize("piece", range(PIECES))
def test_random_sound_conversions_are_bitwise(piece: int) -> None:
    for seed in range(piece, CONFIGURATIONS, PIECES):
        config = drawn(seed)
        image, video = sound_pair(seed, **config)
        report = check(image, video, seed=seed)
        assert report.verdict == "bitwise", (seed, config)
        assert report.first_divergence is None, (seed, config)
        assert report.layers, (seed, config)
        assert {layer.verdict for layer in report.layers} == {"bitwise"}, (seed, config)
        assert {part.verdict for p in report.probes for part in p.parts} == {"bitwise"}
        assert report.notes == ()
