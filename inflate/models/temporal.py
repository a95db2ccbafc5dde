"""The temporal convolution layers, and the blend of the two branches of a temporal block.

Frames are folded into the batch, video-major: ``(B T) C H W`` at every module boundary, frame
``t`` of video ``b`` at index ``b T + t``.

Source:
    ``sgm/modules/autoencoding/temporal_ae.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inflate.mix_factor import RESIDUAL_WEIGHS, Weighs, alpha_of, mix_factor_of
from inflate.models.blocks import GroupNorm, ResnetBlock, add_to
from inflate.vocabulary import GROUPS, kernel_of


def frames_of(x: Tensor, timesteps: int | None, default: int | None = None) -> int:
    """The number of frames ``T`` in a folded batch ``(B T) ...``.

    Raises:
        ValueError: ``timesteps`` is not given, not positive, or does not divide the batch.
    """
    timesteps = default if timesteps is None else timesteps
    if timesteps is None:
        raise ValueError("timesteps is not given; pass the number of frames of each video")
    if timesteps < 1 or x.shape[0] % timesteps:
        raise ValueError(
            f"timesteps is {timesteps}, but the batch holds {x.shape[0]} frames; expected a "
            "positive number that divides it, since a batch is whole videos, (B T) C H W"
        )
    return timesteps


def unfold_frames(x: Tensor, frames: int) -> Tensor:
    """``(B T) C H W -> B C T H W``, without a copy."""
    return x.reshape(-1, frames, *x.shape[1:]).transpose(1, 2)


def fold_frames(x: Tensor) -> Tensor:
    """``B C T H W -> (B T) C H W``, without a copy if channels are last in memory."""
    return x.transpose(1, 2).flatten(0, 1)


class TemporalBlock(nn.Module):
    """A block that blends a spatial and a temporal branch.

    Subclasses set :attr:`mix_weighs` to the branch that their ``mix_factor`` weighs.
    """

    mix_weighs: ClassVar[Weighs]
    mix_factor: Tensor

    def init_blend(self, alpha: float, merge_strategy: str, timesteps: int | None = None) -> None:
        """Register ``mix_factor`` (a parameter if ``learned``, a buffer if ``fixed``)."""
        self.timesteps = timesteps
        value = torch.tensor([float(mix_factor_of(alpha, merge_strategy, self.mix_weighs))])
        self.merge_strategy = merge_strategy
        if merge_strategy == "learned":
            self.mix_factor = nn.Parameter(value)
        else:
            self.register_buffer("mix_factor", value)

    def temporal_share(self) -> Tensor:
        """The share of the temporal branch in the blend, from 0 to 1."""
        alpha = alpha_of(self.mix_factor, self.merge_strategy, self.mix_weighs)
        return torch.sigmoid(alpha) if self.merge_strategy == "learned" else alpha

    def blend(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        """The weighted sum of two branches of equal shape, in the memory layout of ``spatial``.

        It overwrites ``spatial`` unless a gradient needs it. It computes ``a + w (b - a)``, which
        is bit-identical for bit-identical branches; ``w b + (1 - w) a`` would round. The layout
        matters because convolutions choose their algorithm, and so their rounding, by it.
        """
        share = self.temporal_share().to(spatial.dtype)
        if any(t.requires_grad for t in (spatial, temporal, share)):
            return torch.lerp(spatial, temporal, share)
        return spatial.lerp_(temporal, share)


class TimeConv(nn.Conv3d):
    """A convolution over ``T H W`` that keeps channels, frames, height and width.

    A single frame needs only the kernel's middle slice. This also avoids a bug of oneDNN, which
    reads past its input in this case (bfloat16, fewer than four channels, kernel of three frames
    or more; torch 2.13 on AMX).
    """

    def __init__(self, channels: int, video_kernel_size: int | Sequence[int]) -> None:
        kernel = kernel_of(video_kernel_size)
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        super().__init__(channels, channels, kernel, padding=padding)

    def forward(self, input: Tensor) -> Tensor:
        """``B C T H W -> B C T H W``."""
        if input.shape[2] > 1:
            return self._by_taps(input) if self._by_taps_is_best(input) else super().forward(input)
        middle = self.weight[:, :, self.kernel_size[0] // 2]
        padding = (self.kernel_size[1] // 2, self.kernel_size[2] // 2)
        return F.conv2d(input.squeeze(2), middle, self.bias, padding=padding).unsqueeze(2)

    def _by_taps_is_best(self, input: Tensor) -> bool:
        """Whether frames are rows of channels in memory, so that each tap is a matrix product.

        In half precision the sum would be rounded at every tap. On other devices than the CPU,
        the vendors' convolutions are better.
        """
        return (
            self.kernel_size[1:] == (1, 1)
            and input.device.type == "cpu"
            and input.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and input.is_contiguous(memory_format=torch.channels_last_3d)
        )

    def _by_taps(self, input: Tensor) -> Tensor:
        """The convolution as one matrix product per tap, without a copy of the frames."""
        videos, channels, frames, height, width = input.shape
        rows = input.permute(0, 2, 3, 4, 1).reshape(videos, frames, -1, channels)  # a view
        taps = self.weight[..., 0, 0].permute(2, 1, 0).contiguous()  # K I O
        middle = self.kernel_size[0] // 2
        assert self.bias is not None
        out = torch.addmm(self.bias, rows.view(-1, channels), taps[middle]).view(rows.shape)
        for tap in range(len(taps)):
            shift = tap - middle
            seen = frames - abs(shift)  # Frames beyond the ends are zeros.
            if shift == 0 or seen < 1:
                continue
            here, there = max(0, -shift), max(0, shift)
            for video in range(videos):
                source = rows[video, there : there + seen].view(-1, channels)
                out[video, here : here + seen].view(-1, channels).addmm_(source, taps[tap])
        return out.view(videos, frames, height, width, channels).permute(0, 4, 1, 2, 3)


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
        first, last = (TimeConv(channels, video_kernel_size) for _ in range(2))
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        norms = [GroupNorm(GROUPS, channels, eps=1e-5) for _ in range(2)]
        self.in_layers = nn.Sequential(norms[0], nn.SiLU(inplace=True), first)
        self.out_layers = nn.Sequential(norms[1], nn.SiLU(inplace=True), nn.Dropout(dropout), last)

    def forward(self, x: Tensor) -> Tensor:
        """``B C T H W -> B C T H W``."""
        return add_to(self.out_layers(self.in_layers(x)), x)


class VideoResBlock(ResnetBlock, TemporalBlock):
    """The image residual block, blended with a temporal block on its output.

    For arguments see :class:`ResnetBlock` and :class:`~inflate.models.VideoDecoder`.
    """

    mix_weighs = RESIDUAL_WEIGHS

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        dropout: float = 0.0,
        video_kernel_size: int | Sequence[int] = 3,
        alpha: float = 0.0,
        merge_strategy: str = "learned",
        timesteps: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, out_channels=out_channels, dropout=dropout)
        self.time_stack = TimeStack(out_channels, dropout, video_kernel_size)
        self.init_blend(alpha, merge_strategy, timesteps)

    def forward(self, x: Tensor, timesteps: int | None = None, skip_video: bool = False) -> Tensor:
        """``(B T) C H W -> (B T) C' H W``; ``skip_video`` runs only the image block.

        Raises:
            ValueError: the number of frames is unknown or does not divide the batch.
        """
        spatial = super().forward(x)
        if skip_video:
            return spatial
        stacked = unfold_frames(spatial, frames_of(x, timesteps, self.timesteps))
        return self.blend(spatial, fold_frames(self.time_stack(stacked)))


class AE3DConv(nn.Conv2d):
    """The image output convolution, then a convolution over time; no blend, no skip connection.

    ``**spatial`` are arguments of ``torch.nn.Conv2d``, such as its kernel size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        video_kernel_size: int | Sequence[int] = 3,
        timesteps: int | None = None,
        **spatial: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, **spatial)
        self.timesteps = timesteps
        self.time_mix_conv = TimeConv(out_channels, video_kernel_size)

    def forward(
        self, input: Tensor, timesteps: int | None = None, skip_video: bool = False
    ) -> Tensor:
        """``(B T) C H W -> (B T) C' H W``; ``skip_video`` runs only the image convolution.

        Raises:
            ValueError: the number of frames is unknown or does not divide the batch.
        """
        x = super().forward(input)
        if skip_video:
            return x
        stacked = unfold_frames(x, frames_of(input, timesteps, self.timesteps))
        return fold_frames(self.time_mix_conv(stacked))
