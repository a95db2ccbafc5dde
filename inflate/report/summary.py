"""A parity document in words: why the verdict is what it is, and what to do about it."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from inflate.report.text import counted, error_text, named, plain

Document = dict[str, Any]
"""A parity report as ``inflate/parity-report/2``."""

Render = Callable[[str], str]
"""Renders a sentence in which names are marked (:func:`inflate.report.text.named`)."""


def verdict_text(document: Mapping[str, Any]) -> str:
    """The verdict of a parity report or of a batch job, empty for a job without one."""
    verdict: str = document["verdict"] or ""
    return f"{verdict} with the folded decoder" if _passed_folded(document) else verdict


def tone(document: Mapping[str, Any]) -> str:
    """The verdict whose colour is shown: equal to a folded decoder is only close."""
    return "within-tolerance" if _passed_folded(document) else document["verdict"]


def _passed_folded(document: Mapping[str, Any]) -> bool:
    passed = document["verdict"] in ("bitwise", "within-tolerance")
    return passed and document["compared_with"] == "folded-reference"


def fold_text(document: Document) -> str | None:
    """What the fold itself changes, in a clause; None where nothing was folded."""
    if document["fold"] is None:
        return None
    return f"the fold itself changes the images by up to {error_text(document['fold']['output'])}"


def reason(document: Document, render: Render = plain) -> str:
    """Why the verdict is what it is, in one sentence; in two where the reference was folded."""
    fold = fold_text(document)
    return render(_reason(document) + (f" {fold[0].upper()}{fold[1:]}." if fold else ""))


def _reason(document: Document) -> str:
    overflow = document["overflow"]
    if overflow is not None:
        return (
            f"The image decoder itself overflows in {overflow['dtype']}, first in "
            f"{named(overflow['layer'])}: there is nothing to compare with."
        )
    if document["verdict"] == "fail":
        return _why_it_fails(document)
    checked = counted(len(document["probes"]), "probe")
    if document["layers"]:
        checked += f" and {counted(len(document['layers']), 'layer')}"
    if document.get("trained") is not None:
        return (
            "The spatial layers are still the image decoder's: all their tensors, and their "
            f"outputs on {checked}."
        )
    if document["verdict"] == "bitwise":
        folded = "folded " if document["fold"] is not None else ""
        return f"The outputs equal those of the {folded}image decoder bit for bit, on {checked}."
    multiple = multiple_text(document)
    return (
        f"The largest error on {checked} is {error_text(document['max_abs_error'])}, within the "
        f"tolerance of {tolerance_text(document)}{f'; that is {multiple}' if multiple else ''}."
    )


def _why_it_fails(document: Document) -> str:
    weights, largest = document["weights"], document["max_abs_error"]
    failed = [probe["name"] for probe in failing(document["probes"])]
    if not failed and weights["different"]:
        return (
            f"The outputs agree, but {weights['different']} of {weights['compared']} copied "
            "tensors differ from their source."
        )
    trained = document.get("trained")
    if not failed and trained is not None:
        return f"Training did not leave a sound checkpoint: {'; '.join(trained['problems'])}."
    if largest is None:
        return f"The outputs are not finite on {_listed(failed)}."
    return (
        f"The outputs differ by up to {error_text(largest)}, more than the tolerance of "
        f"{tolerance_text(document)}, on {_listed(failed)}."
    )


def causes(document: Document) -> dict[str, list[str]]:
    """Layers, modules and tensors that explain a verdict, by what is wrong with them."""
    first, weights = document["first_divergence"], document["weights"]
    temporal = weights["temporal"] or {"changed": []}
    found = {
        "First layer out of tolerance": [] if first is None else [first],
        "Faulty temporal modules": guilty_modules(document),
        "Copied tensors that differ from the source": weights["names"],
        "Temporal tensors changed since the conversion": temporal["changed"],
    }
    return {what: names for what, names in found.items() if names}


def advice(document: Document, render: Render = plain) -> list[str]:
    """What to do now, a sentence each; nothing where all is well."""
    sentences = _about_the_outputs(document)
    if missed := missed_damages(document):
        sentences.append(
            f"Do not rely on this verdict: the self-test did not detect {_listed(missed)}."
        )
    tensors = (document["trainability"] or {"tensors": []})["tensors"]
    changes = Counter(t["change"] for t in tensors if t["learns"] == "never" and t["change"])
    sentences += [
        f"To let {counted(count, 'more temporal tensor')} learn, {change.rstrip('.')}."
        for change, count in changes.items()
    ]
    return list(map(render, sentences))


def _about_the_outputs(document: Document) -> list[str]:
    if document["overflow"] is not None:
        return [f"Compute in a type that holds its numbers: --dtype {document['overflow']['use']}."]
    if document["verdict"] != "fail":
        return []
    if bad := document.get("not_finite"):
        return [
            f"Convert the source again, or take a checkpoint from before {_listed(bad)} became NaN "
            "or infinite."
        ]
    found = []
    # Documents of earlier versions lack it.
    source = document.get("recorded_source")
    if source is not None and not source["given"]:
        found.append(
            f"Verify against the checkpoint that the candidate was made from, "
            f"{named(source['name'])}; the reference holds other weights."
        )
    weights, faulty = document["weights"], guilty_modules(document)
    if weights["different"]:
        found.append(
            "Convert the source again, or verify against the checkpoint that the copied tensors "
            f"came from: {_listed(weights['names'])} "
            f"{'differs' if weights['different'] == 1 else 'differ'}."
        )
    if faulty:
        found.append(
            f"Look at {_listed(faulty)}: with "
            f"{'it' if len(faulty) == 1 else 'one of them'} disabled, the error is smaller."
        )
    elif document["bisect"] is not None:
        found.append("No single temporal module is at fault: look at the spatial layers.")
    elif not weights["different"] and document.get("trained") is None:
        found.append("Run again with --bisect to find the faulty temporal module.")
    return found


def guilty_modules(document: Document) -> list[str]:
    """The temporal modules without which the error is smaller."""
    bisect = document["bisect"] or {"suspects": []}
    return [suspect["name"] for suspect in bisect["suspects"] if suspect["guilty"]]


_MEASURES = {
    "psnr": ("PSNR (dB)", max),
    "ssim": ("SSIM", max),
    "lpips": ("LPIPS", min),
    "flicker": ("flicker (grey levels)", min),
    "warped_flicker": ("warped flicker (grey levels)", min),
}
"""The measures of quality: their names, and which of two values is better."""

_SIDES = ("reference", "candidate")


def quality_probes(document: Document) -> list[dict[str, Any]]:
    """The probes of real frames whose quality was measured."""
    # Documents of earlier versions lack it.
    return (document.get("quality") or {"probes": []})["probes"]  # type: ignore[no-any-return]


def measure_text(measure: Mapping[str, Any]) -> str:
    """The name of a measure of quality, and its unit."""
    return _MEASURES[measure["name"]][0]


def quality_text(value: float | None) -> str:
    """A value of a measure of quality; only equal images have no PSNR."""
    return "infinite" if value is None else f"{value:.4g}"


def mean_texts(measure: Mapping[str, Any]) -> tuple[str, str]:
    """The means of the image decoder and of the video decoder."""
    image, video = (quality_text(measure[side]["mean"]) for side in _SIDES)
    return image, video


def better_decoder(measure: Mapping[str, Any]) -> str:
    """The decoder whose mean is better; ``equal`` where both are the same as printed."""
    texts = mean_texts(measure)
    if texts[0] == texts[1]:
        return "equal"
    image, video = (
        math.inf if measure[side]["mean"] is None else measure[side]["mean"] for side in _SIDES
    )
    best = _MEASURES[measure["name"]][1](image, video)
    return "image decoder" if best == image else "video decoder"


def missed_damages(document: Document) -> list[str]:
    """The damages that the self-test did not detect."""
    tried = document["self_test"] or {"damages": []}
    return [damage["name"] for damage in tried["damages"] if damage["caught_by"] is None]


def learning_counts(document: Document) -> dict[str, int] | None:
    """How many temporal tensors learn ``now``, from the ``next-step`` on, and ``never``."""
    if document["trainability"] is None:
        return None
    counts = Counter(tensor["learns"] for tensor in document["trainability"]["tensors"])
    return {when: counts[when] for when in ("now", "next-step", "never")}


def learning_text(counts: Mapping[str, int]) -> str:
    """How many temporal tensors learn when, in a line."""
    return (
        f"temporal layers: {counts['now']} tensors learn now, {counts['next-step']} from the next "
        f"step, {counts['never']} never"
    )


def never_learning(document: Document) -> dict[str, list[dict[str, Any]]]:
    """The temporal tensors that never learn, by the reason."""
    found: dict[str, list[dict[str, Any]]] = {}
    for tensor in (document["trainability"] or {"tensors": []})["tensors"]:
        if tensor["learns"] == "never":
            found.setdefault(tensor["reason"], []).append(tensor)
    return found


def failing(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of some probes, parts or layers that fail."""
    return [item for item in items if item["verdict"] == "fail"]


