"""The plot: places that follow from the numbers, with lanes for 0 and for what is not finite."""

from __future__ import annotations

import math

import pytest
from inflate.report.svg import Plot, error_plot

from .building import FIRST, REPORTS, document_of, layer_names


def plot_of(name: str) -> Plot:
    plot = error_plot(document_of(name))
    assert plot is not None
    return plot


def test_no_layers_no_plot() -> None:
    assert error_plot(document_of("bare")) is None


@pytest.mark.parametrize("name", [name for name in REPORTS if name != "bare"])
def test_all_is_inside(name: str) -> None:
    plot = plot_of(name)
    assert len(plot.marks) == len(REPORTS[name].layers)
    places = [m.x for m in plot.marks]
    assert places == sorted(places)
    assert plot.left < places[0] < places[-1] < plot.right < plot.width
    lines = [line for line in (plot.tolerance, plot.floor) if line is not None]
    heights = [m.y for m in plot.marks] + [m.mean_y for m in plot.marks if m.mean_y is not None]
    for y in heights + [line.y for line in (*lines, *plot.ticks, *plot.lanes)]:
        assert plot.top <= y <= plot.bottom
    assert sum(band.width for band in plot.bands) == pytest.approx(plot.right - plot.left, abs=0.1)


def test_heights_are_logarithms() -> None:
    plot, document = plot_of("failed"), document_of("failed")
    ticks = {line.text: line.y for line in plot.ticks}
    decade = ticks["1e-08"] - ticks["1e-07"]
    assert decade > 10
    for mark, layer in zip(plot.marks, document["layers"], strict=True):
        above = math.log10(layer["errors"]["max_abs"] / 1e-7)
        assert mark.y == pytest.approx(ticks["1e-07"] - above * decade, abs=0.02)
        assert mark.verdict == layer["verdict"]
        assert mark.title.startswith(f"{layer['name']} ({layer['kind']})")
    assert plot.tolerance is not None
    assert plot.tolerance.y == pytest.approx(ticks["1e-05"], abs=0.02)
    assert plot.floor is not None
    assert plot.tolerance.y < plot.floor.y


def test_equal_layers_lie_in_a_lane_below_all_errors() -> None:
    plot = plot_of("equal")
    (lane,) = plot.lanes
    assert lane.text == "0, equal"
    assert {mark.y for mark in plot.marks} == {lane.y}
    assert lane.y > max(line.y for line in plot.ticks)


def test_layers_that_are_not_finite_lie_in_a_lane_above_all_errors() -> None:
    plot = plot_of("not finite")
    (lane,) = plot.lanes
    assert lane.text == "not finite"
    assert lane.y < min(line.y for line in plot.ticks)
    broken = [mark for mark in plot.marks if mark.y == lane.y]
    assert len(broken) == 35
    assert all("max not finite" in mark.title for mark in broken)


def test_the_first_layer_out_of_tolerance_is_where_it_runs() -> None:
    plot = plot_of("failed")
    assert plot.first == FIRST
    assert plot.first_x == plot.marks[layer_names().index(FIRST)].x
    assert plot_of("close").first_x is None


@pytest.mark.parametrize("error", [5e-324, 1.7e308])
def test_the_smallest_and_the_largest_errors_have_their_height(error: float) -> None:
    document = document_of("failed")
    document["layers"][0]["errors"]["max_abs"] = error
    plot = error_plot(document)
    assert plot is not None
    assert all(plot.top <= line.y <= plot.bottom for line in plot.ticks)


def test_parts_are_named_where_there_is_room() -> None:
    named = [band.name for band in plot_of("equal").bands]
    assert named == ["", "mid", "up.3", "up.2", "up.1", "up.0", "", ""]
