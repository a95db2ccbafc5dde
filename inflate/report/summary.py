"""A parity document in words: its verdict, the reason, and what to do."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from inflate.display import counted, error_text, one_line
from inflate.report.text import listed, multiple_text, tolerance_text
from inflate.vocabulary import seems_trained

Document = dict[str, Any]
"""A parity report as ``inflate/parity-report/2``."""


def verdict_text(document: Mapping[str, Any]) -> str:
    """The verdict of a parity report or a batch job; empty for a job without one."""
    verdict: str = document["verdict"] or ""
    return f"{verdict} with the folded decoder" if _passed_folded(document) else verdict


def tone(document: Mapping[str, Any]) -> str:
    """The verdict for colours: equality with a folded decoder counts as within tolerance."""
    return "within-tolerance" if _passed_folded(document) else document["verdict"]


def _passed_folded(document: Mapping[str, Any]) -> bool:
    passed = document["verdict"] in ("bitwise", "within-tolerance")
    return passed and document["compared_with"] == "folded-reference"


def reason(document: Document) -> str:
    """The reason for the verdict in one sentence, or two if the reference was folded."""
    sentence, fold = _reason(document), document["fold"]
    if fold is not None:
        sentence += f" The fold itself changes the images by up to {error_text(fold['output'])}."
    return sentence


def _reason(document: Document) -> str:
    if (overflow := document["overflow"]) is not None:
        return (
            f"The image decoder itself overflows in {overflow['dtype']}, first in "
            f"{overflow['layer']}: there is nothing to compare with."
        )
    if document["verdict"] == "fail":
        return _why_it_fails(document)
    checked = counted(len(document["probes"]), "probe")
    if document["layers"]:
        checked += f" and {counted(len(document['layers']), 'layer')}"
    if document["trained"] is not None:
        return (
            "The spatial layers are still the image decoder's: all their tensors, and their "
            f"outputs on {checked}."
        )
    if document["verdict"] == "bitwise":
        reference, candidate = (document[side]["path"] for side in ("reference", "candidate"))
        alone = reference == candidate
        other = "its own image layers" if alone else one_line(PurePath(reference).name)
        folded = " (folded)" if document["fold"] is not None else ""
        return f"The outputs equal those of {other}{folded} bit for bit, on {checked}."
    multiple = multiple_text(document)
    return (
        f"The largest error on {checked} is {error_text(document['max_abs_error'])}, within the "
        f"tolerance of {tolerance_text(document)}{f'; that is {multiple}' if multiple else ''}."
    )


def _why_it_fails(document: Document) -> str:
    weights, largest, trained = document["weights"], document["max_abs_error"], document["trained"]
    failed = [probe["name"] for probe in failing(document["probes"])]
    if not failed and weights["different"]:
        return (
            f"The outputs agree, but {weights['different']} of {weights['compared']} copied "
            "tensors differ from their source."
        )
    if not failed and trained is not None:
        return f"Training did not leave a sound checkpoint: {'; '.join(trained['problems'])}."
    if largest is None:
        return f"The outputs are not finite on {listed(failed)}."
    return (
        f"The outputs differ by up to {error_text(largest)}, more than the tolerance of "
        f"{tolerance_text(document)}, on {listed(failed)}."
    )


def causes(document: Document) -> dict[str, list[str]]:
    """Possible causes of a failure by name, the most likely first."""
    first, weights = document["first_divergence"], document["weights"]
    source = other_source(document)
    # Training is expected to change temporal tensors.
    temporal = weights["temporal"] if document["trained"] is None else None
    found = {
        "Made from another checkpoint": [source] if source and weights["different"] else [],
        "Tensors that hold NaN or infinity": document["not_finite"],
        "Copied tensors that differ from the source": weights["names"],
        "Faulty temporal modules": guilty_modules(document),
        "Temporal tensors changed since the conversion": (temporal or {}).get("changed"),
        "First layer out of tolerance": [] if first is None else [first],
    }
    return {what: names for what, names in found.items() if names}


_REMEDIES = {
    "Tensors that hold NaN or infinity": "Convert the source again, or use a checkpoint from "
    "before its tensors became NaN or infinite.",
    "Copied tensors that differ from the source": "Convert the source again, or verify against "
    "the checkpoint that the copied tensors came from.",
    "Faulty temporal modules": "Look at the faulty temporal modules: with one of them disabled, "
    "the error is smaller.",
}
"""What to do about a cause."""


def other_source(document: Document) -> str | None:
    """The name of the candidate's source checkpoint, if it is not the reference."""
    source = document["recorded_source"]
    return None if source is None or source["given"] else source["name"] or "an unnamed file"


