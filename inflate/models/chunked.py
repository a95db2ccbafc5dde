"""Decode long clips chunk by chunk, with the result of decoding them whole.

Temporal layers see every frame: their norms take statistics over all of them, and attention attends
to all of them. So a temporal block runs in passes over all chunks, and each pass leaves its result
for the next in a temporary file. Between such blocks, chunks stream.

A chunk is ``(B t) C H W``, video-major; chunks come in the order of their frames.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inflate.models.blend import TemporalBlock
from inflate.models.blocks import GroupNorm, Step, add_to, at_least_float32
from inflate.models.image import best_layout
from inflate.models.temporal import AE3DConv, TimeConv, VideoResBlock, fold_frames, unfold_frames
from inflate.models.time_attention import VideoBlock


@dataclass(frozen=True)
class Clip:
    """How a batch of videos is cut: ``videos`` of ``frames`` frames, ``chunk`` at a time."""

    videos: int
    frames: int
    chunk: int
    directory: Path | None

    def spans(self) -> Iterator[tuple[int, int]]:
        """The first frame of each chunk, and the one after its last."""
        for first in range(0, self.frames, self.chunk):
            yield first, min(first + self.chunk, self.frames)

    def by_video(self, x: Tensor) -> Tensor:
        """``(B t) ... -> B t ...``."""
        return x.reshape(self.videos, -1, *x.shape[1:])


class FrameFile:
    """Frames in a temporary file without a name, removed when it is closed or collected.

    The layout is ``T B H W C``: the frames of a chunk are contiguous, and so are neighbouring
    pixels of one frame. Nothing is mapped into memory, where it would count as used.
    """

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self._file = tempfile.TemporaryFile(dir=clip.directory)  # noqa: SIM115
        self._end = 0

    def __enter__(self) -> FrameFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, x: Tensor) -> None:
        """Add a chunk ``(B t) C H W`` at the end."""
        self._kind = x.new_empty(0)
        _, self.channels, self.height, self.width = x.shape
        by_frame = self.clip.by_video(x).transpose(0, 1).movedim(2, -1)
        self._end += self._put(self._end, by_frame)

    def read(self, first: int, last: int) -> Tensor:
        """The frames from ``first`` to before ``last``, ``(B t) C H W``."""
        shape = (last - first, self.clip.videos, self.height, self.width, self.channels)
        by_frame = self._get(self._offset(first, 0, 0), shape)
        x = by_frame.transpose(0, 1).flatten(0, 1).movedim(-1, 1).to(self._kind.device)
        return best_layout(x) if x.device.type == "cpu" else x.contiguous()

    def read_pixels(self, first: int, last: int) -> Tensor:
        """All frames of some pixels, ``(B T) S C``."""
        clip = self.clip
        shape = (clip.videos, clip.frames, last - first, self.channels)
        x = self._kind.new_empty(shape, device="cpu")
        for video in range(clip.videos):
            for frame in range(clip.frames):
                x[video, frame] = self._get(self._offset(frame, video, first), x.shape[2:])
        return x.flatten(0, 1).to(self._kind.device)

    def write_pixels(self, first: int, x: Tensor) -> None:
        """Replace pixels, from ``first`` on, by ``(B T) S C``."""
        videos = self.clip.by_video(x)
        for video in range(self.clip.videos):
            for frame in range(self.clip.frames):
                self._put(self._offset(frame, video, first), videos[video, frame])

    def _offset(self, frame: int, video: int, pixel: int) -> int:
        image = frame * self.clip.videos + video
        numbers = (image * self.height * self.width + pixel) * self.channels
        return numbers * self._kind.element_size()

    def _put(self, offset: int, x: Tensor) -> int:
        buffer = bytearray(x.numel() * x.element_size())
        torch.frombuffer(buffer, dtype=x.dtype).view(x.shape).copy_(x)
        self._file.seek(offset)
        return self._file.write(buffer)

    def _get(self, offset: int, shape: Iterable[int]) -> Tensor:
        # torch's memory is aligned as its kernels expect; that of a bytearray is not.
        x = torch.empty(tuple(shape), dtype=self._kind.dtype)
        self._file.seek(offset)
        buffer: Any = x.view(-1).view(torch.uint8).numpy()
        assert self._file.readinto(buffer) == x.nbytes
        return x


class Moments:
    """The statistics of a GroupNorm over all frames of a video, gathered chunk by chunk.

    Source:
        Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
        variances", 1979.
    """

    def __init__(self, clip: Clip, norm: nn.Module) -> None:
        assert isinstance(norm, GroupNorm)
        self._norm = norm
        self._each = norm.num_channels // norm.num_groups
        self._videos = clip.videos
        self._count = 0
        # On the CPU, since not every device has float64.
        self._mean = torch.zeros(clip.videos, norm.num_groups, dtype=torch.float64)
        self._squares = torch.zeros_like(self._mean)

    def add(self, x: Tensor) -> None:
        """Add a chunk ``(B t) C H W`` to the statistics."""
        groups = x.reshape(self._videos, -1, self._norm.num_groups, self._each, *x.shape[2:])
        variance, mean = torch.var_mean(at_least_float32(groups), dim=(1, 3, 4, 5), correction=0)
        variance, mean = variance.cpu().double(), mean.cpu().double()
        count = groups.numel() // mean.numel()
        total = self._count + count
        difference = mean - self._mean
        self._squares += variance * count + difference**2 * (self._count * count / total)
        self._mean += difference * (count / total)
        self._count = total

    def normalize(self, x: Tensor) -> Tensor:
        """Normalise ``(B t) C H W`` by the statistics of all frames, perhaps in place."""
        norm = self._norm
        inverse = (self._squares / self._count + norm.eps).rsqrt()
        mean, inverse = (m.repeat_interleave(self._each, 1) for m in (self._mean, inverse))
        scale = norm.weight.cpu().double() * inverse
        shift = norm.bias.cpu().double() - mean * scale
        wide = at_least_float32(x)
        frames = x.shape[0] // self._videos
        scale, shift = (
            m.to(wide).repeat_interleave(frames, 0)[:, :, None, None] for m in (scale, shift)
        )
        return wide.mul_(scale).add_(shift).to(x.dtype)


@torch.no_grad()
def decode_stream(
    steps: Iterable[Step], z: Tensor, clip: Clip, skip_video: bool
) -> Iterator[Tensor]:
    """The images of latents, chunk by chunk, each ``(B t) C H W``.

    Args:
        steps: the steps of a decoder in their order.
        z: latents ``(B T) z h w``.
        clip: how they are cut.
        skip_video: run the image layers alone.
    """
    videos = clip.by_video(z)
    stream: Iterator[Tensor] = (
        best_layout(videos[:, first:last].flatten(0, 1)) for first, last in clip.spans()
    )
    for step in steps:
        silent = skip_video or (isinstance(step, TemporalBlock) and step.is_silent())
        if isinstance(step, VideoResBlock) and not silent:
            stream = _residual(step, stream, clip)
        elif isinstance(step, VideoBlock) and not silent:
            stream = _attention(step, stream, clip)
        elif isinstance(step, AE3DConv) and not silent:
            stream = _convolution(step, stream, clip)
        elif isinstance(step, TemporalBlock | AE3DConv):
            stream = map(partial(step, skip_video=True), stream)
        else:
            stream = map(step, stream)
    for x in stream:
        yield x.contiguous()


def _residual(block: VideoResBlock, stream: Iterator[Tensor], clip: Clip) -> Iterator[Tensor]:
    """A temporal residual block, in three passes: each of its two norms needs all frames."""
    stack = block.time_stack
    before, between = Moments(clip, stack.in_layers[0]), Moments(clip, stack.out_layers[0])
    with FrameFile(clip) as spatial, FrameFile(clip) as hidden:
        for x in stream:
            x = block(x, skip_video=True)
            before.add(x)
            spatial.append(x)
        for first, last in clip.spans():
            h = _time_layers(stack.in_layers, before, spatial, first, last)
            between.add(h)
            hidden.append(h)
        for first, last in clip.spans():
            x = spatial.read(first, last)
            h = _time_layers(stack.out_layers, between, hidden, first, last)
            yield block.blend(x, add_to(h, x), overwrite=True)


def _time_layers(
    layers: nn.Sequential, moments: Moments, source: FrameFile, first: int, last: int
) -> Tensor:
    """A norm over all frames, then the other layers, the last a convolution, for one chunk."""

    def prepare(x: Tensor) -> Tensor:
        h: Tensor = layers[1:-1](moments.normalize(x))
        return h

    return _convolved(layers[-1], prepare, source, first, last)


def _convolution(conv: AE3DConv, stream: Iterator[Tensor], clip: Clip) -> Iterator[Tensor]:
    """The output convolution."""
    with FrameFile(clip) as spatial:
        for x in stream:
            spatial.append(conv(x, skip_video=True))
        for first, last in clip.spans():
            yield _convolved(conv.time_mix_conv, lambda x: x, spatial, first, last)


def _convolved(
    conv: nn.Module, prepare: Callable[[Tensor], Tensor], source: FrameFile, first: int, last: int
) -> Tensor:
    """A convolution over time for one chunk and the neighbouring frames its kernel reaches."""
    assert isinstance(conv, TimeConv)
    radius = conv.kernel_size[0] // 2
    low, high = max(0, first - radius), min(source.clip.frames, last + radius)
    x = unfold_frames(prepare(source.read(low, high)), high - low)
    return fold_frames(conv(x)[:, :, first - low : last - low])


def _attention(block: VideoBlock, stream: Iterator[Tensor], clip: Clip) -> Iterator[Tensor]:
    """A temporal attention block, a few pixels at a time, since pixels do not mix."""
    with FrameFile(clip) as inputs, FrameFile(clip) as tokens:
        for x in stream:
            inputs.append(x)
            tokens.append(block.attention(x).transpose(1, 2).reshape(x.shape))
        pixels = tokens.height * tokens.width
        few = max(1, pixels * clip.chunk // clip.frames)  # As many tokens as a chunk has.
        for first in range(0, pixels, few):
            mixed = block.mix(tokens.read_pixels(first, min(first + few, pixels)), clip.frames)
            tokens.write_pixels(first, mixed)
        for first, last in clip.spans():
            mixed = tokens.read(first, last).flatten(2).transpose(1, 2)
            yield block.project(mixed, inputs.read(first, last))
