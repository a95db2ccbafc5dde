"""The two-dimensional layers that the encoder, the image decoder and the video decoder share.

Legend of the shapes: ``B`` videos, ``T`` frames, ``N`` images (``N = B T`` inside a video decoder,
video-major), ``C`` channels, ``H W`` height and width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inflate.errors import nearest
from inflate.models.attention import attend
from inflate.vocabulary import ATTN_TYPES, DDCONFIG_FIXED, DDCONFIG_KEYS, GROUPS

Step = Callable[..., Tensor]
"""One step of an encoder or decoder: a module, or a function of ``N C H W``."""


def check_ignored(module: nn.Module, ignored: Mapping[str, object]) -> None:
    """Refuse keywords that are neither a module's own nor those of a shared ``ddconfig``.

    Raises:
        TypeError: a ``ddconfig`` has no such keyword.
        ValueError: this family supports the keyword at another value only.
    """
    kind = type(module)
    for name, value in ignored.items():
        if name not in DDCONFIG_KEYS:
            own = (key for base in kind.__mro__ for key in inspect.getfullargspec(base).kwonlyargs)
            raise TypeError(
                f"{kind.__name__}() got an unexpected keyword argument {name!r}"
                + nearest(name, [*own, *DDCONFIG_KEYS])
            )
        if value != DDCONFIG_FIXED.get(name, value):
            raise ValueError(
                f"{name} is {value!r}; this family supports {DDCONFIG_FIXED[name]!r} only"
            )


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32 if its type is narrower, else unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class GroupNorm(nn.GroupNorm):
    """GroupNorm that computes in float32 or wider and returns its input's type."""

    def forward(self, input: Tensor) -> Tensor:
        """``N C ...`` to the same shape and type."""
        weight, bias = at_least_float32(self.weight), at_least_float32(self.bias)
        y = F.group_norm(at_least_float32(input), self.num_groups, weight, bias, self.eps)
        return y.to(input.dtype)


class LayerNorm(nn.LayerNorm):
    """LayerNorm that computes in float32 or wider and returns its input's type."""

    def forward(self, input: Tensor) -> Tensor:
        """``... C``, normalised over the last axis, to the same shape and type."""
        weight, bias = at_least_float32(self.weight), at_least_float32(self.bias)
        y = F.layer_norm(at_least_float32(input), self.normalized_shape, weight, bias, self.eps)
        return y.to(input.dtype)


def silu(x: Tensor) -> Tensor:
    """SiLU, in place unless a gradient needs ``x``; the caller must not use ``x`` again."""
    return F.silu(x, inplace=not x.requires_grad)


def add_to(h: Tensor, x: Tensor) -> Tensor:
    """``x + h``, in place of ``h`` unless a gradient needs it; do not use ``h`` again."""
    if h.requires_grad or x.requires_grad or h.dtype != x.dtype:
        return x + h
    return h.add_(x)


def spatial_norm(channels: int) -> GroupNorm:
    """The GroupNorm of the image layers: 32 groups, eps 1e-6."""
    return GroupNorm(GROUPS, channels, eps=1e-6)


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps height and width."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


def conv1x1(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 1x1 convolution: a linear map of the channels at every pixel."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1)


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions around a skip, ``N C H W -> N C' H W``.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; the input's by default. Where they differ the skip
            is a 1x1 convolution, ``nin_shortcut``.
        dropout: share of the activations zeroed in training, before the second convolution.
        temb_channels: always 0, since autoencoders have no time embedding; accepted for calls
            written for the blocks of diffusion models.

    Raises:
        ValueError: ``temb_channels`` is not 0.

    Source:
        ``ResnetBlock`` of ``ldm/modules/diffusionmodules/model.py``.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int | None = None,
        dropout: float = 0.0,
        temb_channels: int = 0,
    ) -> None:
        super().__init__()
        if temb_channels:
            raise ValueError(
                f"temb_channels is {temb_channels}; the blocks of an autoencoder take no time "
                "embedding: pass 0"
            )
        out_channels = in_channels if out_channels is None else out_channels
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.norm1 = spatial_norm(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels)
        self.norm2 = spatial_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3x3(out_channels, out_channels)
        if in_channels != out_channels:
            self.nin_shortcut = conv1x1(in_channels, out_channels)

    def forward(self, x: Tensor, temb: None = None) -> Tensor:
        """``N C H W -> N C' H W``; ``temb`` is always None, as in the original's calls."""
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(self.dropout(silu(self.norm2(h))))
        skip = x if self.in_channels == self.out_channels else self.nin_shortcut(x)
        return add_to(h, skip)


