"""Long clips, decoded a chunk of frames at a time and yet as a whole.

Temporal layers see every frame: their norms take statistics over all of them, and attention looks
at all of them. So a temporal block cannot run on a chunk alone. It runs in passes over all chunks,
and what one pass leaves for the next lies in a temporary file; between such blocks chunks stream.

A chunk is ``(B t) C H W``, video-major; chunks come in the order of their frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from inflate.models.blend import TemporalBlock
from inflate.models.blocks import GroupNorm, add_to, at_least_float32
from inflate.models.decoder import Step, best_layout
from inflate.models.frame_file import Clip, FrameFile, by_video
from inflate.models.temporal import AE3DConv, TimeConv, VideoResBlock, fold_frames, unfold_frames
from inflate.models.time_attention import VideoBlock


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
        """Take a chunk ``(B t) C H W`` into account."""
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
        """What the norm of all frames gives for ``(B t) C H W``, whose place may be taken."""
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
        steps: the parts of a decoder in their order.
        z: latents ``(B T) z h w``.
        clip: how they are cut.
        skip_video: run the image layers alone.
    """
    videos = by_video(z, clip)
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
    """A temporal residual block, in three passes: each of its two norms waits for all frames."""
    stack = block.time_stack
    before, between = Moments(clip, stack.in_layers[0]), Moments(clip, stack.out_layers[0])
    with clip.file() as spatial, clip.file() as hidden:
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
    """A norm over all frames and the layers after it, the last a convolution, for a chunk."""

    def prepare(x: Tensor) -> Tensor:
        h: Tensor = layers[1:-1](moments.normalize(x))
        return h

    return _convolved(layers[-1], prepare, source, first, last)


def _convolution(conv: AE3DConv, stream: Iterator[Tensor], clip: Clip) -> Iterator[Tensor]:
    """The output convolution."""
    with clip.file() as spatial:
        for x in stream:
            spatial.append(conv(x, skip_video=True))
        for first, last in clip.spans():
            yield _convolved(conv.time_mix_conv, lambda x: x, spatial, first, last)


def _convolved(
    conv: nn.Module,
    prepare: Callable[[Tensor], Tensor],
    source: FrameFile,
    first: int,
    last: int,
) -> Tensor:
    """A convolution over time for a chunk, with the frames beside it that its kernel reaches."""
    assert isinstance(conv, TimeConv)
    radius = conv.kernel_size[0] // 2
    low, high = max(0, first - radius), min(source.clip.frames, last + radius)
    x = unfold_frames(prepare(source.read(low, high)), high - low)
    return fold_frames(conv(x)[:, :, first - low : last - low])


def _attention(block: VideoBlock, stream: Iterator[Tensor], clip: Clip) -> Iterator[Tensor]:
    """A temporal attention block: over the frames of a few pixels at a time, as they never meet."""
    with clip.file() as inputs, clip.file() as tokens:
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
