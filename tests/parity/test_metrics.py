"""Every number that a report gives, against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from inflate.parity.metrics import (
    EQUAL,
    NOT_FINITE,
    TOLERANCES,
    Tolerance,
    judge,
    max_abs_error,
    measure,
    worst_error,
    worst_of,
    worst_verdict,
)
from inflate.parity.result import Errors, PartResult, Worst

EXACT = Tolerance(0.0, 0.0)
LOOSE = Tolerance(math.inf, 0.0)


def numbers(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def compare(reference: Tensor, candidate: Tensor, tolerance: Tolerance) -> tuple[str, Any]:
    verdict, errors = measure(reference, candidate, tolerance)
    return verdict, errors.max_abs


@pytest.mark.parametrize(
    ("reference", "candidate", "verdict"),
    [
        (4.0, 5.5, "within-tolerance"),
        (4.0, math.nextafter(5.5, math.inf), "fail"),
        (4.0, math.nextafter(2.5, -math.inf), "fail"),
        (-4.0, -5.5, "within-tolerance"),
        (0.0, 0.5, "within-tolerance"),
        (0.0, math.nextafter(0.5, 1.0), "fail"),
    ],
)
def test_the_tolerance_ends_exactly_where_it_says(
    reference: float, candidate: float, verdict: str
) -> None:
    # atol + rtol * |reference|: 0.5 + 0.25 * 4 is 1.5, exactly.
    found = compare(numbers(reference), numbers(candidate), Tolerance(0.5, 0.25))
    assert found == (verdict, abs(candidate - reference))


def test_the_relative_error_is_of_the_reference() -> None:
    half = Tolerance(0.0, 0.5)
    assert compare(numbers(2), numbers(4), half)[0] == "fail"
    assert compare(numbers(4), numbers(2), half)[0] == "within-tolerance"


def test_the_smallest_difference_is_not_bitwise() -> None:
    one = torch.ones(3)
    other = one.clone()
    other[1] = torch.nextafter(other[1], torch.tensor(2.0))
    assert compare(one, other, Tolerance(1e-5, 0.0)) == ("within-tolerance", 2.0**-23)
    assert compare(one, other, EXACT)[0] == "fail"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sides", ["reference", "candidate", "both"])
@pytest.mark.parametrize("tolerance", [EXACT, LOOSE])
def test_what_is_not_finite_never_passes(bad: float, sides: str, tolerance: Tolerance) -> None:
    good, spoilt = numbers(1, 2), numbers(1, bad)
    reference = good if sides == "candidate" else spoilt
    candidate = good if sides == "reference" else spoilt
    assert measure(reference, candidate, tolerance) == ("fail", NOT_FINITE)
    assert max_abs_error(reference, candidate) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_differences_are_taken_in_float64(dtype: torch.dtype) -> None:
    # In float16 itself the difference would overflow.
    found = compare(numbers(60000, dtype=dtype), numbers(-60000, dtype=dtype), EXACT)
    assert found == ("fail", 2 * numbers(60000, dtype=dtype).double().item())


def test_equal_numbers_of_two_types_are_equal() -> None:
    assert measure(numbers(1, dtype=torch.float32), numbers(1), EXACT) == ("bitwise", EQUAL)


FLOATS = st.floats(-1e6, 1e6, width=32)


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1), st.floats(0, 10), st.floats(0, 1))
def test_the_verdict_is_that_of_every_pair(
    pairs: list[tuple[float, float]], atol: float, rtol: float
) -> None:
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


def test_the_smallest_tolerance_that_would_pass_does() -> None:
    generator = torch.manual_seed(0)
    reference, candidate = (torch.randn(50, generator=generator) for _ in range(2))
    _, errors = measure(reference, candidate, EXACT)
    assert errors.needed is not None
    for share, verdict in ((1 + 1e-12, "within-tolerance"), (0.999, "fail")):
        tolerance = Tolerance(errors.needed * share, errors.needed * share)
        assert measure(reference, candidate, tolerance)[0] == verdict


def test_one_in_a_hundred_may_be_worse_than_p99() -> None:
    _, errors = measure(torch.zeros(100), torch.arange(100.0), EXACT)
    assert (errors.p99_abs, errors.max_abs) == (98.0, 99.0)


def test_a_reference_of_zeros_has_a_finite_sqnr() -> None:
    _, errors = measure(torch.zeros(2), torch.ones(2), EXACT)
    assert errors.sqnr_db is not None
    assert -4000 < errors.sqnr_db < -3000


def test_the_worst_of_several_probes() -> None:
    one = Errors(1.0, 0.5, 0.9, 40.0, 0.1, finite=True)
    two = Errors(0.5, 0.6, 0.4, 30.0, 0.2, finite=True)
    assert worst_of([one, two, EQUAL]) == Errors(1.0, 0.6, 0.9, 30.0, 0.2, finite=True)
    assert worst_of([EQUAL, EQUAL]) == EQUAL
    assert worst_of([one, NOT_FINITE]) == NOT_FINITE


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        (["bitwise"], "bitwise"),
        (["bitwise", "within-tolerance"], "within-tolerance"),
        (["fail", "within-tolerance", "bitwise"], "fail"),
        ([], "fail"),
    ],
)
def test_the_worst_verdict_counts_and_none_at_all_fails(verdicts: list[Any], worst: str) -> None:
    assert worst_verdict(verdicts) == worst


@pytest.mark.parametrize(
    ("errors", "worst"),
    [([0.0, 2.0, 1.0], 2.0), ([0.0], 0.0), ([1.0, None], None), ([None], None), ([], None)],
)
def test_the_worst_error_is_unknown_if_one_is(errors: list[Any], worst: float | None) -> None:
    assert worst_error(errors) == worst


def test_the_worst_pixel_is_named_and_each_part_judged() -> None:
    z = torch.zeros(2 * 3, 4, 3, 5)
    reference = torch.zeros(6, 3, 6, 10)
    candidate = reference.clone()
    candidate[5, 1, 2, 7] = 0.25  # Video 1, frame 2; a latent pixel is two wide.
    candidate[3, 0, 0, 0] = 0.125  # Video 1, frame 0; on the border.
    result = judge("p", z, 3, (reference, candidate), Tolerance(0.2, 0.0))
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
    result = judge("p", torch.zeros(2, 1, 3, 3), 2, (reference, candidate), EXACT)
    assert result.max_abs_error is None
    assert result.worst == Worst(video=0, frame=1, channel=0, row=1, column=2)


@pytest.mark.parametrize(
    ("frames", "names"),
    [
        (1, []),
        (2, ["first frame", "last frame"]),
        (4, ["first frame", "middle frame", "last frame"]),
    ],
)
def test_a_probe_has_the_parts_that_it_has_frames_for(frames: int, names: list[str]) -> None:
    images = torch.zeros(frames, 3, 3, 3)
    result = judge("p", torch.zeros(frames, 4, 3, 3), frames, (images, images), EXACT)
    assert [part.name for part in result.parts] == [*names, "border", "interior"]
    thin = images[..., :2, :]  # Without an interior.
    result = judge("p", torch.zeros(frames, 4, 2, 3), frames, (thin, thin), EXACT)
    assert [part.name for part in result.parts] == names


def test_wider_types_have_narrower_tolerances() -> None:
    ordered = [TOLERANCES[name] for name in ("float64", "float32", "float16", "bfloat16")]
    assert ordered == sorted(ordered)
    assert ordered[1] <= 1e-5, "a rounding of float32, not more"
