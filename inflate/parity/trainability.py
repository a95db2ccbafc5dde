"""Measure when each temporal tensor learns, by two backward passes.

A tensor learns ``now`` if it gets a gradient in the first pass, from the ``next-step`` if it gets
one after a step, else ``never``. An inflated decoder starts with zeros at the end of its temporal
branches: these learn now, and the layers before them learn once the zeros have changed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from inflate.formats.layouts import DECODER, is_inflated
from inflate.inflation.plan import MIX_FACTOR, blocked
from inflate.mix_factor import alpha_of
from inflate.models import VideoDecoder
from inflate.models.temporal import TemporalBlock
from inflate.parity.result import Learns, TensorLearning

STEP = 0.01
"""The change of the element with the largest gradient in a step, as in Adam's first step."""

_FRAMES = 3

Blocks = Mapping[str, TemporalBlock | None]
"""Every temporal tensor, and the block that blends it, if any."""

Gradients = Mapping[str, Tensor | None]
"""The gradient of each trained tensor; None if there is no path to it."""

Why = tuple[str, str | None]
"""A reason, and what to change; None if nothing needs to change."""


def learn_once(decoder: VideoDecoder) -> tuple[TensorLearning, ...]:
    """Measure when each temporal tensor of a decoder learns, by two backward passes.

    The loss is the distance to random images; between the passes only the temporal tensors take a
    step. All this happens on a copy, in float64, so that gradients stand out from rounding errors.

    Args:
        decoder: on any device but ``meta``, in any floating type; tensors whose ``requires_grad``
            is false count as frozen.
    """
    with torch.inference_mode(False), torch.enable_grad():
        decoder = copy.deepcopy(decoder).eval()  # Disables dropout.
        own, blocks = dict(decoder.named_parameters()), _blocks_of_tensors(decoder)
        trained = {key: own[key] for key in blocks if key in own and own[key].requires_grad}
        gradients = _gradients(decoder, trained)
        now = _arrived(gradients, blocks)
        _step(trained, gradients)
        gradients = _gradients(decoder, trained)
        then = _arrived(gradients, blocks)
    zeros = [key for key, value in own.items() if key.endswith("weight") and not value.any()]
    results = []
    for key, block in blocks.items():
        learns: Learns = "never"
        why = _blocked(key, own.get(key), block)
        if why is None and key in now:
            learns, why = "now", ("a gradient arrives", None)
        elif why is None and key in then:
            equal = "both branches are equal before the first step"
            zero = "zeros that make its branch an identity pass no gradient before the first step"
            learns, why = "next-step", (equal if key.endswith(MIX_FACTOR) else zero, None)
        elif why is None:
            # Temporal weights may be zero for lack of a gradient: do not report them as causes.
            causes = [name for name in zeros if name not in blocks]
            causes = causes or [name for name in zeros if blocks[name] is block]
            why = _silent(gradients[key], causes)
        results.append(TensorLearning(DECODER + key, learns, *why))
    return tuple(results)


def _blocks_of_tensors(decoder: VideoDecoder) -> Blocks:
    blocks = {f"{p}.": m for p, m in decoder.named_modules() if isinstance(m, TemporalBlock)}
    return {
        key: next((block for path, block in blocks.items() if key.startswith(path)), None)
        for key in decoder.state_dict()
        if is_inflated([key])
    }


def _blocked(key: str, parameter: nn.Parameter | None, block: TemporalBlock | None) -> Why | None:
    """Why no gradient or optimiser changes a tensor; None if one can."""
    if parameter is None:
        return "a fixed blend is a buffer, which no optimiser changes", None
    if not parameter.requires_grad:
        return "its requires_grad is false", "set it to true"
    if block is None:
        return None
    alpha = alpha_of(float(block.mix_factor.detach()), block.merge_strategy, block.mix_weighs)
    return blocked(alpha, block.merge_strategy, mix_factor=key.endswith(MIX_FACTOR))


def _silent(gradient: Tensor | None, zeros: list[str]) -> Why:
    """Why no gradient arrives at a tensor that could learn."""
    if gradient is not None and not gradient.isfinite().all():
        return "its gradient is not finite", "look for weights that are not finite, or too large"
    if not zeros:
        return "no gradient arrives in two steps: a later layer may cancel it", None
    names = ", ".join(DECODER + name for name in zeros[:3])
    more = f" and {len(zeros) - 3} more" if len(zeros) > 3 else ""
    return (
        f"weights that are all zero pass no gradient: {names}{more}",
        "start from weights that are not zero there",
    )


def _gradients(decoder: VideoDecoder, trained: Mapping[str, nn.Parameter]) -> Gradients:
    like = next(decoder.parameters())
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(_FRAMES, decoder.z_channels, 2, 3, generator=generator).to(like)
    images = decoder(z, timesteps=_FRAMES)
    target = torch.randn(images.shape, generator=generator).to(images)
    if not trained:
        return {}
    loss = (images - target).square().mean()
    found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return dict(zip(trained, found, strict=True))


def _arrived(gradients: Gradients, blocks: Blocks) -> set[str]:
    """The tensors with gradients larger than rounding errors."""
    known = {key: g for key, g in gradients.items() if g is not None and g.isfinite().all()}
    largest: dict[TemporalBlock | None, float] = {}
    for key, gradient in known.items():
        largest[blocks[key]] = max(float(gradient.abs().max()), largest.get(blocks[key], 0.0))
    # Gradients that cancel leave a sum of rounding errors.
    return {
        key
        for key, gradient in known.items()
        if gradient.abs().max() > torch.finfo(gradient.dtype).eps ** 0.85 * largest[blocks[key]]
    }


@torch.no_grad()
def _step(trained: Mapping[str, nn.Parameter], gradients: Gradients) -> None:
    for key, parameter in trained.items():
        gradient = gradients[key]
        if gradient is not None and gradient.isfinite().all() and gradient.any():
            parameter.sub_(gradient / gradient.abs().max() * STEP)
