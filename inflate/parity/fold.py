"""What folding ``post_quant_conv`` into the decoder's first convolution changes, measured."""

from __future__ import annotations

import torch

from inflate.formats.source import Source
from inflate.loading import load_image_decoder, load_post_quant_conv
from inflate.parity.device import exact_float32
from inflate.parity.metrics import max_abs_error, worst_error
from inflate.parity.probes import probes_for
from inflate.parity.result import FoldResult


def measure_fold(original: Source, folded: Source, device: torch.device, seed: int) -> FoldResult:
    """Compare an image decoder after its ``post_quant_conv`` with the one it was folded into.

    Args:
        original: an image checkpoint with ``post_quant_conv``.
        folded: the same, seen with it folded.
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
        for probe in probes_for(device):
            z = probe.latents(channels, seed).to(device)
            first, second = separate.conv_in(before(z)), together.conv_in(z)
            inner = (..., slice(1, -1), slice(1, -1))
            inside.append(max_abs_error(first[inner], second[inner]))
            difference = (second - first).clone()
            difference[inner] = 0
            border.append(max_abs_error(torch.zeros_like(difference), difference))
            output.append(max_abs_error(separate(before(z)), together(z)))
    return FoldResult(worst_error(border), worst_error(inside), worst_error(output))
