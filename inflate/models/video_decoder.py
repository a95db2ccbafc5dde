"""The video decoder: the image decoder with temporal layers in the places its time mode names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from inflate.models.blend import TemporalBlock, check_merge_strategy, frames_of
from inflate.models.blocks import make_attn
from inflate.models.decoder import Decoder, Step
from inflate.models.temporal import AE3DConv, VideoResBlock
from inflate.models.time_attention import make_time_attn
from inflate.vocabulary import TIME_MODES, kernel_of

TEMPORAL_MODULES = (TemporalBlock, AE3DConv)
"""The modules that take ``timesteps`` and ``skip_video``."""


class VideoDecoder(Decoder):
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
        alpha: share of the temporal branch at the start, 0 fully spatial; for ``learned``, the
            share before its sigmoid.
        merge_strategy: ``learned`` (a parameter, through a sigmoid) or ``fixed`` (a buffer).
        time_mode: which parts are temporal, as in the table.
        timesteps: frames of a video where ``forward`` is not told.
        **kwargs: what :class:`~inflate.models.decoder.Decoder` takes.

    Raises:
        ValueError: an argument out of its range.

    Source:
        ``VideoDecoder`` of ``sgm/modules/autoencoding/temporal_ae.py``.
    """

    available_time_modes: ClassVar[list[str]] = list(TIME_MODES)

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
        if time_mode not in self.available_time_modes:
            raise ValueError(
                f"time_mode is {time_mode!r}; expected one of "
                + ", ".join(self.available_time_modes)
            )
        kernel_of(video_kernel_size)  # Both are refused where nothing is built of them, too.
        check_merge_strategy(merge_strategy)
        # The factories below need these before nn.Module is set up, so they are plain attributes.
        self.video_kernel_size = video_kernel_size
        self.alpha = alpha
        self.merge_strategy = merge_strategy
        self.time_mode = time_mode
        self.timesteps = timesteps
        super().__init__(**kwargs)

    def _make_attn(self) -> Callable[..., nn.Module]:
        if self.time_mode == "conv-only":
            return make_attn
        return partial(
            make_time_attn,
            alpha=self.alpha,
            merge_strategy=self.merge_strategy,
            timesteps=self.timesteps,
        )

    def _make_resblock(self) -> Callable[..., nn.Module]:
        if self.time_mode == "attn-only":
            return super()._make_resblock()
        return partial(
            VideoResBlock,
            video_kernel_size=self.video_kernel_size,
            alpha=self.alpha,
            merge_strategy=self.merge_strategy,
            timesteps=self.timesteps,
        )

    def _make_conv(self) -> Callable[..., nn.Module]:
        if self.time_mode == "attn-only":
            return super()._make_conv()
        return partial(AE3DConv, video_kernel_size=self.video_kernel_size, timesteps=self.timesteps)

    def get_last_layer(self, skip_time_mix: bool = False) -> Tensor:
        """The weight of the last time convolution, or of the spatial one.

        The spatial one where ``skip_time_mix`` asks for it, and in ``attn-only``, without another.
        """
        if skip_time_mix or not isinstance(self.conv_out, AE3DConv):
            return super().get_last_layer()
        return self.conv_out.time_mix_conv.weight

    def forward(self, z: Tensor, timesteps: int | None = None, skip_video: bool = False) -> Tensor:
        """``(B T) z_channels h w -> (B T) out_ch H W``.

        Args:
            z: latents of B videos of T frames, video-major.
            timesteps: T; the decoder's own ``timesteps`` where it is left out.
            skip_video: run the image layers alone.

        Raises:
            ValueError: the number of frames is unknown or does not divide the batch.
        """
        frames = None if skip_video else frames_of(z, timesteps, self.timesteps)

        def call(step: Step, h: Tensor) -> Tensor:
            if isinstance(step, TEMPORAL_MODULES):
                return step(h, timesteps=frames, skip_video=skip_video)  # type: ignore[no-any-return]
            return step(h)

        return self._run(z, call)
