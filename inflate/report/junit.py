"""A parity document as JUnit's XML: a case a probe, a case a layer, one for the weights."""

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


def as_junit(document: Document) -> str:
    """A document as JUnit's XML; of what fails, the numbers. Times are left out: none is known."""
    suites = ET.Element("testsuites", name="inflate")
    suite = ET.SubElement(suites, "testsuite", name="parity")
    _add_properties(suite, document)
    for probe in document["probes"]:
        _add_case(suite, "probes", probe["name"], _probe_failure(probe, document))
    for layer in document["layers"]:
        _add_case(suite, "layers", layer["name"], _layer_failure(layer))
    _add_case(suite, "weights", "copied tensors", _weights_failure(document["weights"]))
    if document["verdict"] == "fail" and not suite.findall(".//failure"):
        # Whatever is the reason: what fails for the shell fails here.
        _add_case(suite, "verdict", "verdict", (reason(document), ""))
    missed = missed_damages(document)
    if document["self_test"] is not None:
        said = ("not noticed: " + ", ".join(missed), "") if missed else None
        _add_case(suite, "self-test", "the check notices damages", said)
    _add(suite, "system-out", "\n".join([reason(document), *advice(document), *document["notes"]]))
    tests, failures = len(suite.findall("testcase")), len(suite.findall(".//failure"))
    for element in (suites, suite):
        for name, number in (("tests", tests), ("failures", failures), ("errors", 0)):
            element.set(name, str(number))
    suite.set("skipped", "0")
    ET.indent(suites)
    return ET.tostring(suites, "unicode", xml_declaration=False, short_empty_elements=True) + "\n"


def _add_properties(suite: ET.Element, document: Document) -> None:
    values = {
        "verdict": document["verdict"],
        "compared_with": document["compared_with"],
        "max_abs_error": error_text(document["max_abs_error"]),
        "tolerance": tolerance_text(document),
        **{f"fold.{key}": error_text(value) for key, value in (document["fold"] or {}).items()},
        **{f"environment.{key}": value for key, value in document["environment"].items()},
        **{
            f"{side}.{key}": document[side][key]
            for side in ("reference", "candidate")
            for key in ("path", "fingerprint")
        },
    }
    properties = ET.SubElement(suite, "properties")
    for name, value in values.items():
        ET.SubElement(properties, "property", name=name, value=_clean(_said(value)))


def _said(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)


def _add_case(suite: ET.Element, group: str, name: str, failure: tuple[str, str] | None) -> None:
    case = ET.SubElement(suite, "testcase", classname=f"inflate.{group}", name=_clean(name))
    if failure is not None:
        message, details = map(_clean, failure)
        ET.SubElement(case, "failure", message=message, type="parity").text = details


def _probe_failure(probe: dict[str, Any], document: Document) -> tuple[str, str] | None:
    if probe["verdict"] != "fail":
        return None
    parts = [
        f"{part['name']}: {error_text(part['max_abs_error'])}" for part in failing(probe["parts"])
    ]
    details = [
        f"latents {shape_text(probe['shape'])}, {counted(probe['frames'], 'frame')} a video",
        f"tolerance {tolerance_text(document)}",
        *_numbers(probe["errors"]),
        *([f"worst at {place_text(probe['worst'])}"] if probe["worst"] else []),
        *([f"parts that fail: {', '.join(parts)}"] if parts else []),
    ]
    return f"largest error {error_text(probe['max_abs_error'])}", "\n".join(details)


def _layer_failure(layer: dict[str, Any]) -> tuple[str, str] | None:
    if layer["verdict"] != "fail":
        return None
    errors = layer["errors"]
    return (
        f"largest error {error_text(errors['max_abs'])}",
        "\n".join([layer["kind"], *_numbers(errors)]),
    )


def _numbers(errors: dict[str, Any] | None) -> list[str]:
    if errors is None:
        return []
    return [
        f"mean {error_text(errors['mean_abs'])}, p99 {error_text(errors['p99_abs'])}, "
        f"SQNR {sqnr_text(errors)}",
        f"would pass with atol and rtol {error_text(errors['needed'])}"
        if errors["needed"] is not None
        else "no tolerance would pass",
    ]


def _weights_failure(weights: dict[str, Any]) -> tuple[str, str] | None:
    if not weights["different"]:
        return None
    message = f"{weights['different']} of {weights['compared']} tensors differ from their source"
    return message, "\n".join(weights["names"])


def _add(parent: ET.Element, tag: str, text: str) -> None:
    ET.SubElement(parent, tag).text = _clean(text)


def _clean(text: str) -> str:
    """A text that XML can hold: it knows no control characters, however they are written."""
    return printable(text)
