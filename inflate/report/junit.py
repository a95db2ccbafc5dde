"""A parity document as JUnit XML: one case per probe, facts and layers as properties."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator

from inflate.display import error_text
from inflate.errors import printable
from inflate.report.facts import PROBE_COLUMNS, facts, probe_rows
from inflate.report.summary import (
    Document,
    advice,
    missed_damages,
    quality_probes,
    reason,
    verdict_text,
)
from inflate.report.text import mean_texts, tolerance_text

Failure = tuple[str, list[str]]
"""A message, and its detail lines."""


def as_junit(document: Document) -> str:
    """A document as JUnit XML; times are left out because they are unknown."""
    weights, missed = document["weights"], missed_damages(document)
    different = weights["different"]
    cases: list[tuple[str, Failure | None]] = []
    for row in probe_rows(document):
        details = [f"{name}: {cell}" for name, cell in zip(PROBE_COLUMNS, row, strict=True) if cell]
        failed = "fail" in row
        cases.append((f"probe {row[0]}", ("out of tolerance", details) if failed else None))
    message = f"{different} of {weights['compared']} tensors differ from their source"
    cases.append(("copied tensors", (message, weights["names"]) if different else None))
    if document["self_test"] is not None:
        cases.append(("self-test", (f"not detected: {', '.join(missed)}", []) if missed else None))
    if document["verdict"] == "fail" and not any(failure for _, failure in cases):
        # If the command fails, this file must have a failure too.
        cases.append(("verdict", (reason(document), [])))
    failures = sum(failure is not None for _, failure in cases)
    counts = {"tests": str(len(cases)), "failures": str(failures), "errors": "0"}
    suites = ET.Element("testsuites", {"name": "inflate", **counts})
    suite = ET.SubElement(suites, "testsuite", {"name": "parity", "skipped": "0", **counts})
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(document):
        ET.SubElement(properties, "property", name=dotless(name), value=printable(str(value)))
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
    """A name without dots: readers of JUnit XML split names at dots."""
    return printable(name).replace(".", "/")


def _properties(document: Document) -> Iterator[tuple[str, object]]:
    yield "verdict", verdict_text(document)
    yield "largest error", error_text(document["max_abs_error"])
    yield "tolerance", tolerance_text(document)
    for side in ("reference", "candidate"):
        yield side, document[side]["path"]
    yield from document["environment"].items()
    yield from ((fact.name, fact.text) for fact in facts(document))
    for layer in document["layers"]:
        error = error_text(layer["errors"]["max_abs"])
        yield f"layer.{layer['name']}", f"{layer['verdict']}: {error}"
    for probe in quality_probes(document):
        for measure in probe["measures"]:
            for side, text in zip(("reference", "candidate"), mean_texts(measure), strict=True):
                yield f"quality.{probe['probe']}.{measure['name']}.{side}", text
