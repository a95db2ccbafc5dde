"""JUnit: a case a probe, a case a layer and one for the weights; counts that add up."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from inflate.report.documents import parity_document
from inflate.report.junit import as_junit

from .building import BARE, FIRST, REPORTS, document_of


def cases(suite: ET.Element, group: str) -> dict[str, ET.Element | None]:
    """The cases of a group, and their failures."""
    found = [c for c in suite.findall("testcase") if c.get("classname") == f"inflate.{group}"]
    return {case.get("name", ""): case.find("failure") for case in found}


def suite_of(text: str) -> ET.Element:
    """The one suite of a document, whose counts are checked."""
    suites = ET.fromstring(text)
    assert suites.tag == "testsuites"
    (suite,) = suites
    assert [child.tag for child in suite][0::1][0] == "properties"
    assert {child.tag for child in suite} == {"properties", "testcase", "system-out"}
    for element in (suites, suite):
        assert int(element.get("tests", "")) == len(suite.findall("testcase"))
        assert int(element.get("failures", "")) == len(suite.findall("testcase/failure"))
        assert element.get("errors") == "0"
    return suite


@pytest.mark.parametrize("name", REPORTS)
def test_its_structure(name: str) -> None:
    report, suite = REPORTS[name], suite_of(as_junit(document_of(name)))
    names = [case.get("classname") for case in suite.findall("testcase")]
    assert names.count("inflate.probes") == len(report.probes)
    assert names.count("inflate.layers") == len(report.layers)
    assert names.count("inflate.weights") == 1
    failed = suite.find("testcase/failure") is not None
    missed = report.self_test is not None and not report.self_test.passed
    assert failed == (report.verdict == "fail" or missed)


def test_failures_have_the_numbers() -> None:
    suite = suite_of(as_junit(document_of("failed")))
    probes = cases(suite, "probes")
    assert probes["single-frame"] is None
    failure = probes["odd-frames"]
    assert failure is not None
    assert failure.get("message") == "largest error 0.0731"
    for words in (
        "latents 5 4 6 10, 5 frames a video",
        "tolerance atol 1e-05, rtol 1e-05",
        "mean 0.00365, p99 0.0244, SQNR 23 dB",
        "would pass with atol and rtol 0.0439",
        "worst at video 0, frame 4, channel 1, row 13, column 7",
        "interior: 0.0731",
    ):
        assert words in (failure.text or "")
    assert "border" not in (failure.text or "")
    layers = cases(suite, "layers")
    assert layers["decoder.conv_in"] is None
    assert layers[FIRST] is not None
    assert cases(suite, "weights")["copied tensors"] is None
    (missed,) = cases(suite, "self-test").values()
    assert missed is not None
    assert missed.get("message") == "not noticed: Dirac off centre"


def test_the_environment_is_in_the_properties() -> None:
    suite = suite_of(as_junit(document_of("close")))
    found = {p.get("name"): p.get("value") for p in suite.iterfind("properties/property")}
    assert found["verdict"] == "within-tolerance"
    assert found["compared_with"] == "reference"
    assert found["environment.device"] == "cpu"
    assert found["environment.fallback"] == "true"
    assert found["environment.tf32"] == "false"
    assert found["environment.cudnn"] == ""
    assert found["candidate.fingerprint"] == "a7" * 32


def test_a_verdict_of_a_folded_decoder_says_so() -> None:
    suite = suite_of(as_junit(document_of("folded")))
    found = {p.get("name"): p.get("value") for p in suite.iterfind("properties/property")}
    assert (found["verdict"], found["compared_with"]) == ("bitwise", "folded-reference")
    assert found["fold.output"] == "0.95"
    assert "0.95" in (suite.findtext("system-out") or "")


def test_what_is_not_finite_passes_with_no_tolerance() -> None:
    failure = cases(suite_of(as_junit(document_of("not finite"))), "layers")[FIRST]
    assert failure is not None
    assert "no tolerance would pass" in (failure.text or "")


def test_weights_that_differ_are_a_failure_that_names_them() -> None:
    suite = suite_of(as_junit(document_of("wrong weights")))
    (failure,) = cases(suite, "weights").values()
    assert failure is not None
    assert (failure.text or "").split() == ["encoder.conv_in.bias", "encoder.conv_in.weight"]


def test_a_verdict_that_no_case_explains_fails_all_the_same() -> None:
    suite = suite_of(as_junit(parity_document(replace(BARE, verdict="fail"))))
    assert suite.get("failures") == "1"


def test_names_are_what_xml_can_hold() -> None:
    text = as_junit(document_of("hostile"))
    assert "\x1b" not in text
    assert "<script" not in text
    suite_of(text)
