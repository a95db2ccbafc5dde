"""How much rounding, a narrow type or folding changes an image decoder's output."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from inflate.formats.source import Source
from inflate.loading import dtype_name, load_image_decoder, load_post_quant_conv
from inflate.parity.device import exact_float32
from inflate.parity.metrics import ProbeRun, is_finite, max_abs_error
from inflate.parity.pair import DecoderPair
from inflate.parity.probes import FOLD_PROBE
from inflate.parity.result import FloorResult, FoldResult, OverflowResult

_WIDER: dict[torch.dtype, Sequence[torch.dtype]] = {
    torch.float16: (torch.bfloat16, torch.float32),
    torch.bfloat16: (torch.float32,),
    torch.float32: (torch.float64,),
}
"""The types with more range than a type, the cheapest first."""


def measure_floor(
    pair: DecoderPair, runs: Sequence[ProbeRun], largest_error: float | None
) -> FloorResult:
    """Measure how much rounding alone changes the image decoder's output.

    Compares frames decoded one by one and together; on the smallest probe also with float64.
    """
    z = min([run.z for run in runs if len(run.z) > 1] or [runs[0].z], key=torch.Tensor.numel)
    apart = torch.cat([pair.reference(frame, 1) for frame in torch.split(z, 1)])
    layout = max_abs_error(pair.reference(z, len(z)), apart)
    exact = None
    z = min([run.z for run in runs], key=torch.Tensor.numel)
    if pair.modules is not None and z.device.type != "mps" and z.dtype != torch.float64:
        wide = pair.modules.remake(torch.float64)
        exact = max_abs_error(wide(z.double(), len(z)), pair.reference(z, len(z)))
    floor = max(layout or 0.0, exact or 0.0)
    multiple = None if largest_error is None or not floor else largest_error / floor
    return FloorResult(layout, exact, multiple)


def find_overflow(
    pair: DecoderPair, runs: Sequence[ProbeRun], layer: str | None
) -> OverflowResult | None:
    """Find a wider type to compute in if the image decoder's ``layer`` is not finite on a probe.

    None if no wider type is finite either: then the weights are the cause, not the type.
    """
    if pair.modules is None or layer is None:
        return None
    run = next(run for run in runs if not is_finite(run.expected))
    for dtype in _WIDER.get(run.z.dtype, ()):
        if is_finite(pair.modules.remake(dtype)(run.z.to(dtype), run.probe.frames)):
            return OverflowResult(dtype_name(run.z.dtype), layer, dtype_name(dtype))
    return None


def measure_fold(original: Source, folded: Source, device: torch.device, seed: int) -> FoldResult:
    """Compare an image decoder and its ``post_quant_conv`` with the decoder it was folded into."""
    before = load_post_quant_conv(original, torch.float32)
    assert before is not None
    separate = load_image_decoder(original, torch.float32).to(device)
    together = load_image_decoder(folded, torch.float32).to(device)
    channels = original.read("post_quant_conv.weight").shape[1]
    with exact_float32(), torch.inference_mode():
        z = FOLD_PROBE.latents(channels, seed).to(device)
        mapped = before.to(device)(z)
        first, second = separate.conv_in(mapped), together.conv_in(z)
        output = max_abs_error(separate(mapped), together(z))
    inner = (..., slice(1, -1), slice(1, -1))
    inside = max_abs_error(first[inner], second[inner])
    border = second - first
    border[inner] = 0
    return FoldResult(max_abs_error(torch.zeros_like(border), border), inside, output)
