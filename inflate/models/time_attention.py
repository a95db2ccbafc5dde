"""The temporal attention layers: attention over time, blended with the image attention.

Source:
    ``sgm/modules/autoencoding/temporal_ae.py`` and ``sgm/modules/video_attention.py``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inflate.mix_factor import ATTENTION_WEIGHS
from inflate.models.attention import AttnBlock, attend
from inflate.models.blocks import LayerNorm
from inflate.models.temporal import TemporalBlock, frames_of


def frame_embedding(frames: int, dim: int, device: torch.device) -> Tensor:
    """Sinusoidal embedding of frame indices ``0..T-1``: ``T C``, cosines then sines, float32.

    Source:
        Vaswani et al., 2017, section 3.5; frequencies ``10000 ** (-i / (C/2))``.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=device)
    frequencies = torch.exp(-math.log(10_000.0) * steps / half)
    index = torch.arange(frames, dtype=torch.float32, device=device)
    angles = index[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class GatedLinear(nn.Module):
    """A linear map split into halves ``a, g`` and gated: ``a * gelu(g)``, ``... C -> ... D``.

    Source:
        Shazeer, "GLU Variants Improve Transformer", 2020 (GEGLU).
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """``... C -> ... D``."""
        a, gate = self.proj(x).chunk(2, dim=-1)
        return a * F.gelu(gate)


class FeedForward(nn.Module):
    """Gated feed-forward layer, four times as wide inside: ``... C -> ... C``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # The identity replaces the original's dropout and keeps the key net.2.
        self.net = nn.Sequential(GatedLinear(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """``... C -> ... C``."""
        return self.net(x)


class TimeAttention(nn.Module):
    """Self-attention over frames with one head of ``C`` dimensions, ``N T C -> N T C``."""

    def __init__(self, dim: int, memory_efficient: bool) -> None:
        super().__init__()
        self.memory_efficient = memory_efficient
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """``N T C -> N T C``."""
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        return self.to_out(attend(q, k, v, memory_efficient=self.memory_efficient))


class TimeMixBlock(nn.Module):
    """A transformer block that attends over time at every pixel, ``(B T) S C -> (B T) S C``.

    Source:
        ``VideoTransformerBlock`` of ``sgm/modules/video_attention.py``.
    """

    def __init__(self, dim: int, memory_efficient: bool) -> None:
        super().__init__()
        self.norm_in = LayerNorm(dim)
        self.ff_in = FeedForward(dim)
        self.attn1 = TimeAttention(dim, memory_efficient)
        self.ff = FeedForward(dim)
        self.norm2 = LayerNorm(dim)
        self.attn2 = TimeAttention(dim, memory_efficient)
        self.norm1 = LayerNorm(dim)
        self.norm3 = LayerNorm(dim)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """``(B T) S C -> (B T) S C``; the ``S`` pixels do not mix."""
        pixels = x.shape[1]
        x = x.reshape(-1, frames, pixels, x.shape[2]).transpose(1, 2).flatten(0, 1)  # (B S) T C
        x = self.ff_in(self.norm_in(x)) + x
        x = self.attn1(self.norm1(x)) + x
        x = self.attn2(self.norm2(x)) + x
        x = self.ff(self.norm3(x)) + x
        x = x.reshape(-1, pixels, frames, x.shape[2])
        return x.transpose(1, 2).flatten(0, 1)


class VideoBlock(AttnBlock, TemporalBlock):
    """The image attention, blended with attention over time before the shared projection.

    For arguments see :class:`AttnBlock` and :class:`~inflate.models.VideoDecoder`.
    """

    mix_weighs = ATTENTION_WEIGHS

    def __init__(
        self,
        in_channels: int,
        alpha: float = 0.0,
        merge_strategy: str = "learned",
        timesteps: int | None = None,
    ) -> None:
        super().__init__(in_channels)
        self.time_mix_block = TimeMixBlock(in_channels, self.memory_efficient)
        self.video_time_embed = nn.Sequential(
            nn.Linear(in_channels, 4 * in_channels),
            nn.SiLU(),
            nn.Linear(4 * in_channels, in_channels),
        )
        self.init_blend(alpha, merge_strategy, timesteps)

    def forward(self, x: Tensor, timesteps: int | None = None, skip_video: bool = False) -> Tensor:
        """``(B T) C H W -> (B T) C H W``; ``skip_video`` runs only the image block.

        Raises:
            ValueError: the number of frames is unknown or does not divide the batch.
        """
        if skip_video:
            return super().forward(x)
        frames = frames_of(x, timesteps, self.timesteps)
        return self.project(self.mix(self.attention(x), frames), x)

    def mix(self, spatial: Tensor, frames: int) -> Tensor:
        """Blend tokens ``(B T) S C`` with their attention over time, possibly in place.

        ``S`` may be any subset of the pixels, since pixels do not mix.
        """
        embedding = frame_embedding(frames, spatial.shape[-1], spatial.device).to(spatial.dtype)
        embedding = self.video_time_embed(embedding)  # T C
        placed = spatial.reshape(-1, frames, *spatial.shape[1:]) + embedding[:, None]
        temporal = self.time_mix_block(placed.flatten(0, 1), frames)
        return self.blend(spatial, temporal)


class MemoryEfficientVideoBlock(VideoBlock):
    """:class:`VideoBlock` with xformers' kernels: the same keys."""

    memory_efficient = True
