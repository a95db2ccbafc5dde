"""The measurements of a parity report as lines and rows for every renderer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from inflate.display import error_text
from inflate.report.summary import (
    Document,
    failing,
    guilty_modules,
    learning_counts,
    learning_groups,
    missed_damages,
    quality_probes,
)
from inflate.report.text import listed, mean_texts, measure_text, multiple_text, shape_text

PROBE_COLUMNS = (
    "probe", "latents", "frames", "verdict", "largest error", "worst at", "parts that fail"
)  # fmt: skip


class Fact(NamedTuple):
    """A part of a report in one line; ``alarm`` marks a problem."""

    name: str
    text: str
    alarm: bool = False


def facts(document: Document) -> Iterator[Fact]:
    """Other measurements, one line each."""
    if document["verdict"] == "fail" and any(probe["worst"] for probe in document["probes"]):
        yield Fact("worst at", "video, frame, channel, row, column, counted from 0")
    layers, bad = document["layers"], failing(document["layers"])
    if layers:
        yield Fact("layers", f"{len(layers)} compared, {len(bad)} out of tolerance", bool(bad))
    floor = document["floor"] or {}
    measured = [floor[key] for key in ("batch_layout", "float64") if floor.get(key) is not None]
    if measured:
        multiple = multiple_text(document)
        more = f"; the error is {multiple}" if multiple else ""
        yield Fact("noise floor", error_text(max(measured)) + more)
    weights = document["weights"]
    if weights["compared"]:
        different = weights["different"]
        text = f"{weights['compared']} compared, {different} different"
        yield Fact("weights", text, bool(different))
    if (temporal := weights["temporal"]) is not None:
        changed = temporal["changed"]
        named = f": {listed(changed)}" if changed else ""
        text = f"{temporal['compared']} compared, {len(changed)} changed since conversion{named}"
        yield Fact("temporal", text)
    if document["fold"] is not None:
        changes = {key: error_text(value) for key, value in document["fold"].items()}
        yield Fact(
            "fold",
            "post_quant_conv in conv_in changes its output by up to {border} on the border and "
            "{inside} inside, the images by up to {output}".format(**changes),
        )
    if (cast := document["cast"]) is not None:
        yield Fact(
            "cast",
            f"{cast['source_dtype']} to {cast['stored_dtype']} changes the image decoder's output "
            f"by up to {error_text(cast['max_abs_error'])}",
        )
    if document["bisect"] is not None:
        faulty = guilty_modules(document)
        yield Fact("bisect", f"faulty: {listed(faulty)}" if faulty else "no faulty module")
    yield from _learning(document)
    yield from _trained(document["trained"])
    for probe in quality_probes(document):
        means = [f"{measure_text(m)} {' -> '.join(mean_texts(m))}" for m in probe["measures"]]
        yield Fact(f"quality of {probe['probe']}, image -> video decoder", ", ".join(means))
    if document["self_test"] is not None:
        damages, missed = document["self_test"]["damages"], missed_damages(document)
        text = f"{len(damages) - len(missed)} of {len(damages)} corruptions detected"
        more = f"; not detected: {', '.join(missed)}" if missed else ""
        yield Fact("self-test", text + more, bool(missed))


def _learning(document: Document) -> Iterator[Fact]:
    if (counts := learning_counts(document)) is None:
        return
    yield Fact(
        "temporal layers",
        f"{counts['now']} tensors learn now, {counts['next-step']} from the next step, "
        f"{counts['never']} never",
    )
    for group in learning_groups(document):
        if group["learns"] == "never":
            names = group["names"]
            text = f"{group['reason']}: {listed(names)}"
            yield Fact(f"never, {len(names)}", text, bool(group["change"]))


def _trained(trained: Mapping[str, Any] | None) -> Iterator[Fact]:
    if trained is None:
        return
    for problem in trained["problems"]:
        yield Fact("trained", problem, alarm=True)
    yield Fact(
        "trained",
        f"with temporal layers, outputs differ by at most "
        f"{error_text(trained['max_abs_difference'])} "
        f"(relative RMS {error_text(trained['relative_difference'])})",
    )
    for part in trained["movements"]:
        far = f"{error_text(part['distance'])} from the start"
        if part["relative"] is not None:
            far += f", {100 * part['relative']:.2g} % of its norm"
        yield Fact(
            f"trained {part['part']}", f"{part['moved']} of {part['tensors']} tensors moved, {far}"
        )


def _failing_parts(parts: list[dict[str, Any]]) -> str:
    bad = [part["name"] for part in failing(parts)]
    return "all" if len(bad) == len(parts) > 1 else listed(bad, 1)


def probe_rows(document: Document) -> list[tuple[str, ...]]:
    """A row of ``PROBE_COLUMNS`` per probe; places of errors are counted from 0."""
    return [
        (
            probe["name"],
            shape_text(probe["shape"]),
            str(probe["frames"]),
            probe["verdict"],
            error_text(probe["max_abs_error"]),
            ",".join(map(str, (probe["worst"] or {}).values())),
            _failing_parts(probe["parts"]),
        )
        for probe in document["probes"]
    ]
