"""The plot of the layers' errors, as places on a plane; a template draws it as SVG.

The errors' axis is logarithmic. Equal outputs, whose error is 0, and errors that are not finite
have a lane of their own below and above it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby

from inflate.report.summary import Document, floor_of
from inflate.report.text import error_text, sqnr_text

LEFT, RIGHT, TOP, BOTTOM = 76.0, 14.0, 18.0, 34.0
LANE, GAP, STEP, LEAST = 26.0, 8.0, 10.0, 700.0
SCALE, EMPTY = 210.0, 110.0
"""The height of all decades, and that where no error lies on them."""
_LONGEST = 60


@dataclass(frozen=True)
class Mark:
    """A layer: where its largest and its mean error are, and what a pointer is told."""

    x: float
    y: float
    mean_y: float | None
    verdict: str
    title: str


@dataclass(frozen=True)
class Line:
    """A level line across the plot, and what it says."""

    y: float
    text: str


@dataclass(frozen=True)
class Band:
    """The layers of one part of the decoder; its name is empty where it would not fit."""

    x: float
    width: float
    name: str


@dataclass(frozen=True)
class Plot:
    """All that is drawn; ``first_x`` is where the first layer out of tolerance is."""

    width: float
    height: float
    top: float
    bottom: float
    left: float
    right: float
    marks: tuple[Mark, ...]
    ticks: tuple[Line, ...]
    lanes: tuple[Line, ...]
    tolerance: Line | None
    floor: Line | None
    bands: tuple[Band, ...]
    first_x: float | None
    first: str | None


@dataclass(frozen=True)
class _Scale:
    """Decades ``low`` to ``high`` between two heights."""

    low: int
    high: int
    top: float
    bottom: float

    def y(self, error: float) -> float:
        """The height of an error above 0."""
        return self.at(math.log10(error))

    def at(self, exponent: float) -> float:
        """The height of a power of 10, which may be larger than any float."""
        share = (exponent - self.low) / (self.high - self.low)
        return round(self.bottom - share * (self.bottom - self.top), 2)


def error_plot(document: Document) -> Plot | None:
    """The plot of a document's layers, or None where it has none."""
    layers = document["layers"]
    if not layers:
        return None
    errors = [layer["errors"]["max_abs"] for layer in layers]
    equal, broken = 0.0 in errors, None in errors
    top = TOP + (LANE + GAP if broken else 0.0)
    scale = _scale(document, top)
    height = scale.bottom + (GAP + LANE if equal else 0.0) + BOTTOM
    width = LEFT + max(LEAST, STEP * len(layers)) + RIGHT
    step = (width - LEFT - RIGHT) / len(layers)
    lanes = []
    if broken:
        lanes.append(Line(TOP + LANE / 2, "not finite"))
    if equal:
        lanes.append(Line(scale.bottom + GAP + LANE / 2, "0, equal"))
    marks = [
        _mark(layer, round(LEFT + (index + 0.5) * step, 2), scale)
        for index, layer in enumerate(layers)
    ]
    names = [layer["name"] for layer in layers]
    first = document["first_divergence"]
    every = 1 if scale.high - scale.low <= 8 else 2
    tolerance, floor = document["tolerance"]["atol"], floor_of(document)
    return Plot(
        width=round(width, 2),
        height=height,
        top=TOP,
        bottom=height - BOTTOM,
        left=LEFT,
        right=width - RIGHT,
        marks=tuple(marks),
        ticks=tuple(
            Line(scale.at(decade), f"1e{decade:+03d}" if decade else "1")
            for decade in range(scale.low, scale.high + 1, every)
        ),
        lanes=tuple(lanes),
        tolerance=Line(scale.y(tolerance), f"atol {tolerance:g}") if tolerance else None,
        floor=Line(scale.y(floor), f"noise floor {error_text(floor)}") if floor else None,
        bands=tuple(_bands(names, step)),
        first_x=marks[names.index(first)].x if first in names else None,
        first=first if first is None or len(first) <= _LONGEST else f"{first[:_LONGEST]} ...",
    )


def _scale(document: Document, top: float) -> _Scale:
    sizes = [document["tolerance"]["atol"], floor_of(document)]
    for layer in document["layers"]:
        sizes += [layer["errors"]["max_abs"], layer["errors"]["mean_abs"]]
    exponents = [math.log10(size) for size in sizes if size] or [0.0]
    low, high = math.floor(min(exponents)), math.ceil(max(exponents) + 0.05)
    tall = any(layer["errors"]["max_abs"] for layer in document["layers"])
    return _Scale(min(low, high - 3), high, top, top + (SCALE if tall else EMPTY))


def _mark(layer: Document, x: float, scale: _Scale) -> Mark:
    errors = layer["errors"]
    largest, mean = errors["max_abs"], errors["mean_abs"]
    if largest is None:
        y = TOP + LANE / 2
    else:
        y = scale.y(largest) if largest else scale.bottom + GAP + LANE / 2
    said = [f"{layer['name']} ({layer['kind']})", layer["verdict"], f"max {error_text(largest)}"]
    if largest:
        said += [f"mean {error_text(mean)}", f"SQNR {sqnr_text(errors)}"]
    return Mark(
        x, y, scale.y(mean) if largest and mean else None, layer["verdict"], "\n".join(said)
    )


def _bands(names: list[str], step: float) -> list[Band]:
    bands, x = [], LEFT
    for name, members in groupby(names, key=_part_of):
        width = step * len(list(members))
        bands.append(Band(round(x, 2), round(width, 2), name if width > 7 * len(name) else ""))
        x += width
    return bands


def _part_of(name: str) -> str:
    """The part of a decoder that a layer belongs to: ``conv_in``, ``mid``, ``up.3``."""
    steps = name.split(".")
    steps = steps[1:] if steps[0] == "decoder" and len(steps) > 1 else steps
    numbered = len(steps) > 1 and steps[1].isdecimal()
    return ".".join(steps[: 2 if numbered else 1])
