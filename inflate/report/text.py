"""Values of documents as text for people, shared by every renderer."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_MEASURES = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "flicker": "flicker (grey levels)",
    "warped_flicker": "warped flicker (grey levels)",
}


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and the number of further ones."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def shape_text(shape: Iterable[int]) -> str:
    """A shape with sizes separated by spaces."""
    return " ".join(map(str, shape))


def sqnr_text(errors: Mapping[str, float | bool | None]) -> str:
    """A signal-to-noise ratio in dB; undefined for outputs that are equal or not finite."""
    if errors["sqnr_db"] is not None:
        return f"{errors['sqnr_db']:.0f} dB"
    return "equal" if errors["finite"] else "not finite"


def tolerance_text(document: Mapping[str, Any]) -> str:
    """The tolerance, as it was applied."""
    return "atol {atol:g}, rtol {rtol:g}".format(**document["tolerance"])


def multiple_text(document: Mapping[str, Any]) -> str | None:
    """The largest error as a multiple of the noise floor, in words; None if either is 0."""
    multiple = (document["floor"] or {}).get("multiple")
    if not multiple:
        return None
    number = f"{multiple:.3g}" if multiple < 1000 else f"{multiple:,.0f}"
    return f"{number} times the noise floor"


def limit_share(item: Mapping[str, Any], document: Mapping[str, Any]) -> float | None:
    """The largest error of a probe or layer divided by its limit: above 1 exactly if it fails.

    This is ``needed`` over the tolerance, which is exact if ``atol`` equals ``rtol``; otherwise a
    bound on the same side of 1 as the verdict. None if it is not finite or unknown.
    """
    needed: float | None = (item["errors"] or {}).get("needed")
    if not needed:
        return needed
    low, high = sorted((document["tolerance"]["atol"], document["tolerance"]["rtol"]))
    if item["verdict"] == "fail":
        return min(max(needed / high, 1.0 + 1e-9), sys.float_info.max) if high else None
    return min(needed / low, 1.0) if low else 1.0


def measure_text(measure: Mapping[str, Any]) -> str:
    """The name of a measure of quality, and its unit."""
    return _MEASURES[measure["name"]]


def quality_text(value: float | None) -> str:
    """A value of a measure of quality; PSNR is missing only for equal images."""
    return "infinite" if value is None else f"{value:.4g}"


def mean_texts(measure: Mapping[str, Any]) -> tuple[str, str]:
    """The means of the image decoder and of the video decoder."""
    image, video = (quality_text(measure[side]["mean"]) for side in ("reference", "candidate"))
    return image, video


def better_decoder(measure: Mapping[str, Any]) -> str:
    """The decoder with the better mean; ``equal`` if both print the same."""
    texts = mean_texts(measure)
    if texts[0] == texts[1]:
        return "equal"
    image, video = (
        math.inf if measure[side]["mean"] is None else measure[side]["mean"]
        for side in ("reference", "candidate")
    )
    more_is_better = measure["name"] in ("psnr", "ssim")
    return "image decoder" if (image > video) == more_is_better else "video decoder"
