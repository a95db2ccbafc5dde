"""What a parity document says in words: why the verdict is what it is, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from inflate.report.text import counted, error_text

PARITY_SCHEMA = "inflate/parity-report/1"

Document = dict[str, Any]
"""A parity report as ``inflate/parity-report/1``."""


def verdict_text(document: Mapping[str, Any]) -> str:
    """The verdict of a parity report or of a job of a batch, and what it is of if that was folded.

    Empty for a job without one.
    """
    verdict: str = document["verdict"] or ""
    return f"{verdict} with the folded decoder" if _passed_folded(document) else verdict


def tone(document: Mapping[str, Any]) -> str:
    """The verdict whose colour and sign are shown: equal to a folded decoder is only close."""
    return "within-tolerance" if _passed_folded(document) else document["verdict"]


def fold_text(document: Document) -> str | None:
    """What the fold itself changes, in a clause; None where nothing was folded."""
    if document["fold"] is None:
        return None
    return f"the fold itself changes the images by up to {error_text(document['fold']['output'])}"


def _passed_folded(document: Mapping[str, Any]) -> bool:
    passed = document["verdict"] in ("bitwise", "within-tolerance")
    return passed and document["compared_with"] == "folded-reference"


def reason(document: Document) -> str:
    """Why the verdict is what it is, in one sentence; in two where the reference was folded."""
    fold = fold_text(document)
    return _reason(document) + (f" {fold[0].upper()}{fold[1:]}." if fold else "")


def _reason(document: Document) -> str:
    if document["overflow"] is not None:
        overflow = document["overflow"]
        return (
            f"The image decoder itself overflows in {overflow['dtype']}, first in "
            f"{overflow['layer']}: there is nothing to be equal to."
        )
    if document["verdict"] == "fail":
        return _why_it_fails(document)
    checked = counted(len(document["probes"]), "probe")
    if document["layers"]:
        checked += f" and {counted(len(document['layers']), 'layer')}"
    if document["verdict"] == "bitwise":
        folded = "folded " if document["fold"] is not None else ""
        return (
            f"The video decoder's outputs equal the {folded}image decoder's, bit for bit, on "
            f"{checked}."
        )
    text = (
        f"The largest error on {checked} is {error_text(document['max_abs_error'])}, within the "
        f"tolerance of {tolerance_text(document)}"
    )
    return f"{text}; that is {multiple}." if (multiple := multiple_text(document)) else f"{text}."


def _why_it_fails(document: Document) -> str:
    weights = document["weights"]
    failed = [probe["name"] for probe in failing(document["probes"])]
    if not failed and weights["different"]:
        return (
            f"The outputs agree, but {weights['different']} of {weights['compared']} copied "
            "tensors differ from their source."
        )
    first = document["first_divergence"]
    where = f"; {first} is the first layer that differs" if first is not None else ""
    if document["max_abs_error"] is None:
        return f"The outputs are not finite, on {_listed(failed)}{where}."
    return (
        f"The outputs differ by up to {error_text(document['max_abs_error'])}, more than the "
        f"tolerance of {tolerance_text(document)}, on {_listed(failed)}{where}."
    )


def advice(document: Document) -> list[str]:
    """What to do now, a sentence each; nothing where all is well."""
    return [
        *_about_the_outputs(document),
        *_about_the_check(document),
        *_about_learning(document),
    ]


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
    told = []
    # The ledgers of earlier versions hold documents without it.
    source = document.get("recorded_source")
    if source is not None and not source["given"]:
        told.append(
            f"Verify against the source that the candidate's header names, {source['name']} "
            f"(SHA-256 {source['sha256']}): the reference is another file."
        )
    weights, bisect = document["weights"], document["bisect"]
    if weights["different"]:
        names = _listed(weights["names"])
        told.append(
            f"Convert the source anew, or verify against the checkpoint that the copied tensors "
            f"came from: {names} {'differs' if weights['different'] == 1 else 'differ'}."
        )
    guilty = guilty_modules(document)
    if guilty:
        told.append(
            f"Look at {_listed(guilty)}: made an identity, "
            f"{'it leaves' if len(guilty) == 1 else 'each leaves'} a smaller error."
        )
    elif bisect is not None:
        told.append("No temporal module alone is guilty: look at the spatial layers.")
    elif not weights["different"]:
        told.append("Run again with --bisect: it names the temporal module that is to blame.")
    return told


def _about_the_check(document: Document) -> list[str]:
    missed = missed_damages(document)
    if not missed:
        return []
    return [f"Do not rely on this verdict: the check's own test did not notice {_listed(missed)}."]


def _about_learning(document: Document) -> list[str]:
    if document["trainability"] is None:
        return []
    changes = Counter(
        tensor["change"]
        for tensor in document["trainability"]["tensors"]
        if tensor["learns"] == "never" and tensor["change"]
    )
    return [
        f"To let {counted(count, 'more temporal tensor')} learn, {change.rstrip('.')}."
        for change, count in changes.items()
    ]


def guilty_modules(document: Document) -> list[str]:
    """The temporal modules without which the error is smaller."""
    bisect = document["bisect"]
    return [] if bisect is None else [s["name"] for s in bisect["suspects"] if s["guilty"]]


def missed_damages(document: Document) -> list[str]:
    """The damages that the check's own test did not notice."""
    tried = document["self_test"]
    if tried is None:
        return []
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
    floor = document["floor"]
    if floor is None:
        return None
    known = [floor[key] for key in ("batch_layout", "float64") if floor[key] is not None]
    return max(known, default=None)


def multiple_text(document: Document) -> str | None:
    """The largest error as a multiple of the noise floor, in words; None where either is 0."""
    floor = document["floor"]
    if floor is None or not floor["multiple"]:
        return None
    multiple = floor["multiple"]
    number = f"{multiple:.3g}" if multiple < 1000 else f"{multiple:,.0f}"
    return f"{number} times the noise floor"


def tolerance_text(document: Document) -> str:
    """The tolerance, as it was applied."""
    return "atol {atol:g}, rtol {rtol:g}".format(**document["tolerance"])


def place_text(worst: dict[str, int] | None) -> str:
    """Where the largest error sits, counted from 0; empty where all is equal."""
    if worst is None:
        return ""
    return "video {video}, frame {frame}, channel {channel}, row {row}, column {column}".format(
        **worst
    )


def _listed(names: list[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
