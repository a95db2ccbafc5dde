"""Every number that a report gives, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from inflate.parity.metrics import Tolerance, compare
from inflate.parity.result import Errors, PartResult, Worst
from inflate.parity.statistics import EQUAL, NOT_FINITE, judge, measure, worst_of

EXACT = Tolerance(0.0, 0.0)


def test_equal_tensors_have_no_error() -> None:
    x = torch.randn(3, 4)
    assert measure(x, x.clone(), EXACT) == ("bitwise", EQUAL)
    assert Errors(0.0, 0.0, 0.0, None, 0.0, finite=True) == EQUAL


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("sides", ["reference", "candidate", "both"])
def test_what_is_not_finite_has_no_numbers(bad: float, sides: str) -> None:
    good, spoilt = torch.ones(2), torch.tensor([1.0, bad])
    reference = good if sides == "candidate" else spoilt
    candidate = good if sides == "reference" else spoilt.clone()
    assert measure(reference, candidate, Tolerance(1e9, 1e9)) == ("fail", NOT_FINITE)


def test_numbers_worked_out_by_hand() -> None:
    reference = torch.tensor([0.0, 1.0, -3.0, 10.0])
    candidate = torch.tensor([0.5, 1.0, -5.0, 10.0])
    verdict, errors = measure(reference, candidate, Tolerance(0.5, 0.5))
    assert verdict == "within-tolerance"
    assert (errors.max_abs, errors.mean_abs, errors.p99_abs) == (2.0, 0.625, 2.0)
    assert errors.sqnr_db == pytest.approx(10 * math.log10((0 + 1 + 9 + 100) / (0.25 + 4)))
    assert errors.needed == 0.5  # 0.5 / (1 + 0) and 2 / (1 + 3) alike
    assert errors.finite
    assert measure(reference, candidate, Tolerance(0.4, 0.5))[0] == "fail"


def test_the_smallest_tolerance_that_would_pass_does() -> None:
    reference, candidate = torch.randn(50, generator=torch.manual_seed(0)), torch.randn(50)
    _, errors = measure(reference, candidate, EXACT)
    assert errors.needed is not None
    for share, verdict in ((1 + 1e-12, "within-tolerance"), (0.999, "fail")):
        tolerance = Tolerance(errors.needed * share, errors.needed * share)
        assert measure(reference, candidate, tolerance)[0] == verdict
        assert compare(reference, candidate, tolerance).verdict == verdict


def test_one_in_a_hundred_may_be_worse_than_p99() -> None:
    reference = torch.zeros(100)
    candidate = torch.arange(100, dtype=torch.float32)
    _, errors = measure(reference, candidate, EXACT)
    assert (errors.p99_abs, errors.max_abs) == (98.0, 99.0)


def test_a_reference_of_nothing_has_a_number_too() -> None:
    _, errors = measure(torch.zeros(2), torch.ones(2), EXACT)
    assert errors.sqnr_db is not None
    assert -4000 < errors.sqnr_db < -3000


def test_the_worst_of_several_probes() -> None:
    one = Errors(1.0, 0.5, 0.9, 40.0, 0.1, finite=True)
    two = Errors(0.5, 0.6, 0.4, 30.0, 0.2, finite=True)
    assert worst_of([one, two, EQUAL]) == Errors(1.0, 0.6, 0.9, 30.0, 0.2, finite=True)
    assert worst_of([EQUAL, EQUAL]) == EQUAL
    assert worst_of([one, NOT_FINITE]) == NOT_FINITE


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
    assert result.errors is not None
    assert result.errors.mean_abs == 0.375 / reference.numel()


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
    assert result.worst is None
    thin = images[..., :2, :]  # Without an inside.
    result = judge("p", torch.zeros(frames, 4, 2, 3), frames, (thin, thin), EXACT)
    assert [part.name for part in result.parts] == names
