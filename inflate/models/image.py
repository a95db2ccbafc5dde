"""The image decoder, on which the video decoder builds, and the image encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from inflate.models.blocks import (
    Downsample,
    Level,
    Levels,
    Middle,
    ResnetBlock,
    Step,
    Upsample,
    check_ignored,
    conv3x3,
    make_attn,
    silu,
    spatial_norm,
)
from inflate.models.training import Checkpointed


def best_layout(x: Tensor) -> Tensor:
    """``x`` in the memory layout in which convolutions of its device and type run fastest.

    On a CPU in float32 that is channels last: convolutions reorder nothing, a convolution over time
    alone is a matrix product, and frames are folded without a copy. With gradients the layout is
    kept: torch's GroupNorm (2.13, CPU, channels last) crashes in the backward pass if its input
    needs no gradient, as in a decoder with frozen layers.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled():
        return x.contiguous(memory_format=torch.channels_last)
    return x


class Decoder(Checkpointed):
    """The image decoder of the family, ``N z_channels h w -> N out_ch H W``.

    Levels are indexed from the finest (0) and run from the coarsest down.

    Args:
        ch: channels of the finest level.
        out_ch: channels of the images.
        ch_mult: channels of each level, finest first, in units of ``ch``.
        num_res_blocks: residual blocks per level, less one.
        attn_resolutions: resolutions whose levels have attention after each block.
        dropout: share of the activations zeroed in training.
        resamp_with_conv: whether a convolution follows each doubling.
        in_channels: channels of the encoder's input; unused here.
        resolution: height of the finest level; it only decides where attention is.
        z_channels: channels of the latent.
        give_pre_end: return the last features, before ``norm_out``.
        tanh_out: end in a tanh.
        attn_type: ``vanilla``, ``vanilla-xformers`` or ``none``.
        **ignored: other keys of the shared ``ddconfig``
            (:data:`inflate.vocabulary.DDCONFIG_KEYS`).

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
            up = Upsample(channels, resamp_with_conv) if i > 0 else None
            levels.insert(0, Level(blocks, attns, upsample=up))
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
        """The weight of the output convolution, by which GAN losses are scaled."""
        weight: Tensor = self.conv_out.weight  # type: ignore[assignment]
        return weight

    def steps(self) -> Iterator[Step]:
        """The steps in the order in which they run, each on the output of the one before."""
        yield self.conv_in
        yield from self.mid.steps()
        for level in reversed(list(self.up)):
            yield from level.steps()
        if not self.give_pre_end:
            yield lambda h: silu(self.norm_out(h))
            yield self.conv_out
            if self.tanh_out:
                yield torch.tanh

    def _run(self, z: Tensor, call: Callable[[Step, Tensor], Tensor]) -> Tensor:
        """``N z h w -> N out_ch H W``, each step run through ``call``."""
        h = best_layout(z)
        for step in self.steps():
            h = call(step, h)
        # Callers may take views of the result, which need the usual layout.
        return h.contiguous() if z.is_contiguous() else h

    def forward(self, z: Tensor) -> Tensor:
        """``N z_channels h w -> N out_ch H W``, h and w doubled at each level but one."""
        return self._run(z, self.run_step)


class Encoder(Checkpointed):
    """The encoder of the family, ``N in_channels H W -> N (2 z_channels) h w``.

    Args:
        double_z: return mean and log-variance (``2 z_channels``); False for vector-quantised ones.

    The other arguments are those of :class:`Decoder`, with ``num_res_blocks`` blocks per level.

    Raises:
        TypeError: an unknown keyword.
        ValueError: an argument out of its range.

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
        super().__init__()
        check_ignored(self, ignored)
        self.conv_in = conv3x3(in_channels, ch)
        levels: list[Level] = []
        channels = ch
        for i, mult in enumerate(ch_mult):
            blocks, attns = [], []
            for _ in range(num_res_blocks):
                blocks.append(
                    ResnetBlock(in_channels=channels, out_channels=ch * mult, dropout=dropout)
                )
                channels = ch * mult
                if resolution // 2**i in attn_resolutions:
                    attns.append(make_attn(channels, attn_type))
            last = i == len(ch_mult) - 1
            down = None if last else Downsample(channels, resamp_with_conv)
            levels.append(Level(blocks, attns, downsample=down))
        self.down = Levels(levels)
        self.mid = Middle(
            ResnetBlock(in_channels=channels, dropout=dropout),
            make_attn(channels, attn_type),
            ResnetBlock(in_channels=channels, dropout=dropout),
        )
        self.norm_out = spatial_norm(channels)
        self.conv_out = conv3x3(channels, 2 * z_channels if double_z else z_channels)

    def steps(self) -> Iterator[Step]:
        """The steps in the order in which they run, each on the output of the one before."""
        yield self.conv_in
        for level in self.down:
            yield from level.steps()
        yield from self.mid.steps()
        yield lambda h: silu(self.norm_out(h))
        yield self.conv_out

    def forward(self, x: Tensor) -> Tensor:
        """``N in_channels H W -> N (2 z_channels) h w``, h and w halved at each level but one."""
        for step in self.steps():
            x = self.run_step(step, x)
        return x
