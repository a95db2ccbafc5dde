"""What rounding alone does: the noise floor, and a type that the image decoder overflows in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from inflate.loading import dtype_name
from inflate.parity.comparands import Comparands
from inflate.parity.metrics import is_finite, max_abs_error
from inflate.parity.result import FloorResult, OverflowResult

_WIDER: dict[torch.dtype, Sequence[torch.dtype]] = {
    torch.float16: (torch.bfloat16, torch.float32),
    torch.bfloat16: (torch.float32,),
    torch.float32: (torch.float64,),
}
"""For each type those of more range, the cheapest first."""


def measure_floor(
    comparands: Comparands, batch: Tensor, smallest: Tensor, largest_error: float | None
) -> FloorResult:
    """Measure how far the image decoder is from itself.

    Args:
        comparands: what is checked.
        batch: latents of several frames, ``N e h w``: decoded together, and one by one.
        smallest: latents of the smallest probe, decoded in float64 too, where the device has it.
        largest_error: that of the check.
    """
    decode = comparands.reference
    together = decode(batch, len(batch))
    apart = torch.cat([decode(batch[i : i + 1], 1) for i in range(len(batch))])
    layout = max_abs_error(together, apart)
    exact = None
    modules = comparands.modules
    if modules is not None and smallest.device.type != "mps" and smallest.dtype != torch.float64:
        wide = modules.remake(torch.float64)
        frames = len(smallest)
        exact = max_abs_error(wide(smallest.double(), frames), decode(smallest, frames))
    floor = max((value for value in (layout, exact) if value is not None), default=0.0)
    known = largest_error is not None and floor > 0.0
    return FloorResult(layout, exact, largest_error / floor if known else None)  # type: ignore[operator]


def find_overflow(
    comparands: Comparands, z: Tensor, frames: int, layer: str
) -> OverflowResult | None:
    """Which type to compute in, where the image decoder's layer is not finite in that of ``z``.

    None where no wider type is finite either: then its weights are at fault, and not the type.
    """
    if comparands.modules is None:
        return None
    for dtype in _WIDER.get(z.dtype, ()):
        if is_finite(comparands.modules.remake(dtype)(z.to(dtype), frames)):
            return OverflowResult(dtype_name(z.dtype), layer, dtype_name(dtype))
    return None
