"""The temporal layers: residual block, output convolution and attention over time.

Frames are folded into the batch, video-major: ``(B T) C H W`` at every module boundary, frame
``t`` of video ``b`` at index ``b T + t``.

Source:
    ``sgm/modules/autoencoding/temporal_ae.py`` and ``sgm/modules/video_attention.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inflate.models.attention import attend
from inflate.models.blend import TemporalBlock, frames_of
from inflate.models.blocks import (
    AttnBlock,
    GroupNorm,
    LayerNorm,
    MemoryEfficientAttnBlock,
    ResnetBlock,
    check_attn_type,
)
from inflate.vocabulary import GROUPS, kernel_of

MAX_PERIOD = 10_000.0
"""Longest period of the frame embedding, in frames."""


class TimeConv(nn.Conv3d):
    """A convolution over ``T H W`` that keeps channels, frames, height and width.

    A single frame meets only zeros before and after, so it needs the kernel's middle slice alone: a
    third of the work. It is also the one case that oneDNN gets wrong (bfloat16, fewer than four
    channels, kernel of three frames or more: it reads past its input, torch 2.13 on AMX).
    """

    def __init__(self, channels: int, video_kernel_size: int | Sequence[int]) -> None:
        kernel = kernel_of(video_kernel_size)
        super().__init__(channels, channels, kernel, padding=tuple(k // 2 for k in kernel))

    def forward(self, input: Tensor) -> Tensor:
        """``B C T H W -> B C T H W``."""
        if input.shape[2] > 1:
            return super().forward(input)
        middle = self.weight[:, :, self.kernel_size[0] // 2]
        padding = (self.kernel_size[1] // 2, self.kernel_size[2] // 2)
        return F.conv2d(input.squeeze(2), middle, self.bias, padding=padding).unsqueeze(2)


def unfold_frames(x: Tensor, frames: int) -> Tensor:
    """``(B T) C H W -> B C T H W``, a view."""
    return x.unflatten(0, (-1, frames)).transpose(1, 2)


def fold_frames(x: Tensor) -> Tensor:
    """``B C T H W -> (B T) C H W``."""
    return x.transpose(1, 2).flatten(0, 1)


def frame_embedding(frames: int, dim: int, device: torch.device) -> Tensor:
    """Sinusoids of the frame indices ``0..T-1``, ``T C``: cosines first, then sines, in float32.

    Source:
        Vaswani et al., 2017, section 3.5; frequencies ``10000 ** (-i / (C/2))``.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=device)
    frequencies = torch.exp(-math.log(MAX_PERIOD) * steps / half)
    index = torch.arange(frames, dtype=torch.float32, device=device)
    angles = index[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeStack(nn.Module):
    """A residual block of two Conv3d, ``B C T H W -> B C T H W``; the second starts at zero.

    Source:
        ``ResBlock`` (``dims=3``, without time embedding) of
        ``sgm/modules/diffusionmodules/openaimodel.py``.
    """

    def __init__(
        self, channels: int, dropout: float, video_kernel_size: int | Sequence[int]
    ) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            GroupNorm(GROUPS, channels, eps=1e-5), nn.SiLU(), TimeConv(channels, video_kernel_size)
        )
        last = TimeConv(channels, video_kernel_size)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        self.out_layers = nn.Sequential(
            GroupNorm(GROUPS, channels, eps=1e-5), nn.SiLU(), nn.Dropout(dropout), last
        )

    def forward(self, x: Tensor) -> Tensor:
        """``B C T H W -> B C T H W``."""
        out: Tensor = x + self.out_layers(self.in_layers(x))
        return out


class VideoResBlock(ResnetBlock, TemporalBlock):
    """The image residual block, then a temporal one on its output, blended.

    Args:
        out_channels: channels of the output.
        in_channels: channels of the input.
        dropout: share of the activations zeroed in training.
        temb_channels: always 0, as in :class:`~inflate.models.blocks.ResnetBlock`.
        video_kernel_size: kernel of the Conv3d, one odd number or three (time, height, width).
        alpha: share of the temporal branch at the start; before its sigmoid if ``learned``.
        merge_strategy: ``learned`` or ``fixed``.
        timesteps: frames of a video where ``forward`` is not told.

    Raises:
        ValueError: an argument out of its range.
    """

    mix_weighs = "temporal"

    def __init__(
        self,
        out_channels: int,
        *,
        in_channels: int,
        dropout: float = 0.0,
        temb_channels: int = 0,
        video_kernel_size: int | Sequence[int] = 3,
        alpha: float = 0.0,
        merge_strategy: str = "learned",
        timesteps: int | None = None,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            dropout=dropout,
            temb_channels=temb_channels,
        )
        self.time_stack = TimeStack(out_channels, dropout, video_kernel_size)
        self.init_blend(alpha, merge_strategy, timesteps)

    def forward(
        self,
        x: Tensor,
        temb: None = None,
        skip_video: bool = False,
        timesteps: int | None = None,
    ) -> Tensor:
        """``(B T) C H W -> (B T) C' H W``; ``skip_video`` leaves the image block alone.

        Raises:
            ValueError: the number of frames is unknown or does not divide the batch.
        """
        spatial = super().forward(x, temb)
        if skip_video:
            return spatial
        frames = frames_of(x, timesteps, self.timesteps)
        temporal = fold_frames(self.time_stack(unfold_frames(spatial, frames)))
        return self.blend(spatial, temporal)


