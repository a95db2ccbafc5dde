"""Attention over time: its parts against their formulas, its keys, its factory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from inflate.models import AttnBlock, MemoryEfficientVideoBlock, VideoBlock, make_time_attn
from inflate.models.time_attention import GatedLinear, TimeMixBlock, frame_embedding

from .builders import MERGE_STRATEGIES, noise, randomized, shapes_of, video
from .formulas import gelu, time_mix

B, T, C, H, W = 2, 3, 32, 4, 5


@pytest.mark.parametrize(("frames", "dim"), [(1, 32), (3, 64), (16, 128)])
def test_frame_embedding_is_its_formula(frames: int, dim: int) -> None:
    half = dim // 2
    angles = np.outer(np.arange(frames), np.exp(-math.log(10_000) * np.arange(half) / half))
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    out = frame_embedding(frames, dim, torch.device("cpu"))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), torch.from_numpy(expected), atol=2e-6, rtol=0)


def test_gated_linear_gates_with_its_second_half() -> None:
    gated = randomized(GatedLinear(4, 6)).double()
    x = 3 * noise(5, 4, dtype=torch.float64)  # where the tanh approximation of gelu is told apart
    y = x @ gated.proj.weight.T + gated.proj.bias
    a, g = y[:, :6], y[:, 6:]
    torch.testing.assert_close(gated(x), a * gelu(g))


@torch.no_grad()
def test_time_mix_block_is_its_formula_at_every_pixel() -> None:
    block = randomized(TimeMixBlock(C, memory_efficient=False)).double()
    x = noise(B * T, H * W, C, dtype=torch.float64)
    out = block(x, T)
    for b in range(B):
        for pixel in range(H * W):
            frames = slice(b * T, (b + 1) * T)
            expected = time_mix(block, x[frames, pixel])
            torch.testing.assert_close(out[frames, pixel], expected)


@torch.no_grad()
def test_time_mix_block_keeps_pixels_apart() -> None:
    block = randomized(TimeMixBlock(C, memory_efficient=False))
    x = noise(B * T, H * W, C)
    changed = x.clone()
    changed[0, 7] += 1
    moved = (block(changed, T) != block(x, T)).any(-1)
    expected = torch.zeros(B * T, H * W, dtype=torch.bool)
    expected[:T, 7] = True
    assert torch.equal(moved, expected)


@torch.no_grad()
def test_video_block_knows_the_order_of_frames_by_its_embedding() -> None:
    block = randomized(VideoBlock(C, alpha=1.0, merge_strategy="fixed"), keep_mix=True)
    x = video()[:T]
    backwards = block(x.flip(0), timesteps=T).flip(0)
    assert not torch.allclose(block(x, timesteps=T), backwards, atol=1e-3)
    nn.init.zeros_(block.video_time_embed[2].weight)
    nn.init.zeros_(block.video_time_embed[2].bias)
    backwards = block(x.flip(0), timesteps=T).flip(0)
    torch.testing.assert_close(block(x, timesteps=T), backwards, atol=1e-5, rtol=1e-5)


def test_video_block_keys() -> None:
    shapes = shapes_of(VideoBlock(C))
    assert shapes_of(MemoryEfficientVideoBlock(C)) == shapes
    added = {key: shape for key, shape in shapes.items() if key not in AttnBlock(C).state_dict()}
    expected = {
        "mix_factor": (1,),
        "video_time_embed.0.weight": (4 * C, C),
        "video_time_embed.0.bias": (4 * C,),
        "video_time_embed.2.weight": (C, 4 * C),
        "video_time_embed.2.bias": (C,),
    }
    for name in ("norm_in", "norm1", "norm2", "norm3"):
        expected |= {f"time_mix_block.{name}.weight": (C,), f"time_mix_block.{name}.bias": (C,)}
    for name in ("attn1", "attn2"):
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            expected[f"time_mix_block.{name}.{part}.weight"] = (C, C)
        expected[f"time_mix_block.{name}.to_out.0.bias"] = (C,)
    for name in ("ff_in", "ff"):
        expected |= {
            f"time_mix_block.{name}.net.0.proj.weight": (8 * C, C),
            f"time_mix_block.{name}.net.0.proj.bias": (8 * C,),
            f"time_mix_block.{name}.net.2.weight": (C, 4 * C),
            f"time_mix_block.{name}.net.2.bias": (C,),
        }
    assert added == expected


@pytest.mark.parametrize(
    ("attn_type", "kind"),
    [
        ("vanilla", VideoBlock),
        ("vanilla-xformers", MemoryEfficientVideoBlock),
        ("none", nn.Identity),
    ],
)
@pytest.mark.parametrize("merge_strategy", MERGE_STRATEGIES)
def test_make_time_attn(attn_type: str, kind: type[nn.Module], merge_strategy: str) -> None:
    block = make_time_attn(
        C, attn_type, None, alpha=0.25, merge_strategy=merge_strategy, timesteps=T
    )
    assert type(block) is kind
    if isinstance(block, VideoBlock):
        assert block.merge_strategy == merge_strategy
        assert float(block.mix_factor.detach()) == (0.75 if merge_strategy == "fixed" else -0.25)
        assert block.timesteps == T


def test_make_time_attn_refuses_what_it_cannot_make() -> None:
    with pytest.raises(ValueError, match=r"attn_type is 'linear'.*vanilla, vanilla-xformers, none"):
        make_time_attn(C, "linear")
    with pytest.raises(ValueError, match=r"attn_kwargs is \{'heads': 2\}"):
        make_time_attn(C, attn_kwargs={"heads": 2})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="merge_strategy is 'sum'"):
        make_time_attn(C, merge_strategy="sum")
