"""Probes: latents of distinct frames, in shapes that expose bad inflations, or given ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from inflate.errors import ConfigError
from inflate.loading import aligned


@dataclass(frozen=True)
class Probe:
    """A batch of random latents: ``batch`` videos of ``frames`` frames of ``height x width``."""

    name: str
    batch: int
    frames: int
    height: int
    width: int

    def latents(self, channels: int, seed: int) -> Tensor:
        """Standard normal latents ``(B T) C h w`` in float32; all frames differ."""
        digest = hashlib.sha256(f"{seed}:{self.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
        shape = (self.batch * self.frames, channels, self.height, self.width)
        return torch.randn(shape, generator=generator)

    @property
    def sources(self) -> Tensor | None:
        """The images that were encoded, ``(B T) 3 H W``; None for random latents."""
        return None

    def cropped(self, frames: int, height: int, width: int) -> Probe:
        """A probe of fewer frames or pixels."""
        return replace(self, frames=frames, height=height, width=width)


@dataclass(frozen=True, eq=False)
class GivenProbe(Probe):
    """A batch of given latents, and the images that they were made of, if any.

    ``z`` is ``(B T) C h w`` in float32, ``sources`` ``(B T) 3 H W`` in -1..1.
    """

    z: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)
    sources: Tensor | None = field(default=None, repr=False)

    @classmethod
    def of(cls, name: str, z: Tensor, frames: int, sources: Tensor | None = None) -> GivenProbe:
        """A probe of latents ``(B T) C h w``."""
        return cls(name, z.shape[0] // frames, frames, z.shape[2], z.shape[3], aligned(z), sources)

    def latents(self, channels: int, seed: int) -> Tensor:
        """The latents themselves, for every seed.

        Raises:
            ConfigError: they have another number of channels.
        """
        if self.z.shape[1] != channels:
            raise ConfigError(
                f"the latents of {self.name!r} have {self.z.shape[1]} channels; the decoder takes "
                f"{channels}"
            )
        return self.z

    def cropped(self, frames: int, height: int, width: int) -> GivenProbe:
        """The first frames, and the upper left corner of each and of its image."""

        def cut(x: Tensor, scale: int) -> Tensor:
            videos = x.reshape(self.batch, self.frames, *x.shape[1:])
            videos = videos[:, :frames, :, : height * scale, : width * scale]
            return videos.flatten(0, 1).contiguous()

        images = self.sources
        if images is not None:
            images = cut(images, images.shape[2] // self.height)
        return replace(
            self, frames=frames, height=height, width=width, z=cut(self.z, 1), sources=images
        )


SMALL_PROBES: Sequence[Probe] = (
    Probe("single-frame", batch=1, frames=1, height=3, width=2),
    Probe("two-videos", batch=2, frames=3, height=2, width=3),
)
"""For ``convert`` on a CPU. A pass takes time for each pixel and to repack all weights: one shows
a single frame and tall frames; the other several videos, a frame between two, and wide frames."""

SMALL_THOROUGH_PROBES: Sequence[Probe] = (
    *SMALL_PROBES,
    Probe("odd-frames", batch=1, frames=3, height=3, width=5),
    Probe("two-frames", batch=1, frames=2, height=3, width=3),
    Probe("non-square", batch=1, frames=1, height=5, width=3),
)
"""For ``verify`` on a CPU: the same, and each shape by itself, with pixels inside the border."""

LARGE_PROBES: Sequence[Probe] = (
    Probe("single-frame", batch=1, frames=1, height=32, width=24),
    Probe("two-videos", batch=2, frames=3, height=24, width=32),
)
"""For ``convert`` on an accelerator."""

LARGE_THOROUGH_PROBES: Sequence[Probe] = (
    *LARGE_PROBES,
    Probe("odd-frames", batch=1, frames=5, height=24, width=40),
    Probe("two-frames", batch=1, frames=2, height=24, width=24),
    Probe("non-square", batch=1, frames=1, height=40, width=24),
)
"""For ``verify`` on an accelerator."""

FOLD_PROBES: Sequence[Probe] = (Probe("odd-frames", batch=1, frames=3, height=4, width=5),)
"""For what a fold changes: a border, and pixels inside it."""


def probes_for(device: torch.device) -> Sequence[Probe]:
    """The probes of ``convert``."""
    return SMALL_PROBES if device.type == "cpu" else LARGE_PROBES


def thorough_probes_for(device: torch.device) -> Sequence[Probe]:
    """The probes of ``verify``."""
    return SMALL_THOROUGH_PROBES if device.type == "cpu" else LARGE_THOROUGH_PROBES


def clip_for(device: torch.device) -> Probe:
    """A clip to look at."""
    height, width = (4, 6) if device.type == "cpu" else (32, 32)
    return Probe("clip", batch=1, frames=8, height=height, width=width)
