"""How far two outputs are apart, and whether that is equal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inflate.vocabulary import Verdict

TOLERANCES = {"float64": 1e-10, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest errors, absolute and relative alike, that are the rounding of a type and no more."""

_WORST_FIRST: Sequence[Verdict] = ("fail", "within-tolerance", "bitwise")


@dataclass(frozen=True)
class Tolerance:
    """Two numbers agree where their difference is at most ``atol + rtol * abs(reference)``."""

    atol: float
    rtol: float


@dataclass(frozen=True)
class Comparison:
    """What a comparison found; the error is None where either side is not finite."""

    verdict: Verdict
    max_abs_error: float | None


def compare(reference: Tensor, candidate: Tensor, tolerance: Tolerance) -> Comparison:
    """Compare two outputs of one shape.

    ``bitwise`` where every number is equal; ``fail`` where either side holds NaN or infinity, even
    where both hold it in the same place.
    """
    # On the CPU, since MPS has no float64.
    reference, candidate = reference.cpu().double(), candidate.cpu().double()
    if not (torch.isfinite(reference).all() and torch.isfinite(candidate).all()):
        return Comparison("fail", None)
    error = (candidate - reference).abs()
    worst = error.max().item()
    if worst == 0.0:
        return Comparison("bitwise", 0.0)
    allowed = tolerance.atol + tolerance.rtol * reference.abs()
    return Comparison("within-tolerance" if bool((error <= allowed).all()) else "fail", worst)


def max_abs_error(reference: Tensor, candidate: Tensor) -> float | None:
    """The largest absolute error of two outputs, or None where either side is not finite."""
    return compare(reference, candidate, Tolerance(0.0, 0.0)).max_abs_error


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity, found without a copy."""
    return not tensor.numel() or all(math.isfinite(bound) for bound in torch.aminmax(tensor))


def worst_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """The worst of some verdicts; none at all is no proof of anything, and fails."""
    return next((v for v in _WORST_FIRST if v in verdicts), "fail")


def worst_error(errors: Sequence[float | None]) -> float | None:
    """The largest error, or None where one of them is not finite or there is none."""
    finite = [error for error in errors if error is not None]
    return max(finite) if finite and len(finite) == len(errors) else None
