"""The probes: latents of distinct random frames, in shapes that break bad inflations."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Probe:
    """A batch of random latents: ``batch`` videos of ``frames`` frames of ``height x width``."""

    name: str
    batch: int
    frames: int
    height: int
    width: int

    def latents(self, channels: int, seed: int) -> Tensor:
        """Standard normal latents ``(B T) C H W`` in float32, no two frames alike."""
        digest = hashlib.sha256(f"{seed}:{self.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
        shape = (self.batch * self.frames, channels, self.height, self.width)
        return torch.randn(shape, generator=generator)

    @property
    def sources(self) -> Tensor | None:
        """The images that the latents were made of, ``(B T) 3 H W``; random ones have none."""
        return None

    def cropped(self, frames: int, height: int, width: int) -> Probe:
        """A probe of fewer frames or pixels."""
        return replace(self, frames=frames, height=height, width=width)


SMALL_PROBES: Sequence[Probe] = (
    Probe("single-frame", batch=1, frames=1, height=4, width=4),
    Probe("two-videos", batch=2, frames=2, height=4, width=3),
    Probe("odd-frames", batch=1, frames=3, height=3, width=5),
)
"""For a CPU: the layers see every border and every centre in few pixels."""

SMALL_THOROUGH_PROBES: Sequence[Probe] = (
    *SMALL_PROBES,
    Probe("two-frames", batch=1, frames=2, height=3, width=3),
    Probe("non-square", batch=1, frames=1, height=5, width=3),
)
"""For a CPU, each shape that breaks a bad inflation with a verdict of its own."""

LARGE_PROBES: Sequence[Probe] = (
    Probe("single-frame", batch=1, frames=1, height=32, width=32),
    Probe("two-videos", batch=2, frames=2, height=32, width=24),
    Probe("odd-frames", batch=1, frames=5, height=24, width=40),
)
"""For an accelerator."""

LARGE_THOROUGH_PROBES: Sequence[Probe] = (
    *LARGE_PROBES,
    Probe("two-frames", batch=1, frames=2, height=24, width=24),
    Probe("non-square", batch=1, frames=1, height=40, width=24),
)
"""For an accelerator, each shape with a verdict of its own."""


def probes_for(device: torch.device) -> Sequence[Probe]:
    """The probes that a device computes in seconds."""
    return SMALL_PROBES if device.type == "cpu" else LARGE_PROBES


def thorough_probes_for(device: torch.device) -> Sequence[Probe]:
    """The probes of a check that somebody asked for: the same and more."""
    return SMALL_THOROUGH_PROBES if device.type == "cpu" else LARGE_THOROUGH_PROBES


def clip_for(device: torch.device) -> Probe:
    """A clip to look at."""
    height, width = (4, 6) if device.type == "cpu" else (32, 32)
    return Probe("clip", batch=1, frames=8, height=height, width=width)
