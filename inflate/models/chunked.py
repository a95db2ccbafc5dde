"""Decode long clips chunk by chunk, with the same result as decoding them whole.

Norms and attention of temporal blocks need every frame. Such a block runs in passes over all
chunks, and each pass stores its result in a temporary file for the next. Between such blocks,
chunks stream: ``(B t) C H W``, video-major, in frame order.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from inflate.models.blocks import GroupNorm, Step, add_to, at_least_float32, best_layout
from inflate.models.temporal import AE3DConv, VideoResBlock, fold_frames, unfold_frames
from inflate.models.time_attention import VideoBlock


@dataclass(frozen=True)
class Clip:
    """How a batch is split: ``videos`` videos of ``frames`` frames, ``chunk`` frames at a time."""

    videos: int
    frames: int
    chunk: int

    def spans(self) -> Iterator[tuple[int, int]]:
        """The first frame of each chunk, and the frame after its last."""
        for first in range(0, self.frames, self.chunk):
            yield first, min(first + self.chunk, self.frames)

    def by_video(self, x: Tensor) -> Tensor:
        """``(B t) ... -> B t ...``."""
        return x.reshape(self.videos, -1, *x.shape[1:])


class FrameFile:
    """Frames in a temporary file, ``T B S C``; ``S`` is the pixels of a frame.

    The file is not memory-mapped, since mapped pages would count as used memory.
    """

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._done = 0

    def __enter__(self) -> FrameFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, x: Tensor) -> None:
        """Add a chunk ``(B t) C H W`` at the end."""
        self._like = x.new_empty(0)
        self._channels, *self.size = x.shape[1:]
        self.write(self._done, 0, x.flatten(2).transpose(1, 2))
        self._done += x.shape[0] // self.clip.videos

    def frames(self, first: int, last: int) -> Tensor:
        """Read frames ``first`` to ``last`` (exclusive), ``(B t) C H W``."""
        tokens = self.read(first, last, 0, self.size[0] * self.size[1])
        x = tokens.reshape(-1, *self.size, self._channels).movedim(-1, 1)
        return best_layout(x) if x.device.type == "cpu" else x.contiguous()

    def read(self, first: int, last: int, pixel: int, end: int) -> Tensor:
        """Read pixels ``pixel`` to ``end`` (exclusive) of frames, ``(B t) S C``."""
        # Memory from torch is aligned for its kernels; a bytearray is not.
        shape = (self.clip.videos * (last - first), end - pixel, self._channels)
        x = self._like.new_empty(shape, device="cpu")
        self._transfer(self._file.readinto, first, pixel, x)
        return x.to(self._like.device)

    def write(self, first: int, pixel: int, x: Tensor) -> None:
        """Write pixels ``(B t) S C``, starting at ``pixel``, to frames starting at ``first``."""
        self._transfer(self._file.write, first, pixel, x.cpu().contiguous())

    def _transfer(self, call: Callable[[Any], int], first: int, pixel: int, x: Tensor) -> None:
        row = self._channels * x.element_size()
        places = itertools.product(range(self.clip.videos), range(x.shape[0] // self.clip.videos))
        for (video, frame), image in zip(places, x, strict=True):
            at = (first + frame) * self.clip.videos + video
            self._file.seek((at * self.size[0] * self.size[1] + pixel) * row)
            buffer = image.view(-1).view(torch.uint8).numpy()
            assert call(buffer) == len(buffer)


class Moments:
    """The statistics of a GroupNorm over all frames of a video, accumulated chunk by chunk.

    Source:
        Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
        variances", 1979.
    """

    def __init__(self, clip: Clip, norm: Any) -> None:
        self._norm: GroupNorm = norm
        self._clip, self._count = clip, 0
        # On the CPU, since not every device has float64.
        self._mean = torch.zeros(clip.videos, norm.num_groups, dtype=torch.float64)
        self._squares = torch.zeros_like(self._mean)

    def add(self, x: Tensor) -> None:
        """Add a chunk ``(B t) C H W`` to the statistics."""
        frames = self._clip.by_video(at_least_float32(x))
        groups = frames.reshape(*frames.shape[:2], self._norm.num_groups, -1, *x.shape[2:])
        moments = torch.var_mean(groups, dim=(1, 3, 4, 5), correction=0)
        variance, mean = (moment.cpu().double() for moment in moments)
        count = groups.numel() // mean.numel()
        total = self._count + count
        difference = mean - self._mean
        self._squares += variance * count + difference**2 * (self._count * count / total)
        self._mean += difference * (count / total)
        self._count = total

    def normalize(self, x: Tensor) -> Tensor:
        """Normalise ``(B t) C H W`` by the statistics of all frames, possibly in place."""
        norm, each = self._norm, x.shape[1] // self._norm.num_groups
        inverse = (self._squares / self._count + norm.eps).rsqrt()
        mean, inverse = (m.repeat_interleave(each, 1) for m in (self._mean, inverse))
        scale = norm.weight.cpu().double() * inverse  # B C
        shift = norm.bias.cpu().double() - mean * scale
        wide = self._clip.by_video(at_least_float32(x))
        scale, shift = (m.to(wide)[:, None, :, None, None] for m in (scale, shift))
        return wide.mul_(scale).add_(shift).flatten(0, 1).to(x.dtype)


@torch.no_grad()
def decode_stream(
    steps: Iterable[Step], z: Tensor, clip: Clip, skip_video: bool
) -> Iterator[Tensor]:
    """Decode latents ``(B T) z h w`` chunk by chunk; yields ``(B t) C H W``."""
    videos = clip.by_video(z)
    stream: Iterator[Tensor] = (
        best_layout(videos[:, first:last].flatten(0, 1)) for first, last in clip.spans()
    )
    passes: dict[type, Callable[..., Iterator[Tensor]]]
    passes = {VideoResBlock: _residual, VideoBlock: _attention, AE3DConv: _convolution}
    for step in steps:
        run = next((run for kind, run in passes.items() if isinstance(step, kind)), None)
        if run is None:
            stream = map(step, stream)
        elif skip_video:
            stream = map(partial(step, skip_video=True), stream)
        else:
            stream = run(step, stream, clip)
    for x in stream:
        yield x.contiguous()


def _residual(block: VideoResBlock, stream: Iterator[Tensor], clip: Clip) -> Iterator[Tensor]:
    """Three passes: each of the two norms needs all frames."""
    norm_1, *silu_1, conv_1 = block.time_stack.in_layers
    norm_2, *silu_2, conv_2 = block.time_stack.out_layers
    before, between = Moments(clip, norm_1), Moments(clip, norm_2)
    with FrameFile(clip) as spatial, FrameFile(clip) as hidden:
        for x in stream:
            x = block(x, skip_video=True)
            before.add(x)
            spatial.append(x)
        for span in clip.spans():
            h = _convolved(spatial, *span, conv_1, before.normalize, *silu_1)
            between.add(h)
            hidden.append(h)
        for span in clip.spans():
            h = _convolved(hidden, *span, conv_2, between.normalize, *silu_2)
            x = spatial.frames(*span)
            yield block.blend(x, add_to(h, x))


def _convolution(conv: AE3DConv, stream: Iterator[Tensor], clip: Clip) -> Iterator[Tensor]:
    with FrameFile(clip) as spatial:
        for x in stream:
            spatial.append(conv(x, skip_video=True))
        for span in clip.spans():
            yield _convolved(spatial, *span, conv.time_mix_conv)


def _convolved(
    source: FrameFile, first: int, last: int, conv: Any, *pointwise: Callable[[Tensor], Tensor]
) -> Tensor:
    """Convolve one chunk over time, with the neighbouring frames that the kernel reaches."""
    radius = conv.kernel_size[0] // 2
    low, high = max(0, first - radius), min(source.clip.frames, last + radius)
    x = source.frames(low, high)
    for layer in pointwise:
        x = layer(x)
    return fold_frames(conv(unfold_frames(x, high - low))[:, :, first - low : last - low])


def _attention(block: VideoBlock, stream: Iterator[Tensor], clip: Clip) -> Iterator[Tensor]:
    """Attend a few pixels at a time, since pixels do not mix."""
    with FrameFile(clip) as inputs, FrameFile(clip) as tokens:
        for x in stream:
            inputs.append(x)
            tokens.append(block.attention(x).transpose(1, 2).reshape(x.shape))
        pixels = inputs.size[0] * inputs.size[1]
        few = max(1, pixels * clip.chunk // clip.frames)  # The number of tokens of a chunk.
        for start in range(0, pixels, few):
            end = min(start + few, pixels)
            mixed = block.mix(tokens.read(0, clip.frames, start, end), clip.frames)
            tokens.write(0, start, mixed)
        for first, last in clip.spans():
            yield block.project(tokens.read(first, last, 0, pixels), inputs.frames(first, last))
