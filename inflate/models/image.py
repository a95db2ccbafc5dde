"""The image encoder, and the image decoder on which the video decoder builds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from inflate.errors import nearest
from inflate.models.attention import make_attn
from inflate.models.blocks import (
    Downsample,
    Level,
    ResnetBlock,
    Step,
    Upsample,
    best_layout,
    conv3x3,
    make_middle,
    silu,
    spatial_norm,
)
from inflate.vocabulary import DDCONFIG_FIXED, DDCONFIG_KEYS


class Network(nn.Module):
    """An encoder or decoder; ``ignored`` are keys of a shared ``ddconfig`` that it does not use."""

    gradient_checkpointing = False

    def __init__(self, ignored: Mapping[str, object]) -> None:
        super().__init__()
        for name, value in ignored.items():
            if name not in DDCONFIG_KEYS:
                raise TypeError(
                    f"{type(self).__name__}() got an unexpected keyword argument {name!r}"
                    + nearest(name, DDCONFIG_KEYS)
                )
            if value != DDCONFIG_FIXED.get(name, value):
                raise ValueError(
                    f"{name} is {value!r}; this family supports {DDCONFIG_FIXED[name]!r} only"
                )

    def run_step(self, step: Step, h: Tensor, **arguments: Any) -> Tensor:
        """Run a step; with checkpointing, only its input is kept for the backward pass.

        Source:
            Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
        """
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(step, h, use_reentrant=False, **arguments)
        return step(h, **arguments)


class Decoder(Network):
    """The image decoder of the family, ``N z_channels h w -> N out_ch H W``.

    Levels are indexed from the finest (0) and run from the coarsest down.

    Args:
        ch: channels of the finest level.
        out_ch: channels of the images.
        ch_mult: channels of each level, finest first, in units of ``ch``.
        num_res_blocks: residual blocks per level, less one.
        attn_resolutions: resolutions whose levels have attention after each block.
        dropout: share of the activations zeroed in training.
        resamp_with_conv: whether a convolution follows each upsampling.
        resolution: height of the finest level; only decides which levels have attention.
        z_channels: channels of the latent.
        give_pre_end: return the last features, before ``norm_out``.
        tanh_out: apply tanh to the output.
        attn_type: ``vanilla``, ``vanilla-xformers`` or ``none``.
        **ignored: other keys of the shared ``ddconfig``.

    Raises:
        TypeError: an unknown keyword.
        ValueError: an argument out of its range.

    Source:
        ``Decoder`` of ``ldm/modules/diffusionmodules/model.py``.
    """

    def __init__(
        self,
        *,
        ch: int,
        out_ch: int,
        ch_mult: Sequence[int] = (1, 2, 4, 8),
        num_res_blocks: int,
        attn_resolutions: Sequence[int],
        dropout: float = 0.0,
        resamp_with_conv: bool = True,
        resolution: int,
        z_channels: int,
        give_pre_end: bool = False,
        tanh_out: bool = False,
        attn_type: str = "vanilla",
        **ignored: Any,
    ) -> None:
        super().__init__(ignored)
        self.z_channels = z_channels
        self.give_pre_end = give_pre_end
        self.tanh_out = tanh_out
        resblock = partial(self._make_resblock(), dropout=dropout)
        attn = partial(self._make_attn(), attn_type=attn_type)
        channels = ch * ch_mult[-1]
        self.conv_in = conv3x3(z_channels, channels)
        self.mid = make_middle(channels, resblock, attn)
        levels: list[Level] = []
        for i, mult in reversed(list(enumerate(ch_mult))):
            attends = resolution // 2**i in attn_resolutions
            blocks = num_res_blocks + 1
            level = Level(channels, ch * mult, blocks, resblock, attn if attends else None)
            channels = level.channels
            if i > 0:
                level.upsample = Upsample(channels, resamp_with_conv)
            levels.insert(0, level)
        self.up = nn.ModuleList(levels)
        self.norm_out = spatial_norm(channels)
        conv = self._make_conv()
        self.conv_out = conv(channels, out_ch, kernel_size=3, stride=1, padding=1)

    def _make_attn(self) -> Callable[..., nn.Module]:
        return make_attn

    def _make_resblock(self) -> Callable[..., nn.Module]:
        return ResnetBlock

    def _make_conv(self) -> Callable[..., nn.Module]:
        return nn.Conv2d

    def get_last_layer(self) -> Tensor:
        """The weight of the output convolution, for losses that are balanced by its gradient."""
        assert isinstance(self.conv_out, nn.Conv2d)
        return self.conv_out.weight

    def steps(self) -> Iterator[Step]:
        """The steps in execution order; each takes the output of the previous one."""
        yield self.conv_in
        yield from self.mid.values()
        for level in cast("Iterator[Level]", reversed(self.up)):
            yield from level.steps()
        if not self.give_pre_end:
            yield lambda h: silu(self.norm_out(h))
            yield self.conv_out
            if self.tanh_out:
                yield torch.tanh

    def _run(self, z: Tensor, call: Callable[[Step, Tensor], Tensor]) -> Tensor:
        """``N z h w -> N out_ch H W``; runs each step through ``call``."""
        h = best_layout(z)
        for step in self.steps():
            h = call(step, h)
        # Callers may create views of the result, which need the contiguous layout.
        return h.contiguous() if z.is_contiguous() else h

    def forward(self, z: Tensor) -> Tensor:
        """``N z_channels h w -> N out_ch H W``; doubles h and w at each level but one."""
        return self._run(z, self.run_step)


class Encoder(Network):
    """The encoder of the family, ``N in_channels H W -> N (2 z_channels) h w``.

    Without ``double_z`` it returns ``z_channels`` channels, without a log-variance. For other
    arguments and errors see :class:`Decoder`; there are ``num_res_blocks`` blocks per level.

    Source:
        ``Encoder`` of ``ldm/modules/diffusionmodules/model.py``.
    """

    def __init__(
        self,
        *,
        ch: int,
        ch_mult: Sequence[int] = (1, 2, 4, 8),
        num_res_blocks: int,
        attn_resolutions: Sequence[int],
        in_channels: int,
        resolution: int,
        z_channels: int,
        dropout: float = 0.0,
        resamp_with_conv: bool = True,
        double_z: bool = True,
        attn_type: str = "vanilla",
        **ignored: Any,
    ) -> None:
        super().__init__(ignored)
        resblock = partial(ResnetBlock, dropout=dropout)
        attn = partial(make_attn, attn_type=attn_type)
        channels = ch
        self.conv_in = conv3x3(in_channels, channels)
        self.down = nn.ModuleList()
        for i, mult in enumerate(ch_mult):
            attends = resolution // 2**i in attn_resolutions
            level = Level(channels, ch * mult, num_res_blocks, resblock, attn if attends else None)
            channels = level.channels
            if i < len(ch_mult) - 1:
                level.downsample = Downsample(channels, resamp_with_conv)
            self.down.append(level)
        self.mid = make_middle(channels, resblock, attn)
        self.norm_out = spatial_norm(channels)
        self.conv_out = conv3x3(channels, 2 * z_channels if double_z else z_channels)

    def steps(self) -> Iterator[Step]:
        """The steps in execution order; each takes the output of the previous one."""
        yield self.conv_in
        for level in cast("Iterator[Level]", iter(self.down)):
            yield from level.steps()
        yield from self.mid.values()
        yield lambda h: silu(self.norm_out(h))
        yield self.conv_out

    def forward(self, x: Tensor) -> Tensor:
        """``N in_channels H W -> N (2 z_channels) h w``; halves H and W at each level but one."""
        for step in self.steps():
            x = self.run_step(step, x)
        return x
