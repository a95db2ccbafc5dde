"""Probes: latents with distinct frames, in shapes that expose bad inflations, or the user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from inflate.config.schema import Architecture
from inflate.loading import aligned

_LEAST_SIDE, _LEAST_FRAMES = 2, 3
"""The smallest probe: a smaller one would have no border or no middle frame."""

_COPIES = 8
"""Tensors of the widest layer in memory at once: input, norm, output, and kernel layouts."""


@dataclass(frozen=True)
class Probe:
    """Random or given latents of ``batch`` videos of ``frames`` frames of ``height x width``.

    ``z`` are the given latents, ``(B T) C h w`` in float32; ``sources`` are the images that were
    encoded to them, ``(B T) 3 H W`` in -1..1.
    """

    name: str
    batch: int
    frames: int
    height: int
    width: int
    z: Tensor | None = field(default=None, repr=False, compare=False)
    sources: Tensor | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, name: str, z: Tensor, frames: int, sources: Tensor | None = None) -> Probe:
        """A probe of given latents ``(B T) C h w``."""
        return cls(name, len(z) // frames, frames, z.shape[2], z.shape[3], aligned(z), sources)

    def latents(self, channels: int, seed: int) -> Tensor:
        """The given latents, or standard normal ones ``(B T) C h w`` in which all frames differ."""
        if self.z is not None:
            return self.z
        digest = hashlib.sha256(f"{seed}:{self.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
        shape = (self.batch * self.frames, channels, self.height, self.width)
        return torch.randn(shape, generator=generator)

    def __str__(self) -> str:
        return f"{self.name} ({self.batch} x {self.frames} frames of {self.height} x {self.width})"

    def cropped(self, batch: int, frames: int, height: int, width: int) -> Probe:
        """Crop to the first videos and frames, and the upper left corner of latents and images."""

        def cut(x: Tensor | None) -> Tensor | None:
            if x is None:
                return None
            scale = x.shape[2] // self.height
            videos = x.reshape(self.batch, self.frames, *x.shape[1:])
            videos = videos[:batch, :frames, :, : height * scale, : width * scale]
            return videos.flatten(0, 1).contiguous()

        z, sources = cut(self.z), cut(self.sources)
        return Probe(self.name, batch, frames, height, width, z, sources)

    def smaller(self) -> Probe | None:
        """Halve the videos, else the longer side, else reduce the frames; None for the smallest."""
        videos, frames, height, width = self.batch, self.frames, self.height, self.width
        # Round sides up, so that a frame that is not square stays so for longer.
        if videos > 1:
            videos //= 2
        elif height > max(width, _LEAST_SIDE):
            height = (height + 1) // 2
        elif width > _LEAST_SIDE:
            width = (width + 1) // 2
        elif frames > _LEAST_FRAMES:
            frames = max(_LEAST_FRAMES, frames // 2)
        else:
            return None
        return self.cropped(videos, frames, height, width)

    def estimated_bytes(self, architecture: Architecture, dtype: torch.dtype) -> int:
        """Estimate the memory that decoding needs, in bytes.

        The widest layer is the first at full size, which still has the channels of the previous
        level. Attention in the middle compares every latent pixel with every other.
        """
        pixels = self.height * self.width
        widest = max(architecture.level_channels[:2]) * pixels * architecture.downsampling**2
        attention = 0 if architecture.attn_type == "none" else pixels**2
        return self.batch * self.frames * (_COPIES * widest + attention) * dtype.itemsize


# Name, videos, frames, height and width.
SMALL_PROBES: Sequence[Probe] = (
    Probe("two-videos", 2, 3, 2, 3),
    Probe("single-frame", 1, 1, 3, 2),
    Probe("odd-frames", 1, 3, 3, 5),
    Probe("two-frames", 1, 2, 3, 3),
    Probe("non-square", 1, 1, 5, 3),
)
"""For a CPU. ``convert`` runs only the first, since each pass costs time per pixel, and time to
repack all weights: it has several videos, a frame between two others, and wide frames. The rest
test each shape alone, also inside the border."""

LARGE_PROBES: Sequence[Probe] = (
    Probe("two-videos", 2, 3, 24, 32),
    Probe("single-frame", 1, 1, 32, 24),
    Probe("odd-frames", 1, 5, 24, 40),
    Probe("two-frames", 1, 2, 24, 24),
    Probe("non-square", 1, 1, 40, 24),
)
"""For an accelerator."""

FOLD_PROBE = Probe("odd-frames", 1, 3, 4, 5)
"""To measure what a fold changes: a border, and pixels inside it."""


def probes_for(
    device: torch.device, kernel: tuple[int, int, int] = (3, 3, 3), *, thorough: bool = False
) -> Sequence[Probe]:
    """The probe of ``convert``, or if ``thorough`` the probes of ``verify``.

    The first is so large that each weight of a temporal ``kernel``, ``(time, height, width)``,
    reaches a frame or pixel.
    """
    first, *others = SMALL_PROBES if device.type == "cpu" else LARGE_PROBES
    frames, height, width = (size // 2 + 1 for size in kernel)
    first = replace(
        first,
        frames=max(first.frames, frames),
        height=max(first.height, height),
        width=max(first.width, width),
    )
    return (first, *others) if thorough else (first,)


def clip_for(device: torch.device) -> Probe:
    """A clip for the images of a report."""
    return Probe("clip", 1, 8, *((4, 6) if device.type == "cpu" else (32, 32)))
