"""A parity document as JUnit's XML: one case per probe, layers as properties."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from inflate.errors import printable
from inflate.report.summary import (
    Document,
    advice,
    failing,
    missed_damages,
    place_text,
    reason,
    tolerance_text,
)
from inflate.report.text import counted, error_text, shape_text, sqnr_text

Failure = tuple[str, list[str]]
"""A message, and the lines behind it."""


def as_junit(document: Document) -> str:
    """A document as JUnit's XML; times are left out, since none is known.

    Readers make a hierarchy of dots, so names have none.
    """
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
        ET.SubElement(properties, "property", name=_dotless(name), value=printable(value))
    for name, failure in cases:
        case = ET.SubElement(suite, "testcase", classname="inflate parity", name=_dotless(name))
        if failure is not None:
            message, details = failure
            element = ET.SubElement(case, "failure", message=printable(message), type="parity")
            element.text = printable("\n".join(details))
    lines = [reason(document), *advice(document), *document["notes"]]
    ET.SubElement(suite, "system-out").text = printable("\n".join(lines))
    ET.indent(suites)
    return ET.tostring(suites, "unicode") + "\n"


def _dotless(name: str) -> str:
    return printable(name).replace(".", "/")


def _properties(document: Document) -> dict[str, str]:
    values = {
        "verdict": document["verdict"],
        "compared_with": document["compared_with"],
        "max_abs_error": error_text(document["max_abs_error"]),
        "tolerance": tolerance_text(document),
        "first_divergence": document["first_divergence"],
        **{f"fold.{key}": error_text(value) for key, value in (document["fold"] or {}).items()},
        **{f"environment.{key}": value for key, value in document["environment"].items()},
        **{
            f"{side}.{key}": value
            for side in ("reference", "candidate")
            for key, value in document[side].items()
        },
        **{
            f"layer.{layer['name']}": ": ".join(
                (layer["verdict"], error_text(layer["errors"]["max_abs"]))
            )
            for layer in document["layers"]
        },
    }
    return {
        name: str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
        for name, value in values.items()
    }


def _probe_failure(probe: dict[str, Any], document: Document) -> Failure | None:
    if probe["verdict"] != "fail":
        return None
    parts = ", ".join(f"{part['name']}: {error_text(part['max_abs_error'])}"
                      for part in failing(probe["parts"]))  # fmt: skip
    details = [
        f"latents {shape_text(probe['shape'])}, {counted(probe['frames'], 'frame')} per video",
        f"tolerance {tolerance_text(document)}",
        *_numbers(probe["errors"]),
        *([f"worst at {place_text(probe['worst'])}"] if probe["worst"] else []),
        *([f"parts that fail: {parts}"] if parts else []),
    ]
    return f"largest error {error_text(probe['max_abs_error'])}", details


def _numbers(errors: dict[str, Any] | None) -> list[str]:
    if errors is None:
        return []
    mean, p99 = error_text(errors["mean_abs"]), error_text(errors["p99_abs"])
    needed = errors["needed"]
    return [
        f"mean {mean}, p99 {p99}, SQNR {sqnr_text(errors)}",
        "no tolerance would pass"
        if needed is None
        else f"would pass with atol and rtol {error_text(needed)}",
    ]
