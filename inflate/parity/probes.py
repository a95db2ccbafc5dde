"""The probes: latents of distinct random frames, in shapes that break bad inflations."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

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


SMALL_PROBES: Sequence[Probe] = (
    Probe("single-frame", batch=1, frames=1, height=4, width=4),
    Probe("two-videos", batch=2, frames=2, height=4, width=3),
    Probe("odd-frames", batch=1, frames=3, height=3, width=5),
)
"""For a CPU: the layers see every border and every centre in few pixels."""

LARGE_PROBES: Sequence[Probe] = (
    Probe("single-frame", batch=1, frames=1, height=32, width=32),
    Probe("two-videos", batch=2, frames=2, height=32, width=24),
    Probe("odd-frames", batch=1, frames=5, height=24, width=40),
)
"""For an accelerator."""


def probes_for(device: torch.device) -> Sequence[Probe]:
    """The probes that a device computes in seconds."""
    return SMALL_PROBES if device.type == "cpu" else LARGE_PROBES
