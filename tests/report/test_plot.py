"""The plot: within tolerance lies under the limit, out of tolerance above, in every report."""

from __future__ import annotations

import pytest

from inflate.report.plot import TOP, Plot, error_plot, part_of, time_plot
from inflate.report.summary import limit_share

from .building import FIRST, REPORTS, document_of, layer_names


def plot_of(name: str) -> Plot:
    plot = error_plot(document_of(name))
    assert plot is not None
    return plot


def test_no_layers_no_plot() -> None:
    assert error_plot(document_of("bare")) is None


@pytest.mark.parametrize("name", [name for name in REPORTS if name != "bare"])
def test_the_limit_separates_what_passes_from_what_fails(name: str) -> None:
    plot = plot_of(name)
    assert len(plot.marks) == len(REPORTS[name].layers)
    for mark in plot.marks:
        assert TOP <= mark.y <= plot.bottom
        assert (mark.y < plot.limit.y) == (mark.verdict == "fail")
    assert all(TOP <= line.y <= plot.bottom for line in (*plot.ticks, *plot.lanes))
    places = [mark.x for mark in plot.marks]
    assert places == sorted(places)
    assert 0 < places[0] < places[-1] < plot.width


@pytest.mark.parametrize(("atol", "rtol"), [(1e-5, 1e-5), (1e-9, 1.0), (1.0, 1e-9), (0.0, 1e-5)])
@pytest.mark.parametrize("needed", [1e-12, 1e-5, 0.3, 1e300])
@pytest.mark.parametrize("verdict", ["fail", "within-tolerance"])
def test_a_share_is_on_the_verdicts_side_of_1(
    atol: float, rtol: float, needed: float, verdict: str
) -> None:
    item = {"verdict": verdict, "errors": {"needed": needed}}
    if atol == rtol and (needed > atol) != (verdict == "fail"):
        return  # No such verdict.
    share = limit_share(item, {"tolerance": {"atol": atol, "rtol": rtol}})
    assert share is not None
    assert (share > 1.0) == (verdict == "fail")
    if atol == rtol and needed != atol:
        assert share == needed / atol


@pytest.mark.parametrize(("name", "text", "count"), [("equal", "0, equal", 69),
                                                     ("not finite", "not finite", 35)])  # fmt: skip
def test_equal_and_not_finite_have_a_lane_outside_the_axis(
    name: str, text: str, count: int
) -> None:
    plot = plot_of(name)
    (lane,) = plot.lanes
    assert lane.text == text
    assert sum(mark.y == lane.y for mark in plot.marks) == count
    heights = [tick.y for tick in plot.ticks]
    assert not min(heights) <= lane.y <= max(heights)


def test_the_first_layer_out_of_tolerance_is_marked() -> None:
    plot = plot_of("failed")
    assert plot.first == plot.marks[layer_names().index(FIRST)]
    assert plot_of("close").first is None


@pytest.mark.parametrize("error", [5e-324, 1.7e308])
def test_the_smallest_and_the_largest_errors_have_their_height(error: float) -> None:
    document = document_of("failed")
    layer = document["layers"][0]
    layer["errors"]["needed"], layer["verdict"] = error, "fail" if error > 1 else "within-tolerance"
    plot = error_plot(document)
    assert plot is not None
    assert all(TOP <= line.y <= plot.bottom for line in (*plot.ticks, plot.marks[0]))
    assert len(plot.ticks) < 25


@pytest.mark.parametrize(
    "frames",
    [
        (30.0, 31.5, 30.5),
        (0.0, 0.0),
        (None, 1e-12),
        (1.0, None, 1e9),
        (7.0,) * 99,
        (23.1, 23.1000001),
    ],
)
def test_numbers_over_time_lie_between_the_levels(frames: tuple[float | None, ...]) -> None:
    side = {"mean": None, "frames": frames}
    plot = time_plot({"name": "psnr", "reference": side, "candidate": side})
    assert plot is not None
    levels = [tick.y for tick in plot.ticks]
    assert 2 <= len(levels) <= 8
    assert levels == sorted(levels, reverse=True)
    assert len({tick.text for tick in plot.ticks}) == len(levels)
    marks = plot.lines["candidate"]
    assert len(marks) == sum(value is not None for value in frames)
    assert all(levels[-1] <= mark.y <= levels[0] for mark in marks)
    numbers = [number for _, number in plot.frames]
    assert numbers == list(range(0, len(frames), 7 if len(frames) == 99 else 1))
    assert 0 < plot.frames[0][0] <= plot.frames[-1][0] < plot.width


def test_equal_frames_alone_have_no_plot_of_psnr() -> None:
    side = {"mean": None, "frames": [None, None]}
    assert time_plot({"name": "psnr", "reference": side, "candidate": side}) is None


def test_parts() -> None:
    named = [band.name for band in plot_of("equal").bands]
    assert named == ["", "mid", "up.3", "up.2", "up.1", "up.0", "", ""]
    assert part_of("encoder.down.0.block.1.conv1.weight") == "encoder.down.0"
    assert part_of("decoder.mid.block_1.conv1.weight") == "decoder.mid"
    assert part_of("quant_conv.weight") == "quant_conv"
    assert part_of("a." * 5000) == "a"
