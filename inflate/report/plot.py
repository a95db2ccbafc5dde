"""The plots of a page, as positions; templates draw them as SVG.

The axis of the layers' errors is the error divided by its limit, on a logarithmic scale, so that a
layer within tolerance lies under the line at 1. Equal outputs and errors that are not finite have a
lane each, below and above the axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from inflate.report.summary import Document, limit_share, measure_text, quality_text
from inflate.report.text import error_text, sqnr_text

LEFT, RIGHT, TOP, BOTTOM = 76.0, 14.0, 20.0, 34.0
LANE, STEP, LEAST, DECADES = 30.0, 10.0, 700.0, 180.0


@dataclass(frozen=True)
class LayerMark:
    """A layer: where its error lies, and its tooltip."""

    x: float
    y: float
    verdict: str
    title: str


@dataclass(frozen=True)
class LevelLine:
    """A horizontal line, and its label."""

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
    """All that is drawn; ``first`` is the mark of the first layer out of tolerance."""

    width: float
    bottom: float
    marks: tuple[LayerMark, ...]
    ticks: tuple[LevelLine, ...]
    lanes: tuple[LevelLine, ...]
    limit: LevelLine
    bands: tuple[Band, ...]
    first: LayerMark | None


def error_plot(document: Document) -> Plot | None:
    """The plot of a document's layers, or None where it has none."""
    layers = document["layers"]
    if not layers:
        return None
    shares = [limit_share(layer, document) for layer in layers]
    exponents = [math.log10(share) for share in shares if share]
    low = min(-2, math.floor(min(exponents, default=0)))
    high = max(1, math.ceil(max(exponents, default=0)))
    top = TOP + (LANE if None in shares else 0.0)
    floor = top + DECADES
    bottom = floor + (LANE if 0.0 in shares else 0.0)

    def height(exponent: float) -> float:
        return round(floor - (exponent - low) / (high - low) * DECADES, 2)

    def height_of(share: float | None) -> float:
        if share is None:
            return TOP + LANE / 2
        return height(math.log10(share)) if share else floor + LANE / 2

    width = LEFT + max(LEAST, STEP * len(layers)) + RIGHT
    step = (width - LEFT - RIGHT) / len(layers)
    marks = [
        LayerMark(
            round(LEFT + (index + 0.5) * step, 2),
            height_of(share),
            layer["verdict"],
            _title(layer, share),
        )
        for index, (layer, share) in enumerate(zip(layers, shares, strict=True))
    ]
    names = [layer["name"] for layer in layers]
    first = document["first_divergence"]
    lanes = {None: "not finite", 0.0: "0, equal"}
    return Plot(
        width=round(width, 2),
        bottom=bottom,
        marks=tuple(marks),
        ticks=tuple(
            LevelLine(height(decade), "1" if decade == 0 else f"1e{decade:+03d}")
            for decade in range(low, high + 1, 1 if high - low <= 8 else 2 * (high - low) // 16)
        ),
        lanes=tuple(LevelLine(height_of(s), text) for s, text in lanes.items() if s in shares),
        limit=LevelLine(height(0), "limit: above it, a layer is out of tolerance"),
        bands=tuple(_bands(names, step)),
        first=marks[names.index(first)] if first in names else None,
    )


@dataclass(frozen=True)
class TimeMark:
    """A frame of a decoder: where its number lies, and its tooltip."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class TimePlot:
    """A measure of both decoders over time; null numbers are left out."""

    width: float
    bottom: float
    ticks: tuple[LevelLine, ...]
    frames: tuple[tuple[float, int], ...]
    """Positions and numbers of frames, so few that they fit."""
    lines: Mapping[str, tuple[TimeMark, ...]]
    """By ``reference`` and ``candidate``."""


def time_plot(measure: Mapping[str, Any]) -> TimePlot | None:
    """The plot of a measure of quality, or None where all numbers are null."""
    sides = {"reference": "image decoder", "candidate": "video decoder"}
    numbers = {side: measure[side]["frames"] for side in sides}
    known = [value for values in numbers.values() for value in values if value is not None]
    if not known:
        return None
    levels = _levels(min(known), max(known))
    count = len(numbers["reference"])
    width, bottom = LEFT + LEAST + RIGHT, TOP + DECADES

    def x_of(frame: int) -> float:
        return round(LEFT + (frame + 0.5) * LEAST / count, 2)

    def y_of(value: float) -> float:
        return round(bottom - (value - levels[0]) / (levels[-1] - levels[0]) * DECADES, 2)

    def title(frame: int) -> str:
        lines = [f"frame {frame}, {measure_text(measure)}"]
        lines += [f"{name} {quality_text(numbers[side][frame])}"
                  for side, name in sides.items()]  # fmt: skip
        return "\n".join(lines)

    return TimePlot(
        width=width,
        bottom=bottom,
        ticks=tuple(LevelLine(y_of(level), f"{level:.6g}") for level in levels),
        frames=tuple((x_of(frame), frame) for frame in range(0, count, -(-count // 16))),
        lines={
            side: tuple(
                TimeMark(x_of(frame), y_of(value), title(frame))
                for frame, value in enumerate(values)
                if value is not None
            )
            for side, values in numbers.items()
        },
    )


def _levels(low: float, high: float) -> list[float]:
    """Round numbers, evenly spaced, from one below ``low`` to one above ``high``."""
    # Not so close to each other that they would read the same.
    wanted = max((high - low) / 4, abs(low) / 1000, abs(high) / 1000) or 1.0
    power = 10.0 ** math.floor(math.log10(wanted))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= wanted * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def part_of(name: str) -> str:
    """The part of an autoencoder that a layer or tensor belongs to, such as ``decoder.up.3``."""
    steps = name.split(".")
    if steps[0] not in ("encoder", "decoder"):
        return steps[0]
    return ".".join(steps[: 3 if len(steps) > 3 and steps[2].isdecimal() else 2])


def _title(layer: Document, share: float | None) -> str:
    errors = layer["errors"]
    lines = [f"{layer['name']} ({layer['kind']})", layer["verdict"]]
    lines.append(f"max {error_text(errors['max_abs'])}")
    if share:
        lines += [f"{share:.3g} of its limit", f"SQNR {sqnr_text(errors)}"]
    return "\n".join(lines)


def _bands(names: list[str], step: float) -> list[Band]:
    bands, x = [], LEFT
    for part, members in groupby(names, key=part_of):
        width, name = step * len(list(members)), part.removeprefix("decoder.")
        bands.append(Band(round(x, 2), round(width, 2), name if width > 7 * len(name) else ""))
        x += width
    return bands