def floor_of(document: Document) -> float | None:
    """The noise floor: the larger of what was measured; None where nothing was."""
    floor = document["floor"] or {}
    known = [floor[key] for key in ("batch_layout", "float64") if floor.get(key) is not None]
    return max(known, default=None)


def multiple_text(document: Document) -> str | None:
    """The largest error as a multiple of the noise floor, in words; None where either is 0."""
    multiple = (document["floor"] or {}).get("multiple")
    if not multiple:
        return None
    number = f"{multiple:.3g}" if multiple < 1000 else f"{multiple:,.0f}"
    return f"{number} times the noise floor"


def limit_share(item: Mapping[str, Any], document: Document) -> float | None:
    """The largest error of a probe or layer over its limit: above 1 exactly where it fails.

    ``needed`` over the tolerance, which is exact where ``atol`` equals ``rtol``. Where they differ,
    the bound that lies on the verdict's side of 1. None where it is not finite or not known.
    """
    needed = (item["errors"] or {}).get("needed")
    if not needed:
        return needed
    low, high = sorted((document["tolerance"]["atol"], document["tolerance"]["rtol"]))
    if item["verdict"] == "fail":
        return min(max(needed / high, 1.0 + 1e-9), sys.float_info.max) if high else None
    return min(needed / low, 1.0) if low else 1.0


def tolerance_text(document: Document) -> str:
    """The tolerance, as it was applied."""
    return "atol {atol:g}, rtol {rtol:g}".format(**document["tolerance"])


def place_text(worst: dict[str, int] | None) -> str:
    """Where the largest error sits, counted from 0; empty where all is equal."""
    return ", ".join(f"{axis} {place}" for axis, place in (worst or {}).items())


def _listed(names: list[str], most: int = 3) -> str:
    shown = ", ".join(map(named, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
