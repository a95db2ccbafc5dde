"""The video decoder: the image decoder with the temporal layers of its time mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inflate.mix_factor import check_merge_strategy
from inflate.models.attention import make_attn
from inflate.models.blocks import GroupNorm, LayerNorm, Step
from inflate.models.chunked import Clip, decode_stream
from inflate.models.image import Decoder, Network
from inflate.models.temporal import AE3DConv, TemporalBlock, VideoResBlock, frames_of
from inflate.models.time_attention import MemoryEfficientVideoBlock, VideoBlock
from inflate.vocabulary import TEMPORAL_PARTS, TIME_MODES, kernel_of

TEMPORAL_MODULES = (TemporalBlock, AE3DConv)
"""The modules that take ``timesteps`` and ``skip_video``."""


class Trainable(nn.Module):
    """The parameters of a video decoder or autoencoder, split into temporal and spatial ones."""

    def temporal_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the temporal layers, learned blend factors included."""
        return (p for name, p in self.named_parameters() if _is_temporal(name))

    def spatial_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the image layers: those of the image checkpoint."""
        return (p for name, p in self.named_parameters() if not _is_temporal(name))

    def freeze_spatial(self) -> None:
        """Train only the temporal layers: freeze the image layers and clear their gradients."""
        for parameter in self.spatial_parameters():
            parameter.requires_grad_(False)
            parameter.grad = None

    def parameter_groups(self, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """The parameters that require a gradient, in groups for an optimiser of ``torch.optim``.

        The second group, blend factors and norms, has no weight decay. Decay pulls weights to zero:
        a zero blend factor is not "no temporal branch" but a share of one half, and a norm with
        zero gain has no output.
        """
        norms = [m for m in self.modules() if isinstance(m, GroupNorm | LayerNorm)]
        of_norms = {id(parameter) for norm in norms for parameter in norm.parameters()}
        decayed: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                kept = id(parameter) in of_norms or name.endswith("mix_factor")
                (others if kept else decayed).append(parameter)
        return [
            {"params": decayed, "lr": lr, "weight_decay": weight_decay},
            {"params": others, "lr": lr, "weight_decay": 0.0},
        ]

    def enable_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Recompute each block in the backward pass: the same gradients, less memory, more time."""
        for module in self.modules():
            if isinstance(module, Network):
                module.gradient_checkpointing = enabled


def _is_temporal(name: str) -> bool:
    return any(part in TEMPORAL_PARTS for part in name.split("."))


