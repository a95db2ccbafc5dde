"""How far two outputs are apart, and what that is called."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inflate.parity.metrics import (
    TOLERANCES,
    Comparison,
    Tolerance,
    compare,
    worst_error,
    worst_verdict,
)

EXACT = Tolerance(0.0, 0.0)
LOOSE = Tolerance(math.inf, 0.0)


def numbers(*values: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def test_equal_numbers_are_bitwise() -> None:
    assert compare(numbers(1, -2), numbers(1, -2), EXACT) == Comparison("bitwise", 0.0)


@pytest.mark.parametrize(
    ("reference", "candidate", "verdict"),
    [
        (4.0, 5.5, "within-tolerance"),
        (4.0, 2.5, "within-tolerance"),
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
    assert found == Comparison(verdict, abs(candidate - reference))


def test_the_relative_error_is_of_the_reference() -> None:
    half = Tolerance(0.0, 0.5)
    assert compare(numbers(2), numbers(4), half).verdict == "fail"
    assert compare(numbers(4), numbers(2), half).verdict == "within-tolerance"


def test_one_number_outside_fails_all_of_them() -> None:
    found = compare(numbers(1, 1, 1), numbers(1, 1.5, 1.25), Tolerance(0.25, 0.0))
    assert found == Comparison("fail", 0.5)


def test_the_smallest_difference_is_not_bitwise() -> None:
    one = torch.ones(3)
    other = one.clone()
    other[1] = torch.nextafter(other[1], torch.tensor(2.0))
    found = compare(one, other, Tolerance(1e-5, 0.0))
    assert found == Comparison("within-tolerance", 2.0**-23)
    assert compare(one, other, EXACT).verdict == "fail"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sides", ["reference", "candidate", "both"])
@pytest.mark.parametrize("tolerance", [EXACT, LOOSE])
def test_what_is_not_finite_never_passes(bad: float, sides: str, tolerance: Tolerance) -> None:
    good, spoilt = numbers(1, 2), numbers(1, bad)
    reference = good if sides == "candidate" else spoilt
    candidate = good if sides == "reference" else spoilt
    assert compare(reference, candidate, tolerance) == Comparison("fail", None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_differences_are_taken_in_float64(dtype: torch.dtype) -> None:
    # In float16 itself the difference would overflow.
    found = compare(numbers(60000, dtype=dtype), numbers(-60000, dtype=dtype), EXACT)
    exact = 2 * numbers(60000, dtype=dtype).double().item()
    assert found == Comparison("fail", exact)


FLOATS = st.floats(-1e6, 1e6, width=32)


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1), st.floats(0, 10), st.floats(0, 1))
def test_the_verdict_is_that_of_every_pair(
    pairs: list[tuple[float, float]], atol: float, rtol: float
) -> None:
    found = compare(
        numbers(*(a for a, _ in pairs)), numbers(*(b for _, b in pairs)), Tolerance(atol, rtol)
    )
    if all(a == b for a, b in pairs):
        assert found.verdict == "bitwise"
    elif all(abs(b - a) <= atol + rtol * abs(a) for a, b in pairs):
        assert found.verdict == "within-tolerance"
    else:
        assert found.verdict == "fail"
    assert found.max_abs_error == max(abs(b - a) for a, b in pairs)


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        (["bitwise"], "bitwise"),
        (["bitwise", "within-tolerance"], "within-tolerance"),
        (["fail", "within-tolerance", "bitwise"], "fail"),
        ([], "fail"),
    ],
)
def test_the_worst_verdict_counts_and_none_at_all_fails(verdicts: list[str], worst: str) -> None:
    assert worst_verdict(verdicts) == worst  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("errors", "worst"),
    [([0.0, 2.0, 1.0], 2.0), ([0.0], 0.0), ([1.0, None], None), ([None], None), ([], None)],
)
def test_the_worst_error_is_unknown_where_one_is(
    errors: list[float | None], worst: float | None
) -> None:
    assert worst_error(errors) == worst


def test_wider_types_have_narrower_tolerances() -> None:
    ordered = [TOLERANCES[name] for name in ("float64", "float32", "float16", "bfloat16")]
    assert ordered == sorted(ordered)
    assert ordered[0] > 0
    assert ordered[1] <= 1e-5, "what a rounding of float32 is, not more"
