"""Pictures of a report as PNG data URIs: decoded frames and the amplified difference."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from inflate.parity.result import Picture

LONGEST = 192
"""Maximum length of the longer side in pixels; larger images are scaled down."""
_RANDOM = "clip"
"""The pictured probe of random latents; the other probes come from the user."""


def strips(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """The frames of each probe in time order, user probes first; one amplification per probe.

    ``largest`` of a frame is None if its difference is not finite.
    """
    by_probe: dict[str, list[Picture]] = {}
    for picture in sorted(pictures, key=lambda picture: (picture.probe == _RANDOM, picture.frame)):
        by_probe.setdefault(picture.probe, []).append(picture)
    made = []
    for probe, frames in by_probe.items():
        gain = _gain(max(_largest(picture) for picture in frames))
        made.append({"probe": probe, "frames": [_frame(picture, gain) for picture in frames]})
    return made


def _frame(picture: Picture, gain: float) -> dict[str, Any]:
    reference, candidate = picture.reference.double(), picture.candidate.double()
    difference = candidate - reference
    images = [] if picture.source is None else [("source", picture.source)]
    images += [("image decoder", reference), ("video decoder", candidate)]
    # Grey means equal; lighter and darker mean more and less than the image decoder's.
    images.append((f"difference times {gain:g}" if gain else "no difference", difference * gain))
    return {
        "number": picture.frame,
        "images": [(caption, _uri(image)) for caption, image in images],
        "size": _small(reference).shape[:0:-1],
        "largest": difference.abs().max().item() if difference.isfinite().all() else None,
    }


def _largest(picture: Picture) -> float:
    """The largest finite difference, in float64 so that even tiny ones can be amplified."""
    difference = (picture.candidate.double() - picture.reference.double()).abs()
    return difference.nan_to_num(0.0, 0.0, 0.0).max().item()


def _gain(largest: float) -> float:
    """A round factor that spreads a difference over most of the range."""
    if largest == 0.0:
        return 0.0
    decade = 10.0 ** math.floor(math.log10(1.0 / largest))
    return max(step * decade for step in (1, 2, 5) if step * decade <= 1.0 / largest * 1.001)


def _uri(image: Tensor) -> str:
    """An image ``C H W`` in -1..1; if C is not 3, as grey or from the first three channels."""
    image = _small(image.cpu().double())
    image = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    broken = ~image.isfinite().all(dim=0)
    levels = ((torch.nan_to_num(image).clamp(-1.0, 1.0) + 1.0) * 127.5).round()
    pixels = levels.to(torch.uint8).permute(1, 2, 0).contiguous()
    pixels[broken] = torch.tensor([255, 0, 255], dtype=torch.uint8)  # Magenta.
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _small(image: Tensor) -> Tensor:
    height, width = image.shape[1:]
    share = LONGEST / max(height, width)
    if share >= 1.0:
        return image
    size = (max(1, round(height * share)), max(1, round(width * share)))
    return F.adaptive_avg_pool2d(image, size)
