"""How far an image decoder is from itself: by rounding, in a narrow type, and once folded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from inflate.formats.source import Source
from inflate.loading import dtype_name, load_image_decoder, load_post_quant_conv
from inflate.parity.device import exact_float32
from inflate.parity.metrics import is_finite, max_abs_error, worst_error
from inflate.parity.pair import DecoderPair
from inflate.parity.probes import FOLD_PROBES
from inflate.parity.result import FloorResult, FoldResult, OverflowResult
from inflate.parity.running import ProbeRun

_WIDER: dict[torch.dtype, Sequence[torch.dtype]] = {
    torch.float16: (torch.bfloat16, torch.float32),
    torch.bfloat16: (torch.float32,),
    torch.float32: (torch.float64,),
}
"""The types with more range than each, the cheapest first."""


def measure_floor(
    pair: DecoderPair, runs: Sequence[ProbeRun], largest_error: float | None
) -> FloorResult:
    """Measure how much rounding alone changes the image decoder's output.

    Frames are decoded one by one against together, and in float64 on the smallest probe.

    Args:
        pair: what is checked.
        runs: probes that were decoded.
        largest_error: of the check.
    """
    z = min([run.z for run in runs if len(run.z) > 1] or [runs[0].z], key=torch.Tensor.numel)
    apart = torch.cat([pair.reference(frame, 1) for frame in torch.split(z, 1)])
    layout = max_abs_error(pair.reference(z, len(z)), apart)
    exact = None
    z = min([run.z for run in runs], key=torch.Tensor.numel)
    if pair.modules is not None and z.device.type != "mps" and z.dtype != torch.float64:
        wide = pair.modules.remake(torch.float64)
        exact = max_abs_error(wide(z.double(), len(z)), pair.reference(z, len(z)))
    floor = max((value for value in (layout, exact) if value is not None), default=0.0)
    known = largest_error is not None and floor > 0.0
    return FloorResult(layout, exact, largest_error / floor if known else None)  # type: ignore[operator]


def find_overflow(pair: DecoderPair, z: Tensor, frames: int, layer: str) -> OverflowResult | None:
    """Find the type to compute in if the image decoder's ``layer`` is not finite in that of ``z``.

    None if no wider type is finite either: then its weights are at fault, not the type.
    """
    if pair.modules is None:
        return None
    for dtype in _WIDER.get(z.dtype, ()):
        if is_finite(pair.modules.remake(dtype)(z.to(dtype), frames)):
            return OverflowResult(dtype_name(z.dtype), layer, dtype_name(dtype))
    return None


def measure_fold(original: Source, folded: Source, device: torch.device, seed: int) -> FoldResult:
    """Compare an image decoder and its ``post_quant_conv`` with the decoder it was folded into.

    Args:
        original: an image checkpoint with ``post_quant_conv``.
        folded: the same with it folded.
        device: where to compute, in float32.
        seed: of the probes' latents.
    """
    before = load_post_quant_conv(original, torch.float32)
    assert before is not None
    before = before.to(device)
    separate = load_image_decoder(original, torch.float32).to(device)
    together = load_image_decoder(folded, torch.float32).to(device)
    channels = original.read("post_quant_conv.weight").shape[1]
    border, inside, output = [], [], []
    with exact_float32(), torch.inference_mode():
        for probe in FOLD_PROBES:
            z = probe.latents(channels, seed).to(device)
            first, second = separate.conv_in(before(z)), together.conv_in(z)
            inner = (..., slice(1, -1), slice(1, -1))
            inside.append(max_abs_error(first[inner], second[inner]))
            difference = second - first
            difference[inner] = 0
            border.append(max_abs_error(torch.zeros_like(difference), difference))
            output.append(max_abs_error(separate(before(z)), together(z)))
    return FoldResult(worst_error(border), worst_error(inside), worst_error(output))
