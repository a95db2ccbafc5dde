"""The two-dimensional layers that encoder, image decoder and video decoder share.

Shapes: ``B`` videos, ``T`` frames, ``N`` images (``N = B T`` inside a video decoder, video-major),
``C`` channels, ``H W`` height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inflate.vocabulary import GROUPS

Step = Callable[..., Tensor]
"""One step of an encoder or decoder: a module or a function on ``N C H W``."""


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


_FEW_PIXELS = 64


def best_layout(x: Tensor) -> Tensor:
    """``N C H W`` in the memory layout that is fastest for convolutions of its device and type.

    For float32 on a CPU that is channels last, where folding frames needs no copy. Images of few
    pixels stay contiguous: with channels last, each convolution would copy its weights. With
    gradients the layout is unchanged: torch's GroupNorm (2.13, CPU, channels last) crashes in the
    backward pass if its input needs no gradient, as in a decoder with frozen layers.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_grad_enabled():
        return x
    few = x.shape[2] * x.shape[3] < _FEW_PIXELS
    return x.contiguous(memory_format=torch.contiguous_format if few else torch.channels_last)


def spatial_norm(channels: int) -> GroupNorm:
    """GroupNorm of the image layers: 32 groups, eps 1e-6."""
    return GroupNorm(GROUPS, channels, eps=1e-6)


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps height and width."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


def conv1x1(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 1x1 convolution: a linear map of the channels at every pixel."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1)


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions with a skip connection, ``N C H W -> N C' H W``.

    If the number of channels changes, the skip is a 1x1 convolution, ``nin_shortcut``. Dropout is
    applied before the second convolution.

    Source:
        ``ResnetBlock`` of ``ldm/modules/diffusionmodules/model.py``.
    """

    def __init__(self, *, in_channels: int, out_channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = spatial_norm(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels)
        self.norm2 = spatial_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3x3(out_channels, out_channels)
        same = in_channels == out_channels
        self.nin_shortcut = None if same else conv1x1(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``N C H W -> N C' H W``."""
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(self.dropout(silu(self.norm2(h))))
        return add_to(h, x if self.nin_shortcut is None else self.nin_shortcut(x))


class Upsample(nn.Module):
    """Nearest-neighbour x2, then a 3x3 convolution: ``N C H W -> N C 2H 2W``."""

    def __init__(self, in_channels: int, with_conv: bool) -> None:
        super().__init__()
        self.conv: nn.Module = conv3x3(in_channels, in_channels) if with_conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``N C H W -> N C 2H 2W``."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Downsample(nn.Module):
    """Halve height and width by a strided 3x3 convolution, or else by 2x2 average pooling."""

    def __init__(self, in_channels: int, with_conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, in_channels, 3, stride=2) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        """``N C H W -> N C H/2 W/2``; pads one zero pixel on the right and bottom."""
        if self.conv is None:
            return F.avg_pool2d(x, kernel_size=2, stride=2)
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Level(nn.Module):
    """One resolution: residual blocks, optional attention after each, then a change of size.

    Its keys are ``block.{i}``, ``attn.{i}`` and ``upsample`` or ``downsample``, which the network
    sets. ``channels`` is the number of output channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        blocks: int,
        make_resblock: Callable[..., nn.Module],
        make_attn: Callable[[int], nn.Module] | None,
    ) -> None:
        super().__init__()
        self.block, self.attn = nn.ModuleList(), nn.ModuleList()
        self.upsample: nn.Module | None = None
        self.downsample: nn.Module | None = None
        self.channels = in_channels
        for _ in range(blocks):
            self.block.append(make_resblock(in_channels=self.channels, out_channels=out_channels))
            self.channels = out_channels
            if make_attn is not None:
                self.attn.append(make_attn(out_channels))

    def steps(self) -> Iterator[Step]:
        """The modules in execution order."""
        for i, block in enumerate(self.block):
            yield block
            if self.attn:
                yield self.attn[i]
        yield from (step for step in (self.upsample, self.downsample) if step is not None)


def make_middle(
    channels: int, make_resblock: Callable[..., nn.Module], make_attn: Callable[[int], nn.Module]
) -> nn.ModuleDict:
    """The stage at the coarsest resolution, in execution order."""
    block_1 = make_resblock(in_channels=channels, out_channels=channels)
    attn_1 = make_attn(channels)
    block_2 = make_resblock(in_channels=channels, out_channels=channels)
    return nn.ModuleDict({"block_1": block_1, "attn_1": attn_1, "block_2": block_2})
