"""The image encoder, ``B C H W`` pixels to latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from inflate.models.blocks import (
    Downsample,
    Level,
    Levels,
    Middle,
    ResnetBlock,
    check_ignored,
    conv3x3,
    make_attn,
    spatial_norm,
)


class Encoder(nn.Module):
    """The encoder of the family, ``N in_channels H W -> N (2 z_channels) h w``.

    Args:
        ch: channels of the finest level.
        ch_mult: channels of each level, finest first, in units of ``ch``.
        num_res_blocks: residual blocks a level.
        attn_resolutions: resolutions whose levels carry attention after each block.
        in_channels: channels of the images.
        resolution: height of the finest level, by which ``attn_resolutions`` are counted only.
        z_channels: channels of the latent.
        dropout: share of the activations zeroed in training.
        resamp_with_conv: whether a convolution halves each level, or a mean.
        double_z: give mean and log-variance (``2 z_channels``); False for vector-quantised ones.
        attn_type: ``vanilla``, ``vanilla-xformers`` or ``none``.
        **ignored: keys of the ``ddconfig`` that decoder and encoder share, and this one does not
            need: :data:`inflate.vocabulary.DDCONFIG_KEYS`.

    Raises:
        TypeError: a keyword that no ``ddconfig`` carries.
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
            level = Level(blocks, attns)
            if i < len(ch_mult) - 1:
                level.downsample = Downsample(channels, resamp_with_conv)
            levels.append(level)
        self.down = Levels(levels)
        self.mid = Middle(
            ResnetBlock(in_channels=channels, dropout=dropout),
            make_attn(channels, attn_type),
            ResnetBlock(in_channels=channels, dropout=dropout),
        )
        self.norm_out = spatial_norm(channels)
        self.conv_out = conv3x3(channels, 2 * z_channels if double_z else z_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``N in_channels H W -> N (2 z_channels) h w``, h and w halved at each level but one."""
        h = self.conv_in(x)
        for level in self.down:
            for i, block in enumerate(level.block):
                h = block(h)
                if level.attn:
                    h = level.attn[i](h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h)))
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out
