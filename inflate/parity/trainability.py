"""Measure when each temporal tensor learns, by two backward passes.

A tensor learns ``now`` if a gradient arrives in the first pass, from the ``next-step`` if one
arrives after a step, else ``never``. An inflated decoder starts with zeros at the end of its
temporal branches: these learn now, and the layers before them once they have moved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from inflate.formats.layouts import DECODER, is_inflated
from inflate.formats.source import Source
from inflate.inflation.dead_weight import MIX_FACTOR, blocked
from inflate.loading import load_video
from inflate.mix_factor import alpha_of
from inflate.models import VideoDecoder
from inflate.models.temporal import TemporalBlock
from inflate.parity.memory import memory_errors
from inflate.parity.result import Learns, TensorLearning, TrainabilityResult

STEP = 0.01
"""How far a step moves the element with the largest gradient, as Adam's first step would."""

_FRAMES = 3

Gradients = Mapping[str, Tensor | None]
"""The gradient of each trained tensor; None if there is no path to it."""

Why = tuple[str, str | None]
"""A reason, and what to change; None if nothing needs to change."""


def learn_once(decoder: VideoDecoder, *, seed: int = 0) -> TrainabilityResult:
    """Measure when each temporal tensor of a decoder learns, by two backward passes.

    The loss is the distance to random images; between the passes the temporal tensors alone take a
    step. The decoder is left as it was. In float64 rounding differs most from a gradient.

    Args:
        decoder: on any device but ``meta``, in any floating type; tensors whose ``requires_grad``
            is false count as frozen.
        seed: of the latents, ``3 C 2 3``, and the images.
    """
    blocks = _blocks_of_tensors(decoder)
    own = dict(decoder.named_parameters())
    trained = {key: own[key] for key in blocks if key in own and own[key].requires_grad}
    with torch.inference_mode(False), torch.enable_grad(), _restored(decoder, trained):
        gradients = _gradients(decoder, trained, seed)
        now = _arrived(gradients, blocks)
        _step(trained, gradients)
        gradients = _gradients(decoder, trained, seed)
        then = _arrived(gradients, blocks)
        zeros = [key for key, v in own.items() if key.endswith("weight") and not v.any()]
    results = []
    for key, block in blocks.items():
        learns: Learns = "never"
        why = _frozen(own.get(key)) or _blocked(key, block)
        if why is None and key in now:
            learns, why = "now", ("a gradient arrives", None)
        elif why is None and key in then:
            learns, why = "next-step", (_later(key), None)
        elif why is None:
            # Temporal weights may be zero because they got no gradient: no cause in other blocks.
            causes = [name for name in zeros if name not in blocks]
            causes = causes or [name for name in zeros if blocks[name] is block]
            why = _silent(gradients[key], causes)
        results.append(TensorLearning(DECODER + key, learns, *why))
    return TrainabilityResult(tuple(results))


def measure_trainability(candidate: Source, device: torch.device) -> TrainabilityResult:
    """:func:`learn_once` for the decoder of a video checkpoint, in float64.

    Raises:
        DeviceError: the device runs out of memory.
    """
    # MPS has no float64, and the result does not depend on the device.
    where = torch.device("cpu") if device.type == "mps" else device
    with memory_errors(where, "two backward passes were made"):
        return learn_once(load_video(candidate, torch.float64).to(where))


def _blocks_of_tensors(decoder: VideoDecoder) -> dict[str, TemporalBlock | None]:
    """Every temporal tensor, and the block whose blend weighs it, if any."""
    blocks = {f"{p}.": m for p, m in decoder.named_modules() if isinstance(m, TemporalBlock)}
    return {
        key: next((block for path, block in blocks.items() if key.startswith(path)), None)
        for key in decoder.state_dict()
        if is_inflated([key])
    }


def _frozen(parameter: nn.Parameter | None) -> Why | None:
    """Why no optimiser changes a tensor; None if one can."""
    if parameter is None:
        return "a fixed blend is a buffer, which no optimiser changes", None
    return None if parameter.requires_grad else ("its requires_grad is false", "set it to true")


def _blocked(key: str, block: TemporalBlock | None) -> Why | None:
    """Why the blend passes no gradient to a tensor; None if it does."""
    if block is None:
        return None
    alpha = alpha_of(float(block.mix_factor.detach()), block.merge_strategy, block.mix_weighs)
    return blocked(alpha, block.merge_strategy, mix_factor=key.endswith(MIX_FACTOR))


def _later(key: str) -> str:
    if key.endswith(MIX_FACTOR):
        return "both branches are equal before the first step"
    return "the zeros that make its branch an identity pass no gradient before the first step"


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


def _gradients(decoder: VideoDecoder, trained: Mapping[str, nn.Parameter], seed: int) -> Gradients:
    like = next(decoder.parameters())
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(_FRAMES, decoder.z_channels, 2, 3, generator=generator).to(like)
    images = decoder(z, timesteps=_FRAMES)
    target = torch.randn(images.shape, generator=generator).to(images)
    if not trained:
        return {}
    loss = (images - target).square().mean()
    found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return dict(zip(trained, found, strict=True))


def _arrived(gradients: Gradients, blocks: Mapping[str, TemporalBlock | None]) -> set[str]:
    """The tensors whose gradients are larger than rounding errors."""
    known = {key: g for key, g in gradients.items() if g is not None and g.isfinite().all()}
    sizes = {key: float(gradient.abs().max()) for key, gradient in known.items()}
    largest: dict[TemporalBlock | None, float] = {}
    for key, size in sizes.items():
        largest[blocks[key]] = max(size, largest.get(blocks[key], 0.0))
    # Gradients that cancel out leave a sum of rounding errors behind.
    noise = {key: torch.finfo(gradient.dtype).eps ** 0.85 for key, gradient in known.items()}
    return {key for key, size in sizes.items() if size > noise[key] * largest[blocks[key]]}


def _step(trained: Mapping[str, nn.Parameter], gradients: Gradients) -> None:
    with torch.no_grad():
        for key, parameter in trained.items():
            gradient = gradients[key]
            if gradient is not None and gradient.isfinite().all() and gradient.any():
                parameter.sub_(gradient / gradient.abs().max() * STEP)


@contextmanager
def _restored(decoder: VideoDecoder, trained: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Turn dropout off, and restore tensors and modes afterwards."""
    modes = [(module, module.training) for module in decoder.modules()]
    before = {key: parameter.detach().clone() for key, parameter in trained.items()}
    decoder.eval()
    try:
        yield
    finally:
        with torch.no_grad():
            for key, parameter in trained.items():
                parameter.copy_(before[key])
        for module, training in modes:
            module.training = training
