"""How far two outputs are apart in every number that a report gives, and where."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from operator import itemgetter

import torch
from torch import Tensor

from inflate.parity.metrics import Tolerance, compare, is_finite, worst_error
from inflate.parity.result import Errors, PartResult, ProbeResult, Worst
from inflate.vocabulary import Verdict

EQUAL = Errors(0.0, 0.0, 0.0, None, 0.0, finite=True)
NOT_FINITE = Errors(None, None, None, None, None, finite=False)


def measure(reference: Tensor, candidate: Tensor, tolerance: Tolerance) -> tuple[Verdict, Errors]:
    """Compare two outputs of one shape in every number that a report gives.

    Equal tensors cost two passes over them and no memory: those of a sound candidate all are.
    """
    if torch.equal(reference, candidate) and is_finite(reference):
        return "bitwise", EQUAL
    if not (is_finite(reference) and is_finite(candidate)):
        return "fail", NOT_FINITE
    reference, error = _wide(reference).abs(), (_wide(candidate) - _wide(reference)).abs()
    inside = bool((error <= tolerance.atol + tolerance.rtol * reference).all())
    rank = max(1, math.ceil(0.99 * error.numel()))
    errors = Errors(
        max_abs=error.max().item(),
        mean_abs=error.mean().item(),
        p99_abs=error.flatten().kthvalue(rank).values.item(),
        sqnr_db=_decibels(reference.square().sum().item(), error.square().sum().item()),
        needed=(error / (1.0 + reference)).max().item(),
        finite=True,
    )
    return ("within-tolerance" if inside else "fail"), errors


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
    """Judge the images that reference and candidate made of a probe, whole and in parts.

    Args:
        name: the probe's.
        z: its latents, ``(B T) e h w``.
        frames: T.
        images: the reference's and the candidate's, ``(B T) C H W``.
        tolerance: what ``within-tolerance`` means.
    """
    reference, candidate = images
    verdict, errors = measure(reference, candidate, tolerance)
    scale = max(1, reference.shape[-1] // z.shape[-1])
    parts = []
    for part, cut in _parts(reference, frames, scale).items():
        if verdict == "bitwise":
            parts.append(PartResult(part, verdict, 0.0))
        else:
            found = compare(cut(reference), cut(candidate), tolerance)
            parts.append(PartResult(part, found.verdict, found.max_abs_error))
    return ProbeResult(
        name=name,
        shape=tuple(z.shape),
        frames=frames,
        verdict=verdict,
        max_abs_error=errors.max_abs,
        errors=errors,
        parts=tuple(parts),
        worst=None if verdict == "bitwise" else _worst(reference, candidate, frames),
    )


def _parts(images: Tensor, frames: int, scale: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """How to cut out the parts that are judged apart; the border is one latent pixel wide."""
    cuts: dict[str, Callable[[Tensor], Tensor]] = {}
    places = {"first frame": 0, "middle frame": frames // 2, "last frame": frames - 1}
    if frames == 2:
        del places["middle frame"]
    if frames > 1:
        for name, t in places.items():
            cuts[name] = itemgetter(slice(t, None, frames))
    inner = (..., slice(scale, -scale), slice(scale, -scale))

    def ring(x: Tensor) -> Tensor:
        x = x.clone()
        x[inner] = 0
        return x

    if images[inner].numel():
        cuts |= {"border": ring, "interior": itemgetter(inner)}
    return cuts


def _worst(reference: Tensor, candidate: Tensor, frames: int) -> Worst:
    """Where the largest error is, or the first number that is not finite."""
    error = (_wide(candidate) - _wide(reference)).abs()
    # A difference of two infinities is NaN, and NaN is no maximum on every device.
    error = torch.where(error.isfinite(), error, math.inf)
    place = int(error.flatten().argmax())
    size = []
    for extent in reversed(error.shape):
        place, index = divmod(place, extent)
        size.append(index)
    column, row, channel, image = size
    return Worst(image // frames, image % frames, channel, row, column)


def _wide(x: Tensor) -> Tensor:
    # MPS has no float64.
    return (x.cpu() if x.device.type == "mps" else x).double()


def _decibels(signal: float, noise: float) -> float:
    """A ratio of powers in dB; nothing counts as the smallest power that float64 holds."""
    least = sys.float_info.min
    return 10.0 * (math.log10(max(signal, least)) - math.log10(max(noise, least)))
