"""Probes of latents that somebody hands over: stored ones, or those of images and videos."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from inflate.errors import ConfigError
from inflate.loading import aligned
from inflate.parity.probes import Probe


@dataclass(frozen=True, eq=False)
class GivenProbe(Probe):
    """A batch of given latents, and the images that they were made of where there are any.

    ``z`` is ``(B T) C h w`` in float32, ``sources`` ``(B T) 3 H W`` in -1..1.
    """

    z: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)
    sources: Tensor | None = field(default=None, repr=False)

    @classmethod
    def of(cls, name: str, z: Tensor, frames: int, sources: Tensor | None = None) -> GivenProbe:
        """A probe of latents ``(B T) C h w``."""
        return cls(name, z.shape[0] // frames, frames, z.shape[2], z.shape[3], aligned(z), sources)

    def latents(self, channels: int, seed: int) -> Tensor:
        """The latents themselves, whatever the seed.

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
        """The first frames, and of each the corner above and left; its images alike."""
        scale = 1 if self.sources is None else self.sources.shape[2] // self.height
        z = _cropped(self.z, self.frames, frames, height, width)
        sources = self.sources
        if sources is not None:
            sources = _cropped(sources, self.frames, frames, height * scale, width * scale)
        return replace(self, frames=frames, height=height, width=width, z=z, sources=sources)


def _cropped(x: Tensor, before: int, frames: int, height: int, width: int) -> Tensor:
    videos = x.reshape(-1, before, *x.shape[1:])[:, :frames, :, :height, :width]
    return videos.flatten(0, 1).contiguous()
