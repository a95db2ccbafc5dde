"""Positions for the plots of a page; templates draw them as SVG.

The axis for layers is the error divided by its limit, on a logarithmic scale: a layer within
tolerance is below the line at 1. There is a separate lane above for errors that are not finite,
and one below for equal outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from inflate.display import error_text
from inflate.report.summary import Document
from inflate.report.text import limit_share, measure_text, quality_text

LEFT, RIGHT, TOP = 76.0, 14.0, 20.0
LANE, STEP, LEAST, HEIGHT = 30.0, 10.0, 700.0, 180.0


def error_plot(document: Document) -> dict[str, Any] | None:
    """The plot of a document's layers; None if it has no layers.

    ``first`` marks the first layer out of tolerance.
    """
    layers = document["layers"]
    if not layers:
        return None
    shares = [limit_share(layer, document) for layer in layers]
    exponents = [math.log10(share) for share in shares if share]
    low = min(-2, math.floor(min(exponents, default=0)))
    high = max(1, math.ceil(max(exponents, default=0)))
    floor = TOP + LANE + HEIGHT
    step = max(LEAST / len(layers), STEP)

    def height(exponent: float) -> float:
        return round(floor - (exponent - low) / (high - low) * HEIGHT, 2)

    def height_of(share: float | None) -> float:
        if share is None:
            return TOP + LANE / 2
        return height(math.log10(share)) if share else floor + LANE / 2

    marks = [
        {
            "x": round(LEFT + (index + 0.5) * step, 2),
            "y": height_of(share),
            "verdict": layer["verdict"],
            "title": f"{layer['name']}: {error_text(share)} of its limit",
        }
        for index, (layer, share) in enumerate(zip(layers, shares, strict=True))
    ]
    names = [layer["name"] for layer in layers]
    first = document["first_divergence"]
    return {
        "width": round(LEFT + step * len(layers) + RIGHT, 2),
        "bottom": floor + LANE,
        "marks": marks,
        "ticks": [
            (height(decade), "1" if decade == 0 else f"1e{decade:+03d}")
            for decade in range(low, high + 1, max(1, (high - low) // 8))
        ],
        "lanes": [(height_of(None), "not finite"), (height_of(0.0), "0, equal")],
        "limit": height(0),
        "bands": _bands(names, step),
        "first": marks[names.index(first)] if first in names else None,
    }


def time_plot(measure: Mapping[str, Any]) -> dict[str, Any] | None:
    """The plot of a measure of quality over time; None if all values are null.

    ``frames`` has the positions and numbers of as many frames as fit.
    """
    sides = {"reference": "image decoder", "candidate": "video decoder"}
    numbers = {side: measure[side]["frames"] for side in sides}
    known = [value for values in numbers.values() for value in values if value is not None]
    if not known:
        return None
    middle: float = (min(known) + max(known)) / 2
    # Keep labels apart so that they do not read the same.
    half = max((max(known) - min(known)) / 2, abs(middle) / 1000) or 1.0
    bottom, count = TOP + HEIGHT, len(numbers["reference"])

    def x_of(frame: int) -> float:
        return round(LEFT + (frame + 0.5) * LEAST / count, 2)

    def y_of(value: float) -> float:
        return round(bottom - ((value - middle) / half + 1) / 2 * HEIGHT, 2)

    def title(frame: int) -> str:
        lines = [f"{name} {quality_text(numbers[side][frame])}" for side, name in sides.items()]
        return "\n".join([f"frame {frame}, {measure_text(measure)}", *lines])

    levels = [middle + half * share for share in (-1, -0.5, 0, 0.5, 1)]
    return {
        "width": LEFT + LEAST + RIGHT,
        "bottom": bottom,
        "ticks": [(y_of(level), f"{level:.5g}") for level in levels],
        "frames": [(x_of(frame), frame) for frame in range(0, count, -(-count // 16))],
        "lines": {
            side: [
                {"x": x_of(frame), "y": y_of(value), "title": title(frame)}
                for frame, value in enumerate(values)
                if value is not None
            ]
            for side, values in numbers.items()
        },
    }


def part_of(name: str) -> str:
    """The part of an autoencoder that a layer or tensor belongs to, such as ``decoder.up.3``."""
    steps = name.split(".")
    if steps[0] not in ("encoder", "decoder"):
        return steps[0]
    return ".".join(steps[: 3 if len(steps) > 3 and steps[2].isdecimal() else 2])


def _bands(names: list[str], step: float) -> list[tuple[float, float, str]]:
    """Position, width and name of each part of the decoder; no name if it does not fit."""
    bands, x = [], LEFT
    for part, members in groupby(names, key=part_of):
        width, name = step * len(list(members)), part.removeprefix("decoder.")
        bands.append((round(x, 2), round(width, 2), name if width > 7 * len(name) else ""))
        x += width
    return bands
