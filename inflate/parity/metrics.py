"""How far two outputs are apart, where, and the verdict."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from operator import itemgetter

import torch
from torch import Tensor

from inflate.parity.result import Errors, PartResult, ProbeResult, Worst
from inflate.parity.result import Tolerance as Tolerance
from inflate.vocabulary import Verdict

TOLERANCES = {"float64": 1e-10, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest errors, absolute and relative alike, that rounding in a type explains."""

EQUAL = Errors(0.0, 0.0, 0.0, None, 0.0, finite=True)
NOT_FINITE = Errors(None, None, None, None, None, finite=False)

_WORST_FIRST: Sequence[Verdict] = ("fail", "within-tolerance", "bitwise")


def measure(reference: Tensor, candidate: Tensor, tolerance: Tolerance) -> tuple[Verdict, Errors]:
    """Compare two outputs of one shape.

    ``bitwise`` if every number is equal; ``fail`` if either side holds NaN or infinity, even where
    both hold it in the same place. Equal tensors of one type are compared without a copy.
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
        sqnr_db=_decibels(size.square().sum().item(), error.square().sum().item()),
        needed=(error / (1.0 + size)).max().item(),
        finite=True,
    )
    inside = bool((error <= tolerance.atol + tolerance.rtol * size).all())
    return ("within-tolerance" if inside else "fail"), errors


def max_abs_error(reference: Tensor, candidate: Tensor) -> float | None:
    """The largest absolute error of two outputs, or None if either side is not finite."""
    return measure(reference, candidate, Tolerance(0.0, 0.0))[1].max_abs


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; makes no copy."""
    return not tensor.numel() or all(math.isfinite(bound) for bound in torch.aminmax(tensor))


def worst_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """The worst of several verdicts; without any, ``fail``, since nothing was shown."""
    return next((v for v in _WORST_FIRST if v in verdicts), "fail")


def worst_error(errors: Sequence[float | None]) -> float | None:
    """The largest error, or None if one of them is not finite or there are none."""
    finite = [error for error in errors if error is not None]
    return max(finite) if finite and len(finite) == len(errors) else None


def worst_of(several: Sequence[Errors]) -> Errors:
    """The worst of each number."""
    noisy = [errors.sqnr_db for errors in several if errors.sqnr_db is not None]
    finite = all(errors.finite for errors in several)
    return Errors(
        max_abs=worst_error([errors.max_abs for errors in several]),
        mean_abs=worst_error([errors.mean_abs for errors in several]),
        p99_abs=worst_error([errors.p99_abs for errors in several]),
        sqnr_db=min(noisy) if noisy and finite else None,
        needed=worst_error([errors.needed for errors in several]),
        finite=finite,
    )


def judge(
    name: str, z: Tensor, frames: int, images: tuple[Tensor, Tensor], tolerance: Tolerance
) -> ProbeResult:
    """Judge what reference and candidate made of a probe, as a whole and in parts.

    Args:
        name: the probe's.
        z: its latents, ``(B T) e h w``.
        frames: T.
        images: the reference's and the candidate's, ``(B T) C H W``.
        tolerance: what ``within-tolerance`` means.
    """
    reference, candidate = images
    verdict, errors = measure(reference, candidate, tolerance)
    parts = []
    for part, cut in _parts(reference, frames, reference.shape[-1] // z.shape[-1]).items():
        found = (verdict, errors)
        if verdict != "bitwise":
            found = measure(cut(reference), cut(candidate), tolerance)
        parts.append(PartResult(part, found[0], found[1].max_abs))
    worst = None if verdict == "bitwise" else _worst(reference, candidate, frames)
    shape = tuple(z.shape)
    return ProbeResult(name, shape, frames, verdict, errors.max_abs, errors, tuple(parts), worst)


def _parts(images: Tensor, frames: int, scale: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """How to cut out each part that is judged by itself; the border is one latent pixel wide."""
    places = {"first frame": 0, "middle frame": frames // 2, "last frame": frames - 1}
    wanted = [t for i, t in enumerate(places) if frames > 2 or (frames == 2 and i != 1)]
    cuts: dict[str, Callable[[Tensor], Tensor]] = {
        name: itemgetter(slice(places[name], None, frames)) for name in wanted
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
    # The difference of two infinities is NaN, which argmax ignores on some devices.
    error = torch.where(error.isfinite(), error, math.inf)
    place = torch.unravel_index(error.argmax(), error.shape)
    image, channel, row, column = (int(index) for index in place)
    return Worst(image // frames, image % frames, channel, row, column)


def _wide(x: Tensor) -> Tensor:
    """In float64; on the CPU if the device is MPS, which does not have it."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def _decibels(signal: float, noise: float) -> float:
    """A ratio of powers in dB; zero counts as the smallest power that float64 holds."""
    least = sys.float_info.min
    return 10.0 * (math.log10(max(signal, least)) - math.log10(max(noise, least)))
