"""Pictures and the plot: PNG, differences amplified alike, the limit between verdicts."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from inflate.parity.result import Picture
from inflate.report.images import strips
from inflate.report.plot import TOP, error_plot, time_plot
from inflate.report.text import limit_share

from .building import FIRST, REPORTS, document_of, layer_names, pictures


def decoded(uri: str) -> Tensor:
    """The pixels ``H W 3`` of a data URI, by Pillow."""
    start, _, text = uri.partition(",")
    assert start == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return torch.from_numpy(np.array(image))


def strip_of(*candidates: Tensor, reference: Tensor | None = None) -> dict[str, Any]:
    """The strip of one probe with a frame per candidate, compared with itself by default."""
    (strip,) = strips(
        [
            Picture("p", frame, None, image if reference is None else reference, image)
            for frame, image in enumerate(candidates)
        ]
    )
    return strip


def test_what_is_shown_of_a_frame() -> None:
    (strip,) = strips(pictures(0.07))
    assert (strip["probe"], len(strip["frames"])) == ("real", 5)
    for number, frame in enumerate(strip["frames"]):
        assert (frame["number"], frame["size"]) == (number, (80, 48))
        captions = [caption for caption, _ in frame["images"]]
        assert captions == ["source", "image decoder", "video decoder", "difference times 10"]
        assert len({uri for _, uri in frame["images"]}) == 4
        assert frame["largest"] == pytest.approx(0.07, rel=0.05)


@pytest.mark.parametrize(
    ("largest", "gain"), [(0.07, 10), (0.5, 2), (0.3, 2), (9e-8, 1e7), (4.0, 0.2), (1e-44, None)]
)
def test_differences_are_amplified_to_most_of_the_range(largest: float, gain: float | None) -> None:
    zero = torch.zeros(3, 2, 2)
    strip = strip_of(zero + largest, zero - largest / 2, zero, reference=zero)
    assert gain is None or strip["frames"][0]["images"][-1][0] == f"difference times {gain:g}"
    more, less, none = (int(decoded(f["images"][-1][1])[0, 0, 0]) for f in strip["frames"])
    assert more >= 127.5 * 1.38, "lighter: above the image decoder's"
    assert less < none == 128, "darker: below it"


def test_no_difference_is_grey() -> None:
    for frame in strips(pictures(0.0))[0]["frames"]:
        caption, uri = frame["images"][-1]
        assert (caption, frame["largest"]) == ("no difference", 0.0)
        assert set(decoded(uri).flatten().tolist()) == {128}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_magenta(bad: float) -> None:
    image = torch.zeros(3, 2, 2)
    corrupted = image.clone()
    corrupted[1, 0, 1] = bad
    strip = strip_of(corrupted, reference=image)
    assert strip["frames"][0]["largest"] is None
    for caption, uri in strip["frames"][0]["images"][1:]:
        assert decoded(uri)[0, 1].tolist() == [255, 0, 255], caption
        assert decoded(uri)[1, 1].tolist() == [128, 128, 128]


@pytest.mark.parametrize("name", [name for name in REPORTS if name != "bare"])
def test_the_limit_separates_what_passes_from_what_fails(name: str) -> None:
    plot = error_plot(document_of(name))
    assert plot is not None
    assert len(plot["marks"]) == len(REPORTS[name].layers)
    for mark in plot["marks"]:
        assert TOP <= mark["y"] <= plot["bottom"]
        assert (mark["y"] < plot["limit"]) == (mark["verdict"] == "fail")
    assert all(TOP <= y <= plot["bottom"] for y, _ in (*plot["ticks"], *plot["lanes"]))
    places = [mark["x"] for mark in plot["marks"]]
    assert places == sorted(places)
    assert 0 < places[0] < places[-1] < plot["width"]
    if name != "hostile":
        first = plot["marks"][layer_names().index(FIRST)]
        assert plot["first"] == (first if REPORTS[name].first_divergence else None)


@pytest.mark.parametrize(("atol", "rtol"), [(1e-9, 1.0), (1.0, 1e-9), (0.0, 1e-5)])
@pytest.mark.parametrize("needed", [1e-12, 1e-5, 0.3, 1e300])
@pytest.mark.parametrize("verdict", ["fail", "within-tolerance"])
def test_shares_are_on_their_side_of_1(
    atol: float, rtol: float, needed: float, verdict: str
) -> None:
    item = {"verdict": verdict, "errors": {"needed": needed}}
    share = limit_share(item, {"tolerance": {"atol": atol, "rtol": rtol}})
    assert share is not None
    assert (share > 1.0) == (verdict == "fail")


@pytest.mark.parametrize(
    "frames",
    [(30.0, 31.5), (0.0, 0.0), (None, 1e-12), (1.0, None, 1e9), (7.0,) * 99, (23.1, 23.1000001)],
)
def test_numbers_over_time_lie_between_the_levels(frames: tuple[float | None, ...]) -> None:
    side = {"mean": None, "frames": frames}
    plot = time_plot({"name": "psnr", "reference": side, "candidate": side})
    assert plot is not None
    levels = [y for y, _ in plot["ticks"]]
    assert 2 <= len(levels) <= 8
    assert levels == sorted(levels, reverse=True)
    assert len({text for _, text in plot["ticks"]}) == len(levels)
    marks = plot["lines"]["candidate"]
    assert len(marks) == sum(value is not None for value in frames)
    assert all(levels[-1] <= mark["y"] <= levels[0] for mark in marks)
    numbers = [number for _, number in plot["frames"]]
    assert numbers == list(range(0, len(frames), 7 if len(frames) == 99 else 1))
    assert 0 < plot["frames"][0][0] <= plot["frames"][-1][0] < plot["width"]
    equal = {"mean": None, "frames": [None, None]}
    assert time_plot({"name": "psnr", "reference": equal, "candidate": equal}) is None