class AttnBlock(nn.Module):
    """Self-attention among the pixels of one image, with a skip: ``N C H W -> N C H W``.

    Source:
        ``AttnBlock`` of ``ldm/modules/diffusionmodules/model.py``.
    """

    memory_efficient = False

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.norm = spatial_norm(in_channels)
        self.q = conv1x1(in_channels, in_channels)
        self.k = conv1x1(in_channels, in_channels)
        self.v = conv1x1(in_channels, in_channels)
        self.proj_out = conv1x1(in_channels, in_channels)

    def attention(self, x: Tensor) -> Tensor:
        """The attended tokens before ``proj_out``: ``N C H W -> N (H W) C``."""
        h = self.norm(x)
        q, k, v = (f(h).flatten(2).transpose(1, 2).contiguous() for f in (self.q, self.k, self.v))
        return attend(q, k, v, memory_efficient=self.memory_efficient)

    def project(self, tokens: Tensor, x: Tensor) -> Tensor:
        """Fold tokens ``N (H W) C`` to ``N C H W``, project them and add ``x``."""
        h = tokens.transpose(1, 2).reshape(x.shape)
        return add_to(self.proj_out(h), x)

    def forward(self, x: Tensor) -> Tensor:
        """``N C H W -> N C H W``."""
        return self.project(self.attention(x), x)


class MemoryEfficientAttnBlock(AttnBlock):
    """:class:`AttnBlock` with xformers' kernel: the same keys, the same result."""

    memory_efficient = True


def make_attn(in_channels: int, attn_type: str = "vanilla") -> nn.Module:
    """The attention block of an ``attn_type``: ``vanilla``, ``vanilla-xformers`` or ``none``.

    Raises:
        ValueError: another ``attn_type``.
    """
    check_attn_type(attn_type)
    if attn_type == "none":
        return nn.Identity()
    block = MemoryEfficientAttnBlock if attn_type == "vanilla-xformers" else AttnBlock
    return block(in_channels)


def check_attn_type(attn_type: str) -> None:
    """Raise ValueError for an unknown ``attn_type``."""
    if attn_type not in ATTN_TYPES:
        raise ValueError(f"attn_type is {attn_type!r}; expected one of {', '.join(ATTN_TYPES)}")


class Upsample(nn.Module):
    """Nearest-neighbour x2, then a 3x3 convolution: ``N C H W -> N C 2H 2W``."""

    def __init__(self, in_channels: int, with_conv: bool) -> None:
        super().__init__()
        self.conv: nn.Module = conv3x3(in_channels, in_channels) if with_conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``N C H W -> N C 2H 2W``."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Downsample(nn.Module):
    """Halve height and width: a strided 3x3 convolution, or a mean of 2x2 pixels without it."""

    def __init__(self, in_channels: int, with_conv: bool) -> None:
        super().__init__()
        self.with_conv = with_conv
        if with_conv:
            self.conv = nn.Conv2d(in_channels, in_channels, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """``N C H W -> N C H/2 W/2``; the convolution pads one zero pixel right and below."""
        if not self.with_conv:
            return F.avg_pool2d(x, kernel_size=2, stride=2)
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Level(nn.Module):
    """One resolution: residual blocks, attention after each if any, then the change of size.

    Its keys are ``block.{i}``, ``attn.{i}`` and ``upsample`` or ``downsample``.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        attns: Sequence[nn.Module],
        *,
        upsample: nn.Module | None = None,
        downsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.attn = nn.ModuleList(attns)
        self.upsample = upsample
        self.downsample = downsample

    def steps(self) -> Iterator[Step]:
        """The modules in the order in which they run."""
        for i, block in enumerate(self.block):
            yield block
            if self.attn:
                yield self.attn[i]
        yield from (step for step in (self.upsample, self.downsample) if step is not None)


class Levels(nn.ModuleList):
    """The levels of an encoder or decoder, finest first."""

    def __iter__(self) -> Iterator[Level]:
        return cast("Iterator[Level]", super().__iter__())


class Middle(nn.Module):
    """The stage at the coarsest resolution: residual block, attention, residual block."""

    def __init__(self, block_1: nn.Module, attn_1: nn.Module, block_2: nn.Module) -> None:
        super().__init__()
        self.block_1 = block_1
        self.attn_1 = attn_1
        self.block_2 = block_2

    def steps(self) -> Iterator[Step]:
        """The modules in the order in which they run."""
        yield from (self.block_1, self.attn_1, self.block_2)