class AE3DConv(nn.Conv2d):
    """The image's output convolution, then a convolution over time; no blend and no skip.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, which the time convolution keeps.
        video_kernel_size: kernel of the Conv3d, one odd number or three (time, height, width).
        *args: what ``torch.nn.Conv2d`` takes, such as its kernel size.
        timesteps: frames of a video where ``forward`` is not told.
        **kwargs: what ``torch.nn.Conv2d`` takes.

    Raises:
        ValueError: the kernel is not one or three odd numbers.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        video_kernel_size: int | Sequence[int] = 3,
        *args: Any,
        timesteps: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, *args, **kwargs)
        self.time_mix_conv = TimeConv(out_channels, video_kernel_size)
        self.timesteps = timesteps

    def forward(
        self, input: Tensor, timesteps: int | None = None, skip_video: bool = False
    ) -> Tensor:
        """``(B T) C H W -> (B T) C' H W``.

        Raises:
            ValueError: the number of frames is unknown or does not divide the batch.
        """
        x = super().forward(input)
        if skip_video:
            return x
        frames = frames_of(input, timesteps, self.timesteps)
        return fold_frames(self.time_mix_conv(unfold_frames(x, frames)))


class GatedLinear(nn.Module):
    """A linear map split in halves ``a, g`` and gated: ``a * gelu(g)``, ``... C -> ... D``."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """``... C -> ... D``."""
        a, gate = self.proj(x).chunk(2, dim=-1)
        out: Tensor = a * F.gelu(gate)
        return out


class FeedForward(nn.Module):
    """Widen four times with a gate, and back: ``... C -> ... C``.

    Source:
        Shazeer, "GLU Variants Improve Transformer", 2020 (GEGLU).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        # The empty place is the original's dropout: it keeps the keys net.0 and net.2.
        self.net = nn.Sequential(GatedLinear(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """``... C -> ... C``."""
        out: Tensor = self.net(x)
        return out


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
        out: Tensor = self.to_out(attend(q, k, v, memory_efficient=self.memory_efficient))
        return out


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
        """``(B T) S C -> (B T) S C``, where ``S`` pixels never meet one another."""
        pixels = x.shape[1]
        x = x.unflatten(0, (-1, frames)).transpose(1, 2).flatten(0, 1)  # (B S) T C
        x = self.ff_in(self.norm_in(x)) + x
        x = self.attn1(self.norm1(x)) + x
        x = self.attn2(self.norm2(x)) + x
        x = self.ff(self.norm3(x)) + x
        return x.unflatten(0, (-1, pixels)).transpose(1, 2).flatten(0, 1)


class VideoBlock(AttnBlock, TemporalBlock):
    """The image attention, blended with attention over time before the common projection.

    Args:
        in_channels: channels of input and output, an even number.
        alpha: share of the temporal branch at the start; before its sigmoid if ``learned``.
        merge_strategy: ``learned`` or ``fixed``.
        timesteps: frames of a video where ``forward`` is not told.

    Raises:
        ValueError: an argument out of its range.
    """

    mix_weighs = "spatial"

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

    def forward(
        self, x: Tensor, timesteps: int | None = None, skip_video: bool = False
    ) -> Tensor:
        """``(B T) C H W -> (B T) C H W``; ``skip_video`` leaves the image block alone.

        Raises:
            ValueError: the number of frames is unknown or does not divide the batch.
        """
        if skip_video:
            return super().forward(x)
        frames = frames_of(x, timesteps, self.timesteps)
        spatial = self.attention(x)
        embedding = frame_embedding(frames, self.in_channels, x.device).to(x.dtype)
        embedding = self.video_time_embed(embedding)  # T C
        placed = (spatial.unflatten(0, (-1, frames)) + embedding[:, None]).flatten(0, 1)
        temporal = self.time_mix_block(placed, frames)
        return self.project(self.blend(spatial, temporal), x)


class MemoryEfficientVideoBlock(VideoBlock, MemoryEfficientAttnBlock):
    """:class:`VideoBlock` with xformers' kernels: the same keys, the same result."""


def make_time_attn(
    in_channels: int,
    attn_type: str = "vanilla",
    attn_kwargs: None = None,
    alpha: float = 0.0,
    merge_strategy: str = "learned",
    timesteps: int | None = None,
) -> nn.Module:
    """The temporal attention block of an ``attn_type``: ``vanilla``, ``vanilla-xformers``, ``none``.

    Args:
        in_channels: channels of input and output.
        attn_type: which block; ``none`` is the identity, without keys.
        attn_kwargs: kept for calls written for the original, where it is always None.
        alpha: see :class:`VideoBlock`.
        merge_strategy: see :class:`VideoBlock`.
        timesteps: see :class:`VideoBlock`.

    Raises:
        ValueError: an argument out of its range.
    """
    check_attn_type(attn_type)
    if attn_kwargs is not None:
        raise ValueError(f"attn_kwargs is {attn_kwargs!r}; temporal attention takes none")
    if attn_type == "none":
        return nn.Identity()
    block = MemoryEfficientVideoBlock if attn_type == "vanilla-xformers" else VideoBlock
    return block(in_channels, alpha, merge_strategy, timesteps)