class VideoDecoder(Decoder, Trainable):
    """The image decoder with temporal layers, ``(B T) z_channels h w -> (B T) out_ch H W``.

    ==================  =================  ==============  =================
    part                ``conv-only``      ``attn-only``   ``all``
    ==================  =================  ==============  =================
    residual blocks     ``VideoResBlock``  image           ``VideoResBlock``
    attention blocks    image              ``VideoBlock``  ``VideoBlock``
    ``conv_out``        ``AE3DConv``       image           ``AE3DConv``
    ==================  =================  ==============  =================

    Args:
        video_kernel_size: kernel of the Conv3d, one odd number or three (time, height, width).
        alpha: initial share of the temporal branch, 0 is fully spatial; for ``learned``, the
            share before the sigmoid.
        merge_strategy: ``learned`` (a parameter, through a sigmoid) or ``fixed`` (a buffer).
        time_mode: which parts are temporal; see the table.
        timesteps: default number of frames per video for ``forward``.
        **kwargs: arguments of :class:`~inflate.models.image.Decoder`.

    Raises:
        TypeError: an unknown keyword.
        ValueError: an argument out of its range.

    Source:
        ``VideoDecoder`` of ``sgm/modules/autoencoding/temporal_ae.py``.
    """

    available_time_modes: ClassVar[tuple[str, ...]] = TIME_MODES
    file_metadata: dict[str, str]
    """The header of our file that this was loaded from; saving records its origin."""

    def __init__(
        self,
        *,
        video_kernel_size: int | Sequence[int] = 3,
        alpha: float = 0.0,
        merge_strategy: str = "learned",
        time_mode: str = "conv-only",
        timesteps: int | None = None,
        **kwargs: Any,
    ) -> None:
        if time_mode not in TIME_MODES:
            raise ValueError(f"time_mode is {time_mode!r}; expected one of {', '.join(TIME_MODES)}")
        # The factories need these before nn.Module is set up, so they are plain attributes.
        self.video_kernel_size = kernel_of(video_kernel_size)
        check_merge_strategy(merge_strategy)
        self.alpha = alpha
        self.merge_strategy = merge_strategy
        self.time_mode = time_mode
        self.timesteps = timesteps
        self.file_metadata = {}
        super().__init__(**kwargs)

    def _blend(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("alpha", "merge_strategy", "timesteps")}

    def _make_attn(self) -> Callable[..., nn.Module]:
        if self.time_mode == "conv-only":
            return super()._make_attn()
        return partial(make_attn, kinds=(VideoBlock, MemoryEfficientVideoBlock), **self._blend())

    def _make_resblock(self) -> Callable[..., nn.Module]:
        if self.time_mode == "attn-only":
            return super()._make_resblock()
        return partial(VideoResBlock, video_kernel_size=self.video_kernel_size, **self._blend())

    def _make_conv(self) -> Callable[..., nn.Module]:
        if self.time_mode == "attn-only":
            return super()._make_conv()
        kernel = self.video_kernel_size
        return partial(AE3DConv, video_kernel_size=kernel, timesteps=self.timesteps)

    def get_last_layer(self, skip_time_mix: bool = False) -> Tensor:
        """The weight of the output convolution over time.

        With ``skip_time_mix``, or in ``attn-only``, the weight of the spatial convolution.
        """
        if skip_time_mix or not isinstance(self.conv_out, AE3DConv):
            return super().get_last_layer()
        return self.conv_out.time_mix_conv.weight

    def forward(self, z: Tensor, timesteps: int | None = None, skip_video: bool = False) -> Tensor:
        """``(B T) z_channels h w -> (B T) out_ch H W``.

        ``timesteps`` is T, by default the decoder's; ``skip_video`` runs only the image layers.

        Raises:
            ValueError: the number of frames is unknown or does not divide the batch.
        """
        frames = None if skip_video else frames_of(z, timesteps, self.timesteps)

        def call(step: Step, h: Tensor) -> Tensor:
            if isinstance(step, TEMPORAL_MODULES):
                return self.run_step(step, h, timesteps=frames, skip_video=skip_video)
            return self.run_step(step, h)

        return self._run(z, call)

    def decode(
        self,
        z: Tensor,
        timesteps: int | None = None,
        skip_video: bool = False,
        *,
        chunk: int | None = None,
    ) -> Tensor:
        """Same as ``forward``; if ``chunk`` is less than T, through :meth:`decode_stream`.

        Raises:
            ValueError: as :meth:`decode_stream`.
            OSError: the temporary files cannot be written.
        """
        frames = self._frames(z, timesteps, skip_video)
        if chunk is None or chunk >= frames:
            return self(z, timesteps=frames, skip_video=skip_video)
        out, done = z.new_empty(0), 0
        for images in self.decode_stream(z, frames, skip_video, chunk=chunk):
            by_video = images.reshape(z.shape[0] // frames, -1, *images.shape[1:])
            if not done:
                out = images.new_empty(by_video.shape[0], frames, *images.shape[1:])
            out[:, done : done + by_video.shape[1]] = by_video
            done += by_video.shape[1]
        return out.flatten(0, 1)

    def decode_stream(
        self, z: Tensor, timesteps: int | None = None, skip_video: bool = False, *, chunk: int
    ) -> Iterator[Tensor]:
        """Decode a long clip, ``chunk`` frames per video at a time; yields ``(B t) out_ch H W``.

        The result equals that of ``forward`` except for the order of sums, which changes float32
        images by about 1e-5 of their range. No gradient flows.

        Memory holds ``chunk`` frames, the neighbours that a kernel reaches, and for attention all
        frames of at least one pixel. The disk holds at most three outputs of a residual block per
        frame: 0.4 GB per frame of 512 x 512 for ``ch`` 128 in float32. The temporary files have no
        names, and are removed when the iterator is finished or collected.

        Raises:
            ValueError: the number of frames is unknown or does not divide the batch; ``chunk`` is
                not positive; or ``z`` requires a gradient, which chunks do not support.
            OSError: the temporary files cannot be written.
        """
        frames = self._frames(z, timesteps, skip_video)
        if chunk < 1:
            raise ValueError(f"chunk is {chunk}; expected a positive number of frames")
        if z.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"z requires a gradient, but none flows through chunks of {chunk} of {frames} "
                "frames: pass z.detach(), or leave chunk out"
            )
        return decode_stream(self.steps(), z, Clip(z.shape[0] // frames, frames, chunk), skip_video)

    def _frames(self, z: Tensor, timesteps: int | None, skip_video: bool) -> int:
        """The number of frames T; all frames are one video if they do not mix."""
        return z.shape[0] if skip_video else frames_of(z, timesteps, self.timesteps)
