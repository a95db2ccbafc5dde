"""Attention over time: its parts against their formulas, its keys, its factory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from inflate.models import VideoBlock
from inflate.models.time_attention import TimeMixBlock, frame_embedding

from .builders import noise, randomized, video
from .formulas import time_mix

B, T, C, H, W = 2, 3, 32, 4, 5


@pytest.mark.parametrize(("frames", "dim"), [(1, 32), (3, 64), (16, 128)])
def test_frame_embedding_is_its_formula(frames: int, dim: int) -> None:
    half = dim // 2
    angles = np.outer(np.arange(frames), np.exp(-math.log(10_000) * np.arange(half) / half))
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    out = frame_embedding(frames, dim, torch.device("cpu"))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), torch.from_numpy(expected), atol=2e-6, rtol=0)


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
def test_video_block_knows_the_order_of_frames_by_its_embedding() -> None:
    block = randomized(VideoBlock(C, alpha=1.0, merge_strategy="fixed"), keep_mix=True)
    x = video()[:T]
    backwards = block(x.flip(0), timesteps=T).flip(0)
    assert not torch.allclose(block(x, timesteps=T), backwards, atol=1e-3)
    nn.init.zeros_(block.video_time_embed[2].weight)
    nn.init.zeros_(block.video_time_embed[2].bias)
    backwards = block(x.flip(0), timesteps=T).flip(0)
    torch.testing.assert_close(block(x, timesteps=T), backwards, atol=1e-5, rtol=1e-5)
