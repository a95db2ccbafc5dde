"""A parity document as JUnit's XML: one case per probe, layers as properties."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from inflate.errors import printable
from inflate.report.summary import (
    Document,
    advice,
    failing,
    mean_texts,
    missed_damages,
    place_text,
    quality_probes,
    reason,
    tolerance_text,
)
from inflate.report.text import counted, error_text, shape_text, sqnr_text

Failure = tuple[str, list[str]]
"""A message, and the lines behind it."""


def as_junit(document: Document) -> str:
    """A document as JUnit's XML; times are left out, since none is known."""
    weights, missed = document["weights"], missed_damages(document)
    different = weights["different"]
    message = f"{different} of {weights['compared']} tensors differ from their source"
    cases: list[tuple[str, Failure | None]] = [
        *((f"probe {p['name']}", _probe_failure(p, document)) for p in document["probes"]),
        ("copied tensors", (message, weights["names"]) if different else None),
    ]
    if document["self_test"] is not None:
        cases.append(("self-test", (f"not detected: {', '.join(missed)}", []) if missed else None))
    if document["verdict"] == "fail" and not any(failure for _, failure in cases):
        # Whatever the reason: what fails for the shell fails here.
        cases.append(("verdict", (reason(document), [])))
    failures = sum(failure is not None for _, failure in cases)
    counts = {"tests": str(len(cases)), "failures": str(failures), "errors": "0"}
    suites = ET.Element("testsuites", {"name": "inflate", **counts})
    suite = ET.SubElement(suites, "testsuite", {"name": "parity", "skipped": "0", **counts})
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(document).items():
        ET.SubElement(properties, "property", name=dotless(name), value=printable(value))
    for name, failure in cases:
        case = ET.SubElement(suite, "testcase", classname="inflate parity", name=dotless(name))
        if failure is not None:
            message, details = failure
            element = ET.SubElement(case, "failure", message=printable(message), type="parity")
            element.text = printable("\n".join(details))
    lines = [reason(document), *advice(document), *document["notes"]]
    ET.SubElement(suite, "system-out").text = printable("\n".join(lines))
    ET.indent(suites)
    return ET.tostring(suites, "unicode") + "\n"


def dotless(name: str) -> str:
    """A name without dots, of which readers of JUnit's XML make a hierarchy."""
    return printable(name).replace(".", "/")


def _properties(document: Document) -> dict[str, str]:
    parts = {
        name: document[name] or {} for name in ("fold", "environment", "reference", "candidate")
    }
    values = {
        **{key: document[key] for key in ("verdict", "compared_with", "first_divergence")},
        "max_abs_error": error_text(document["max_abs_error"]),
        "tolerance": tolerance_text(document),
        **{f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()},
    }
    layers = {
        f"layer.{layer['name']}": f"{layer['verdict']}: {error_text(layer['errors']['max_abs'])}"
        for layer in document["layers"]
    }
    quality = {
        f"quality.{probe['probe']}.{measure['name']}.{side}": text
        for probe in quality_probes(document)
        for measure in probe["measures"]
        for side, text in zip(("reference", "candidate"), mean_texts(measure), strict=True)
    }
    plain = {True: "true", False: "false", None: ""}
    return (
        {
            name: str(value) if isinstance(value, (str, float)) else plain[value]
            for name, value in values.items()
        }
        | layers
        | quality
    )


def _probe_failure(probe: dict[str, Any], document: Document) -> Failure | None:
    if probe["verdict"] != "fail":
        return None
    bad = [
        f"{part['name']}: {error_text(part['max_abs_error'])}" for part in failing(probe["parts"])
    ]
    details = [
        f"latents {shape_text(probe['shape'])}, {counted(probe['frames'], 'frame')} per video",
        f"tolerance {tolerance_text(document)}",
        *([_numbers(probe["errors"])] if probe["errors"] else []),
        *([f"worst at {place_text(probe['worst'])}"] if probe["worst"] else []),
        *([f"parts that fail: {', '.join(bad)}"] if bad else []),
    ]
    return f"largest error {error_text(probe['max_abs_error'])}", details


def _numbers(errors: dict[str, Any]) -> str:
    mean, p99, needed = (error_text(errors[key]) for key in ("mean_abs", "p99_abs", "needed"))
    passing = needed if errors["finite"] else "none"
    return f"mean {mean}, p99 {p99}, SQNR {sqnr_text(errors)}, passing atol and rtol {passing}"