def advice(document: Document) -> list[str]:
    """What to do now, one sentence each; empty if all is well."""
    sentences = _about_the_outputs(document) if document["verdict"] == "fail" else []
    if missed := missed_damages(document):
        sentences.append(
            f"Do not rely on this verdict: the self-test did not detect {listed(missed)}."
        )
    for group in learning_groups(document):
        if group["learns"] == "never" and group["change"]:
            more = counted(len(group["names"]), "more temporal tensor")
            sentences.append(f"To let {more} learn, {group['change'].rstrip('.')}.")
    return sentences


def _about_the_outputs(document: Document) -> list[str]:
    if document["overflow"] is not None:
        return [f"Compute in a type that holds its numbers: --dtype {document['overflow']['use']}."]
    found = causes(document)
    sentences = [remedy for cause, remedy in _REMEDIES.items() if cause in found]
    if source := other_source(document):
        made_from = f"Verify against the checkpoint that the candidate was made from, {source}."
        sentences.insert(0, made_from)
    if sentences or document["trained"] is not None:
        return sentences
    if document["bisect"] is not None:
        return ["No single temporal module is at fault: look at the spatial layers."]
    paths = dict.fromkeys(document[side]["path"] for side in ("reference", "candidate"))
    command, weights = f"inflate verify {shlex.join(paths)}", document["weights"]
    temporal = weights["temporal"] or {"compared": 0, "changed": []}
    if not weights["different"] and seems_trained(len(temporal["changed"]), temporal["compared"]):
        return [f"If it was trained, check it as a trained file: {command} --trained"]
    return [f"Find the faulty temporal module: {command} --bisect"]


def guilty_modules(document: Document) -> list[str]:
    """The temporal modules that reduce the error when disabled."""
    bisect = document["bisect"] or {"suspects": []}
    return [suspect["name"] for suspect in bisect["suspects"] if suspect["guilty"]]


def quality_probes(document: Document) -> Sequence[Mapping[str, Any]]:
    """The probes of real frames whose quality was measured."""
    return (document["quality"] or {"probes": []})["probes"]  # type: ignore[no-any-return]


def missed_damages(document: Document) -> list[str]:
    """The corruptions that the self-test did not detect."""
    tried = document["self_test"] or {"damages": []}
    return [damage["name"] for damage in tried["damages"] if damage["caught_by"] is None]


def learning_counts(document: Document) -> dict[str, int] | None:
    """The number of temporal tensors that learn ``now``, from the ``next-step``, and ``never``."""
    if document["trainability"] is None:
        return None
    counts = Counter(tensor["learns"] for tensor in document["trainability"]["tensors"])
    return {when: counts[when] for when in ("now", "next-step", "never")}


def learning_groups(document: Document) -> list[dict[str, Any]]:
    """The temporal tensors grouped by when they learn, why, and what to change; ``never`` first."""
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    for tensor in (document["trainability"] or {"tensors": []})["tensors"]:
        what = {key: tensor[key] for key in ("learns", "reason", "change")}
        group = groups.setdefault(tuple(what.values()), {**what, "names": []})
        group["names"].append(tensor["name"])
    order = ("never", "next-step", "now")
    return sorted(groups.values(), key=lambda group: order.index(group["learns"]))


def failing(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The probes, parts or layers that fail."""
    return [item for item in items if item["verdict"] == "fail"]
