"""Reports as text, and results in a prompt: the verdict, what fails, names that stay names."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

import inflate
from inflate.display import bytes_text
from inflate.parity.result import (
    Movement,
    ParityReport,
    TemporalResult,
    TrainedResult,
    WeightsResult,
)
from inflate.report.documents import parity_document
from inflate.report.facts import facts
from inflate.report.junit import as_junit
from inflate.report.markdown import SIGNS, as_markdown
from inflate.report.summary import advice, causes, missed_damages, reason

from ..conversions import CPU
from .building import (
    BARE,
    CLOSE,
    FAILED,
    FIRST,
    GUILTY,
    HOSTILE,
    HOSTILE_NAME,
    OVERFLOW,
    REPORTS,
    document_of,
    shown_verdict,
)
from .test_html import Page


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


def test_markdown_fits_and_its_names_are_text_and_nothing_else() -> None:
    long = HOSTILE_NAME * 100
    many = replace(
        HOSTILE,
        probes=tuple(replace(probe, name=long) for probe in FAILED.probes * 10),
        layers=tuple(replace(layer, name=long) for layer in FAILED.layers * 10),
        weights=WeightsResult(900, (long,) * 900),
        notes=(long,) * 90,
    )
    text = as_markdown(parity_document(many))
    assert len(text.encode()) < 64_000
    assert {"20", "890"} <= set(re.findall(r"and (\d+) more", text))
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
    assert sum(p.startswith("layer/") for p in properties) == len(report.layers)
    quality = report.quality or ()
    numbers = 2 * sum(len(probe.measures) for probe in quality)
    assert sum(p.startswith("quality/") for p in properties) == numbers
    for label in (*names, *properties, *(c.get("classname", "") for c in suite.iter("testcase"))):
        assert "." not in label
        assert "\x1b" not in label
    missed = bool(missed_damages(document_of(name)))
    assert (suite.find("testcase/failure") is not None) == (report.verdict == "fail" or missed)


def test_the_causes_are_layers_modules_and_tensors() -> None:
    assert list(causes(document_of("failed")).values()) == [[GUILTY], [FIRST]]
    (tensors,) = causes(document_of("wrong weights")).values()
    assert tensors == ["encoder.conv_in.bias", "encoder.conv_in.weight"]
    assert causes(document_of("bare")) == {}


PLAIN = replace(FAILED, bisect=None, trainability=None, self_test=None)
MOVED = WeightsResult(138, (), TemporalResult(2, ("a", "b")))
COMMAND = "inflate verify img.ckpt img.video.safetensors"


@pytest.mark.parametrize(
    ("report", "named"),
    [
        (FAILED, ["modules", "Dirac off centre", "--merge-strategy learned"]),
        (OVERFLOW, ["--dtype bfloat16", "Dirac off centre", "--merge-strategy learned"]),
        (PLAIN, [f"{COMMAND} --bisect"]),
        (replace(PLAIN, weights=MOVED), [f"{COMMAND} --trained"]),
        (replace(PLAIN, bisect=()), ["spatial layers"]),
        (replace(PLAIN, weights=WeightsResult(3, ("decoder.conv_in.bias",))), ["tensors"]),
        (replace(PLAIN, not_finite=("decoder.conv_in.bias",)), ["NaN"]),
        (replace(BARE, self_test=FAILED.self_test), ["Dirac off centre"]),  # Whatever the verdict.
        (replace(BARE, self_test=CLOSE.self_test), []),
    ],
)
def test_what_to_do_follows_from_what_was_found(report: ParityReport, named: list[str]) -> None:
    document = parity_document(report)
    for sentence, words in zip(advice(document), named, strict=True):
        assert words in sentence
        assert ("--bisect" in sentence) == ("--bisect" in words)
        assert "--" not in words or f"`{words}`" in as_markdown(document)


def test_how_far_a_part_moved_is_a_share_of_its_norm() -> None:
    movements = (Movement("time_stack", 4, 3, 0.2, 0.0133), Movement("mix_factor", 4, 0, 0.0, None))
    trained = replace(BARE, trained=TrainedResult((), 0.1, 0.02, movements))
    texts = {fact.name: fact.text for fact in facts(parity_document(trained))}
    assert texts["trained time_stack"].endswith(" 0.2 from the start, 1.3 % of its norm")
    assert texts["trained mix_factor"].endswith(" 0 from the start")


def test_results_are_short_in_a_prompt(image: Path, tmp_path: Path) -> None:
    conversion = inflate.convert(image, tmp_path / "img.video.safetensors", **CPU)
    assert conversion.parity is not None
    for result in (conversion, conversion.parity, inflate.inspect(image)):
        name = type(result).__name__
        assert repr(result).startswith(f"<{name} ")
        assert len(repr(result)) < 250
        assert result._repr_html_().startswith(f"<p>{name}: <b>")
    size = bytes_text(conversion.plan.nbytes)
    assert repr(conversion) == f"<ConversionResult bitwise, img.video.safetensors, {size}>"
    dry = replace(conversion, output=None, parity=None, notes=("<note>",))
    assert repr(dry).startswith("<ConversionResult unverified, img.video.safetensors (not written)")
    assert "&lt;note&gt;" in dry._repr_html_()
    assert "<b>fail</b>" in FAILED._repr_html_()


def test_names_from_files_are_text() -> None:
    page = Page(HOSTILE._repr_html_())
    assert {tag for tag, _ in page.elements} == {"p", "b", "table", "tr", "th", "td"}
    assert "<script>" in page.text
    assert not {"\x1b", "\n", "\u202e"} & set(HOSTILE._repr_html_() + repr(HOSTILE))


def test_equal_outputs_are_those_of_the_reference_by_name() -> None:
    bitwise = replace(BARE, verdict="bitwise", reference=("there/trained.safetensors", "0" * 64))
    assert " trained.safetensors " in reason(parity_document(bitwise))
    alone = replace(bitwise, candidate=bitwise.reference)
    assert "own image layers" in reason(parity_document(alone))
