"""When each temporal tensor learns: measured by two backward passes, or told from a plan alone.

A tensor learns ``now`` where a gradient arrives in the first pass, from the ``next-step`` where one
arrives after a step, and ``never`` where neither does. An inflated decoder starts with zeros at the
end of its temporal branches: they learn now, and what stands before them once they have moved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from inflate.formats.layouts import DECODER
from inflate.formats.source import Source
from inflate.loading import load_video
from inflate.models import VideoDecoder
from inflate.models.blend import TemporalBlock
from inflate.parity.learning import (
    ARRIVES,
    Why,
    blocks_of_tensors,
    centred,
    cut,
    frozen,
    later,
)
from inflate.parity.memory import saying_memory
from inflate.parity.result import Learns, TensorLearning, TrainabilityResult

STEP = 0.01
"""How far a step moves the number of a tensor whose gradient is largest, as Adam's first would."""

Gradients = Mapping[str, Tensor | None]
"""The gradient of each trained tensor; None where there is no way to it."""


def learn_once(decoder: VideoDecoder, *, seed: int = 0) -> TrainabilityResult:
    """Measure when each temporal tensor of a decoder learns, by two backward passes.

    The loss is the distance to random images; between the passes the temporal tensors alone take a
    step down their gradients. The decoder is left as it was. In float64 what rounding leaves of a
    gradient that is zero stands furthest from any other.

    Args:
        decoder: on any device but ``meta``, in any floating type; tensors whose ``requires_grad``
            is false are taken as frozen.
        seed: of the latents, ``3 C 2 3``, and the images.
    """
    blocks = blocks_of_tensors(decoder)
    own = dict(decoder.named_parameters())
    trained = {key: own[key] for key in blocks if key in own and own[key].requires_grad}
    with torch.inference_mode(False), torch.enable_grad(), _untouched(decoder, trained):
        gradients = _gradients(decoder, trained, seed)
        now = _arrived(gradients, blocks)
        _step(trained, gradients)
        gradients = _gradients(decoder, trained, seed)
        then = _arrived(gradients, blocks)
        zeros = [key for key, v in own.items() if key.endswith("weight") and not v.any()]
    results = []
    for key, block in blocks.items():
        why = frozen(own.get(key)) or cut(key, block)
        learns: Learns = "never"
        if why is None and key in now:
            learns, why = "now", (ARRIVES, None)
        elif why is None and key in then:
            learns, why = "next-step", (later(key), None)
        elif why is None:
            # Temporal ones may be zero for want of a gradient: those of other blocks are no cause.
            causes = [name for name in zeros if name not in blocks]
            causes = causes or [name for name in zeros if blocks[name] is block]
            why = _silent(decoder, key, gradients[key], causes)
        results.append(TensorLearning(DECODER + key, learns, *why))
    return TrainabilityResult(tuple(results))


def measure(candidate: Source, device: torch.device) -> TrainabilityResult:
    """:func:`learn_once` for the decoder of a video checkpoint, in float64.

    Raises:
        DeviceError: the device runs out of memory.
    """
    # MPS has no float64, and what arrives where does not hang on the device.
    where = torch.device("cpu") if device.type == "mps" else device
    with saying_memory(where, "two backward passes were made"):
        return learn_once(load_video(candidate, torch.float64).to(where))


def _silent(decoder: VideoDecoder, key: str, gradient: Tensor | None, zeros: list[str]) -> Why:
    """Why no gradient arrives at a tensor that could learn."""
    if gradient is not None and not gradient.isfinite().all():
        return "its gradient is not finite", "look for weights that are not finite, or too large"
    why = centred(decoder, key)
    if why is not None:
        return why
    if not zeros:
        return "no gradient arrives in two steps", "measure again after some steps of training"
    names = ", ".join(DECODER + name for name in zeros[:3])
    more = f" and {len(zeros) - 3} more" if len(zeros) > 3 else ""
    return (
        f"nothing passes weights that are all zero: {names}{more}",
        "start from weights that are not zero there",
    )


def _gradients(decoder: VideoDecoder, trained: Mapping[str, nn.Parameter], seed: int) -> Gradients:
    frames = 3
    like = next(decoder.parameters())
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(frames, decoder.z_channels, 2, 3, generator=generator).to(like)
    images = decoder(z, timesteps=frames)
    target = torch.randn(images.shape, generator=generator).to(images)
    if not trained:
        return {}
    loss = (images - target).square().mean()
    found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return dict(zip(trained, found, strict=True))


def _arrived(gradients: Gradients, blocks: Mapping[str, TemporalBlock | None]) -> set[str]:
    """The tensors whose gradients are more than what rounding leaves of zero."""
    sizes = {key: float(gradient.abs().max()) for key, gradient in gradients.items()
             if gradient is not None and gradient.isfinite().all()}  # fmt: skip
    largest: dict[TemporalBlock | None, float] = {}
    for key, size in sizes.items():
        largest[blocks[key]] = max(size, largest.get(blocks[key], 0.0))
    # Gradients that cancel out leave a sum of rounding errors behind.
    noise = {key: torch.finfo(gradient.dtype).eps ** 0.85
             for key, gradient in gradients.items() if gradient is not None}  # fmt: skip
    return {key for key, size in sizes.items() if size > noise[key] * largest[blocks[key]]}


def _step(trained: Mapping[str, nn.Parameter], gradients: Mapping[str, Tensor | None]) -> None:
    with torch.no_grad():
        for key, parameter in trained.items():
            gradient = gradients[key]
            if gradient is not None and gradient.isfinite().all() and gradient.any():
                parameter.sub_(gradient / gradient.abs().max() * STEP)


@contextmanager
def _untouched(decoder: VideoDecoder, trained: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Put tensors and modes back as they were; dropout is off in between."""
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
