"""Markdown and JUnit: the verdict, what fails, and names that stay names."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from inflate.parity.result import WeightsResult
from inflate.report.documents import parity_document
from inflate.report.junit import as_junit
from inflate.report.markdown import SIGNS, as_markdown
from inflate.report.text import named, plain, with_names

from .building import (
    BARE,
    FAILED,
    FIRST,
    GUILTY,
    HOSTILE,
    HOSTILE_NAME,
    REPORTS,
    document_of,
    shown_verdict,
)


def test_a_name_cannot_imitate_the_marks_of_names() -> None:
    sentence = f"<{named(chr(0xE001) + 'a' + chr(0xE000))}>"
    assert plain(sentence) == "<\\ue001a\\ue000>"
    assert with_names(sentence, str.upper, lambda rest: rest * 2) == "<<\\UE001A\\UE000>>"


@pytest.mark.parametrize("name", REPORTS)
def test_markdown_starts_with_the_verdict_and_its_tables_hold(name: str) -> None:
    text = as_markdown(document_of(name))
    verdict, tone = shown_verdict(name)
    assert text.startswith(f"## {SIGNS[tone]} Parity: {verdict}\n\n")
    tables = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    assert len(tables) >= 2
    for table in tables:
        cells = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(cells) == 1, table


def test_markdown_has_what_fails_first_with_its_numbers() -> None:
    text = as_markdown(document_of("failed"))
    assert f"| `{FIRST}` | `Conv2d` | 0.0522 | 0.00261 | 26 dB |" in text
    assert "first frame, middle frame, last frame, interior | video 0, frame 1" in text
    rows = [row for row in text.splitlines() if "❌ fail |" in row or "🟡 within" in row]
    signs = [SIGNS["fail"] in row for row in rows]
    assert signs == sorted(signs, reverse=True)


def test_markdown_has_the_quality_of_both_decoders() -> None:
    text = as_markdown(document_of("equal"))
    assert "| PSNR (dB) | 30.5 | 32.25 | video decoder |" in text
    assert "### Quality" not in as_markdown(document_of("bare"))


def test_markdown_has_every_name_of_a_file_layer_or_tensor_in_backticks() -> None:
    for name in ("failed", "wrong weights"):
        outside = re.sub(r"`[^`\n]*`", "", as_markdown(document_of(name)))
        for word in (FIRST, GUILTY, "img.ckpt", "img.video", "conv_in", "odd-frames"):
            assert word not in outside.replace("\\", "")


def test_markdown_fits_and_its_names_are_text_and_nothing_else() -> None:
    long = HOSTILE_NAME * 300
    many = replace(
        HOSTILE,
        probes=tuple(replace(probe, name=long) for probe in FAILED.probes * 100),
        layers=tuple(replace(layer, name=long) for layer in FAILED.layers * 100),
        weights=WeightsResult(9000, (long,) * 9000),
        notes=(long,) * 900,
    )
    text = as_markdown(parity_document(many))
    assert len(text.encode()) < 64_000
    assert {"760", "3490", "8990"} <= set(re.findall(r"and (\d+) more", text))
    for raw in ("\x1b", "\u202e", "\n# {{"):
        assert raw not in text
    assert "<script" not in re.sub(r"`[^`\n]*`", "", text)


def suite_of(name: str) -> ET.Element:
    """The one suite of a report, whose counts are checked."""
    suites = ET.fromstring(as_junit(document_of(name)))
    (suite,) = suites
    for element in (suites, suite):
        assert int(element.get("tests", "")) == len(suite.findall("testcase"))
        assert int(element.get("failures", "")) == len(suite.findall("testcase/failure"))
    return suite


@pytest.mark.parametrize("name", REPORTS)
def test_junit_has_a_case_per_probe_and_no_dots_in_names(name: str) -> None:
    report, suite = REPORTS[name], suite_of(name)
    names = [case.get("name", "") for case in suite.iterfind("testcase")]
    expected = [f"probe {probe.name}" for probe in report.probes] + ["copied tensors"]
    expected += ["self-test"] if report.self_test else []
    assert len(names) == len(expected)
    if name != "hostile":
        assert names == expected
    properties = [p.get("name", "") for p in suite.iterfind("properties/property")]
    assert sum(p.startswith("layer/") for p in properties) == len(
        {layer.name for layer in report.layers}
    )
    for label in (*names, *properties, *(c.get("classname", "") for c in suite.iter("testcase"))):
        assert "." not in label
        assert "\x1b" not in label
    missed = report.self_test is not None and not report.self_test.passed
    assert (suite.find("testcase/failure") is not None) == (report.verdict == "fail" or missed)


def test_junit_failures_have_the_numbers() -> None:
    suite = suite_of("failed")
    failures = {c.get("name"): c.find("failure") for c in suite.iterfind("testcase")}
    assert failures["probe single-frame"] is None
    failure = failures["probe odd-frames"]
    assert failure is not None
    for words in ("5 4 6 10", "SQNR 23 dB", "0.0439", "row 13", "interior: 0.0731"):
        assert words in (failure.text or "")
    found = {p.get("name"): p.get("value") for p in suite.iterfind("properties/property")}
    assert found["environment/fallback"] == "true"
    assert found["environment/cudnn"] == ""
    assert found["candidate/fingerprint"] == "a7" * 32
    assert found[f"layer/{FIRST.replace('.', '/')}"] == "fail: 0.0522"


def test_junit_names_weights_that_differ() -> None:
    failure = suite_of("wrong weights").findtext("testcase/failure")
    assert (failure or "").split() == ["encoder.conv_in.bias", "encoder.conv_in.weight"]


def test_junit_fails_a_verdict_that_no_case_explains() -> None:
    text = as_junit(parity_document(replace(BARE, verdict="fail")))
    assert ET.fromstring(text).get("failures") == "1"
