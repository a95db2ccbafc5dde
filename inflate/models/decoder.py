"""The image decoder, latents to ``B C H W`` pixels, and the frame of the video decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from inflate.models.blocks import (
    Level,
    Levels,
    Middle,
    ResnetBlock,
    Upsample,
    check_ignored,
    conv3x3,
    make_attn,
    silu,
    spatial_norm,
)

Step = Callable[..., Tensor]
"""A part of a decoder: a module, or a function of one image."""


def best_layout(x: Tensor) -> Tensor:
    """``x`` laid out in memory as convolutions of its device and type run fastest.

    On a CPU in float32 that is channels last: convolutions reorder nothing, a convolution over time
    alone is a product of matrices, and frames are folded without a copy. Elsewhere it is ``x``'s
    own; and where gradients are recorded too, since the backward pass of torch's GroupNorm (2.13,
    CPU, channels last) crashes where its input needs none, as in a decoder with frozen layers.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled():
        return x.contiguous(memory_format=torch.channels_last)
    return x


class Decoder(nn.Module):
    """The image decoder of the family, ``N z_channels h w -> N out_ch H W``.

    Levels are indexed from the finest (0) and run from the coarsest down.

    Args:
        ch: channels of the finest level.
        out_ch: channels of the images.
        ch_mult: channels of each level, finest first, in units of ``ch``.
        num_res_blocks: residual blocks a level, less one: a decoder has one more than an encoder.
        attn_resolutions: resolutions whose levels carry attention after each block.
        dropout: share of the activations zeroed in training.
        resamp_with_conv: whether a convolution follows each doubling.
        in_channels: channels of the encoder's input; unused here.
        resolution: height of the finest level, by which ``attn_resolutions`` are counted only.
        z_channels: channels of the latent.
        give_pre_end: return the last features, before ``norm_out``.
        tanh_out: end in a tanh.
        attn_type: ``vanilla``, ``vanilla-xformers`` or ``none``.
        **ignored: keys of the ``ddconfig`` that decoder and encoder share, and this one does not
            need: :data:`inflate.vocabulary.DDCONFIG_KEYS`.

    Raises:
        TypeError: a keyword that no ``ddconfig`` carries.
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
        in_channels: int = 3,
        resolution: int,
        z_channels: int,
        give_pre_end: bool = False,
        tanh_out: bool = False,
        attn_type: str = "vanilla",
        **ignored: Any,
    ) -> None:
        super().__init__()
        check_ignored(self, ignored)
        self.z_channels = z_channels
        self.give_pre_end = give_pre_end
        self.tanh_out = tanh_out
        make_attn_ = self._make_attn()
        make_resblock = self._make_resblock()
        make_conv = self._make_conv()

        channels = ch * ch_mult[-1]
        self.conv_in = conv3x3(z_channels, channels)
        self.mid = Middle(
            make_resblock(in_channels=channels, out_channels=channels, dropout=dropout),
            make_attn_(channels, attn_type=attn_type),
            make_resblock(in_channels=channels, out_channels=channels, dropout=dropout),
        )
        levels: list[Level] = []
        for i, mult in reversed(list(enumerate(ch_mult))):
            blocks, attns = [], []
            for _ in range(num_res_blocks + 1):
                blocks.append(
                    make_resblock(in_channels=channels, out_channels=ch * mult, dropout=dropout)
                )
                channels = ch * mult
                if resolution // 2**i in attn_resolutions:
                    attns.append(make_attn_(channels, attn_type=attn_type))
            level = Level(blocks, attns)
            if i > 0:
                level.upsample = Upsample(channels, resamp_with_conv)
            levels.insert(0, level)
        self.up = Levels(levels)
        self.norm_out = spatial_norm(channels)
        self.conv_out = make_conv(channels, out_ch, kernel_size=3, stride=1, padding=1)

    def _make_attn(self) -> Callable[..., nn.Module]:
        return make_attn

    def _make_resblock(self) -> Callable[..., nn.Module]:
        return ResnetBlock

    def _make_conv(self) -> Callable[..., nn.Module]:
        return nn.Conv2d

    def get_last_layer(self) -> Tensor:
        """The weight of the output convolution, to which GAN losses are scaled."""
        weight: Tensor = self.conv_out.weight  # type: ignore[assignment]
        return weight

    def steps(self) -> Iterator[Step]:
        """The parts in the order in which they run, each on the output of the one before."""
        yield self.conv_in
        yield self.mid.block_1
        yield self.mid.attn_1
        yield self.mid.block_2
        for level in reversed(list(self.up)):
            for i, block in enumerate(level.block):
                yield block
                if level.attn:
                    yield level.attn[i]
            if hasattr(level, "upsample"):
                yield level.upsample
        if not self.give_pre_end:
            yield self._normalize
            yield self.conv_out
            if self.tanh_out:
                yield torch.tanh

    def _normalize(self, h: Tensor) -> Tensor:
        return silu(self.norm_out(h))

    def _run(self, z: Tensor, call: Callable[[Step, Tensor], Tensor]) -> Tensor:
        """``N z h w -> N out_ch H W``, each step run through ``call``."""
        h = best_layout(z)
        for step in self.steps():
            h = call(step, h)
        # Callers may take views of what they get, which need the usual layout.
        return h.contiguous() if z.is_contiguous() else h

    def forward(self, z: Tensor) -> Tensor:
        """``N z_channels h w -> N out_ch H W``, h and w doubled at each level but one."""
        return self._run(z, lambda step, h: step(h))
