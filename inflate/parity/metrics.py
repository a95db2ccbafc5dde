"""Errors between two outputs, their places, and the verdict."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter

import torch
from torch import Tensor

from inflate.parity.probes import Probe
from inflate.parity.result import Errors, PartResult, ProbeResult, Tolerance, Worst
from inflate.vocabulary import Verdict

TOLERANCES = {"float64": 1e-10, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}
"""Default absolute and relative tolerance per type: the largest errors due to rounding."""

EQUAL = Errors(0.0, 0.0, 0.0, None, 0.0, finite=True)
NOT_FINITE = Errors(None, None, None, None, None, finite=False)


def measure(reference: Tensor, candidate: Tensor, tolerance: Tolerance) -> tuple[Verdict, Errors]:
    """Compare two outputs of equal shape.

    ``bitwise`` if every number is equal; ``fail`` if either side has NaN or infinity, even if both
    have it in the same place. Tensors of the same type are compared for equality without a copy.
    """
    if not (is_finite(reference) and is_finite(candidate)):
        return "fail", NOT_FINITE
    if reference.dtype == candidate.dtype and torch.equal(reference, candidate):
        return "bitwise", EQUAL
    size, error = _wide(reference).abs(), (_wide(candidate) - _wide(reference)).abs()
    largest = error.max().item()
    if largest == 0.0:
        return "bitwise", EQUAL
    errors = Errors(
        max_abs=largest,
        mean_abs=error.mean().item(),
        p99_abs=error.flatten().kthvalue(math.ceil(0.99 * error.numel())).values.item(),
        sqnr_db=_decibels(size.square().sum().item()) - _decibels(error.square().sum().item()),
        needed=(error / (1.0 + size)).max().item(),
        finite=True,
    )
    inside = bool((error <= tolerance.atol + tolerance.rtol * size).all())
    return ("within-tolerance" if inside else "fail"), errors


def max_abs_error(reference: Tensor, candidate: Tensor) -> float | None:
    """The largest absolute error of two outputs, or None if either side is not finite."""
    return measure(reference, candidate, Tolerance(0.0, 0.0))[1].max_abs


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor has neither NaN nor infinity; makes no copy."""
    return not tensor.numel() or all(math.isfinite(bound) for bound in torch.aminmax(tensor))


def worst_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """The worst of several verdicts; ``fail`` for an empty list, since nothing was checked."""
    ranked: Sequence[Verdict] = ("fail", "within-tolerance", "bitwise")
    return next((verdict for verdict in ranked if verdict in verdicts), "fail")


def worst_error(errors: Sequence[float | None]) -> float | None:
    """The largest error; None if one is not finite or there are none."""
    finite = [error for error in errors if error is not None]
    return max(finite) if finite and len(finite) == len(errors) else None


def worst_of(several: Sequence[Errors]) -> Errors:
    """The worst value of each field."""
    if not all(errors.finite for errors in several):
        return NOT_FINITE
    return Errors(
        max_abs=worst_error([errors.max_abs for errors in several]),
        mean_abs=worst_error([errors.mean_abs for errors in several]),
        p99_abs=worst_error([errors.p99_abs for errors in several]),
        sqnr_db=min((e.sqnr_db for e in several if e.sqnr_db is not None), default=None),
        needed=worst_error([errors.needed for errors in several]),
        finite=True,
    )


@dataclass(frozen=True)
class ProbeRun:
    """A completed probe: its latents, the images of both sides, and the result.

    ``z`` is ``(B T) e h w``, in the compute type and on the compute device; images are
    ``(B T) C H W``.
    """

    probe: Probe
    z: Tensor
    expected: Tensor
    found: Tensor
    result: ProbeResult


def judge(probe: Probe, z: Tensor, images: tuple[Tensor, Tensor], tolerance: Tolerance) -> ProbeRun:
    """Judge the outputs of reference and candidate for a probe, as a whole and in parts."""
    verdict, errors = measure(*images, tolerance)
    frames, parts = probe.frames, []
    for part, cut in _parts(images[0], frames, images[0].shape[-1] // z.shape[-1]).items():
        found = (verdict, errors)
        if verdict != "bitwise":
            found = measure(cut(images[0]), cut(images[1]), tolerance)
        parts.append(PartResult(part, found[0], found[1].max_abs))
    worst = None if verdict == "bitwise" else _worst(*images, frames)
    shape, largest = tuple(z.shape), errors.max_abs
    result = ProbeResult(probe.name, shape, frames, verdict, largest, errors, tuple(parts), worst)
    return ProbeRun(probe, z, *images, result)


def _parts(images: Tensor, frames: int, scale: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Slices for each part that is judged separately; the border is one latent pixel wide."""
    places = {"first frame": 0, "middle frame": frames // 2, "last frame": frames - 1}
    if frames < 3:
        del places["middle frame"]
    cuts: dict[str, Callable[[Tensor], Tensor]] = {
        name: itemgetter(slice(place, None, frames)) for name, place in places.items() if frames > 1
    }
    inner = (..., slice(scale, -scale), slice(scale, -scale))

    def ring(x: Tensor) -> Tensor:
        x = x.clone()
        x[inner] = 0
        return x

    if images[inner].numel():
        cuts |= {"border": ring, "interior": itemgetter(inner)}
    return cuts


def _worst(reference: Tensor, candidate: Tensor, frames: int) -> Worst:
    """The place of the largest error, or of the first number that is not finite."""
    error = (_wide(candidate) - _wide(reference)).abs()
    # inf - inf is NaN, which argmax ignores on some devices.
    error = torch.where(error.isfinite(), error, math.inf)
    image, *place = (int(index) for index in torch.unravel_index(error.argmax(), error.shape))
    return Worst(image // frames, image % frames, *place)


def _wide(x: Tensor) -> Tensor:
    """Convert to float64; on the CPU if the device is MPS, which lacks float64."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def _decibels(power: float) -> float:
    """A power in dB; zero counts as the smallest positive float64."""
    return 10.0 * math.log10(max(power, sys.float_info.min))
