"""Every number that a report gives, against numbers worked out by hand; frames of probes differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from inflate.parity.metrics import (
    EQUAL,
    NOT_FINITE,
    judge,
    max_abs_error,
    measure,
    worst_error,
    worst_of,
)
from inflate.parity.probes import LARGE_PROBES, SMALL_PROBES, Probe
from inflate.parity.result import Errors, PartResult, Tolerance, Worst

EXACT = Tolerance(0.0, 0.0)
LOOSE = Tolerance(math.inf, 0.0)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def compare(reference: Tensor, candidate: Tensor, tolerance: Tolerance) -> tuple[str, Any]:
    verdict, errors = measure(reference, candidate, tolerance)
    return verdict, errors.max_abs


@pytest.mark.parametrize(
    ("reference", "candidate", "verdict"),
    [
        (4.0, math.nextafter(4.0, math.inf), "within-tolerance"),
        (4.0, 5.5, "within-tolerance"),
        (4.0, math.nextafter(5.5, math.inf), "fail"),
        (4.0, math.nextafter(2.5, -math.inf), "fail"),
        (-4.0, -5.5, "within-tolerance"),
    ],
)
def test_the_tolerance_ends_exactly_where_it_says(
    reference: float, candidate: float, verdict: str
) -> None:
    # atol + rtol * |reference|: 0.5 + 0.25 * 4 is 1.5, exactly.
    found = compare(numbers(reference), numbers(candidate), Tolerance(0.5, 0.25))
    assert found == (verdict, abs(candidate - reference))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sides", ["reference", "candidate", "both"])
@pytest.mark.parametrize("tolerance", [EXACT, LOOSE])
def test_what_is_not_finite_never_passes(bad: float, sides: str, tolerance: Tolerance) -> None:
    good, corrupted = numbers(1, 2), numbers(1, bad)
    reference = good if sides == "candidate" else corrupted
    candidate = good if sides == "reference" else corrupted
    assert measure(reference, candidate, tolerance) == ("fail", NOT_FINITE)
    assert max_abs_error(reference, candidate) is None


FLOATS = st.floats(-1e6, 1e6, width=32)


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1), st.floats(0, 10), st.floats(0, 1))
def test_every_pair_counts(pairs: list[tuple[float, float]], atol: float, rtol: float) -> None:
    one, two = (numbers(*values) for values in zip(*pairs, strict=True))
    expected = "fail"
    if all(a == b for a, b in pairs):
        expected = "bitwise"
    elif all(abs(b - a) <= atol + rtol * abs(a) for a, b in pairs):
        expected = "within-tolerance"
    assert compare(one, two, Tolerance(atol, rtol)) == (expected, max(abs(b - a) for a, b in pairs))


def test_every_number_of_a_comparison() -> None:
    reference, candidate = numbers(0.0, 1.0, -3.0, 10.0), numbers(0.5, 1.0, -5.0, 10.0)
    verdict, errors = measure(reference, candidate, Tolerance(0.5, 0.5))
    assert verdict == "within-tolerance"
    assert (errors.max_abs, errors.mean_abs, errors.p99_abs) == (2.0, 0.625, 2.0)
    assert errors.sqnr_db == pytest.approx(10 * math.log10((0 + 1 + 9 + 100) / (0.25 + 4)))
    assert errors.needed == 0.5  # 0.5 / (1 + 0) and 2 / (1 + 3) alike
    assert errors.finite


def test_the_worst_of_several_probes() -> None:
    one = Errors(1.0, 0.5, 0.9, 40.0, 0.1, finite=True)
    two = Errors(0.5, 0.6, 0.4, 30.0, 0.2, finite=True)
    assert worst_of([one, two, EQUAL]) == Errors(1.0, 0.6, 0.9, 30.0, 0.2, finite=True)
    assert worst_of([EQUAL, EQUAL]) == EQUAL
    assert worst_of([one, NOT_FINITE]) == NOT_FINITE
    assert worst_error([1.0, None]) is worst_error([]) is None


def test_the_worst_pixel_is_named_and_each_part_judged() -> None:
    z = torch.zeros(2 * 3, 4, 3, 5)
    reference = torch.zeros(6, 3, 6, 10)
    candidate = reference.clone()
    candidate[5, 1, 2, 7] = 0.25  # Video 1, frame 2; a latent pixel is two wide.
    candidate[3, 0, 0, 0] = 0.125  # Video 1, frame 0; on the border.
    result = judge(Probe.of("p", z, 3), z, (reference, candidate), Tolerance(0.2, 0.0)).result
    assert (result.verdict, result.max_abs_error) == ("fail", 0.25)
    assert result.worst == Worst(video=1, frame=2, channel=1, row=2, column=7)
    assert result.parts == (
        PartResult("first frame", "within-tolerance", 0.125),
        PartResult("middle frame", "bitwise", 0.0),
        PartResult("last frame", "fail", 0.25),
        PartResult("border", "within-tolerance", 0.125),
        PartResult("interior", "fail", 0.25),
    )


def test_the_first_number_that_is_not_finite_is_the_worst() -> None:
    reference = torch.zeros(2, 1, 3, 3)
    candidate = reference.clone()
    candidate[0, 0, 0, 0] = 100.0
    candidate[1, 0, 1, 2] = math.nan
    candidate[1, 0, 2, 2] = math.inf
    probe = Probe.of("p", torch.zeros(2, 1, 3, 3), 2)
    result = judge(probe, reference, (reference, candidate), EXACT).result
    assert result.max_abs_error is None
    assert result.worst == Worst(video=0, frame=1, channel=0, row=1, column=2)


@pytest.mark.parametrize("probes", [SMALL_PROBES, LARGE_PROBES])
def test_all_frames_differ(probes: Sequence[Probe]) -> None:
    frames = [frame for p in probes for frame in p.latents(4, seed=0)[:, :, :2, :2].flatten(1)]
    assert len(torch.stack(frames).unique(dim=0)) == len(frames)


def test_latents_are_normal_and_given_by_seed_and_name() -> None:
    probe = Probe("many", batch=2, frames=5, height=32, width=24)
    state = torch.get_rng_state()
    z = probe.latents(4, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert (z.shape, z.dtype) == ((10, 4, 32, 24), torch.float32)
    assert abs(z.mean()) < 0.05
    assert abs(z.std() - 1) < 0.05
    assert torch.equal(z, probe.latents(4, seed=3))
    assert not torch.equal(z, probe.latents(4, seed=4))
