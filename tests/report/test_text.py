"""Reports as text, and results in a prompt: the verdict, what fails, names that stay names."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import inflate
from inflate.display import Displayed, bytes_text
from inflate.parity.result import Movement, TemporalResult, TrainedResult, WeightsResult
from inflate.report.documents import parity_document
from inflate.report.facts import facts
from inflate.report.junit import as_junit
from inflate.report.markdown import SIGNS, as_markdown
from inflate.report.summary import advice, causes, missed_damages
from inflate.workflow.production import ConversionResult

from ..conversions import CPU
from .building import (
    BARE,
    CLOSE,
    FAILED,
    FIRST,
    GUILTY,
    HOSTILE,
    HOSTILE_NAME,
    REPORTS,
    document_of,
    shown_verdict,
)


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
    trained = replace(BARE, weights=WeightsResult(3, (), TemporalResult(2, ("mix_factor",))))
    assert list(causes(parity_document(trained)).values()) == [["mix_factor"]]
    assert causes(document_of("bare")) == {}


def test_what_to_do_follows_from_what_was_found() -> None:
    module, self_test, learning = advice(document_of("failed"))
    assert "modules" in module
    assert "Dirac off centre" in self_test
    assert "14 " in learning
    assert "--merge-strategy learned" in learning
    assert "--dtype bfloat16" in advice(document_of("overflow"))[0]
    plain = replace(FAILED, bisect=None, trainability=None, self_test=None)
    (command,) = advice(parity_document(plain))
    assert "inflate verify img.ckpt img.video.safetensors --bisect" in command
    for document, code in (
        (parity_document(plain), "`inflate verify img.ckpt img.video.safetensors --bisect`"),
        (document_of("overflow"), "`--dtype bfloat16`."),
        (document_of("failed"), "`--merge-strategy learned`"),
    ):
        assert code in as_markdown(document)
    moved = replace(plain.weights, different=(), temporal=TemporalResult(2, ("a", "b")))
    assert "--trained" in advice(parity_document(replace(plain, weights=moved)))[0]
    unknown = replace(plain, bisect=())
    assert "spatial layers" in advice(parity_document(unknown))[0]
    known = replace(plain, weights=WeightsResult(3, ("decoder.conv_in.bias",)))
    (again,) = advice(parity_document(known))
    assert "--bisect" not in again
    damaged = replace(plain, not_finite=("decoder.conv_in.bias",))
    assert advice(parity_document(damaged)) != [again]
    missed = replace(BARE, self_test=FAILED.self_test)
    assert len(advice(parity_document(missed))) == 1, "whatever the verdict"
    assert advice(parity_document(replace(BARE, self_test=CLOSE.self_test))) == []


def test_how_far_a_part_moved_is_a_share_of_its_norm() -> None:
    movements = (Movement("time_stack", 4, 3, 0.2, 0.0133), Movement("mix_factor", 4, 0, 0.0, None))
    trained = replace(BARE, trained=TrainedResult((), 0.1, 0.02, movements))
    texts = {fact.name: fact.text for fact in facts(parity_document(trained))}
    assert texts["trained time_stack"].endswith(" 0.2 from the start, 1.3 % of its norm")
    assert texts["trained mix_factor"].endswith(" 0 from the start")


@pytest.fixture(scope="module")
def results(image: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Displayed]:
    """One of everything that displays itself."""
    folder = tmp_path_factory.mktemp("results")
    conversion = inflate.convert(image, folder / "img.video.safetensors", **CPU)
    assert conversion.parity is not None
    return {
        "conversion": conversion,
        "parity": conversion.parity,
        "inspection": inflate.inspect(image),
    }


@pytest.mark.parametrize("name", ["conversion", "parity", "inspection"])
def test_everything_is_short(results: dict[str, Displayed], name: str) -> None:
    result = results[name]
    assert repr(result).startswith(f"<{type(result).__name__} ")
    assert len(repr(result)) < 250
    assert result._repr_html_().startswith(f"<p>{type(result).__name__}: <b>")


def test_a_conversion_has_its_verdict_file_and_size(results: dict[str, Displayed]) -> None:
    result = results["conversion"]
    assert isinstance(result, ConversionResult)
    size = bytes_text(result.plan.nbytes)
    assert repr(result) == f"<ConversionResult bitwise, img.video.safetensors, {size}>"
    dry = replace(result, output=None, parity=None, notes=("<note>",))
    assert repr(dry).startswith("<ConversionResult unverified, img.video.safetensors (not written)")
    assert "&lt;note&gt;" in dry._repr_html_()
    assert "<b>fail</b>" in REPORTS["failed"]._repr_html_()


def test_names_from_files_are_text() -> None:
    words: list[str] = []
    tags: set[str] = set()
    page = HTMLParser()
    page.handle_data = words.append  # type: ignore[method-assign]
    page.handle_starttag = lambda tag, _: tags.add(tag)  # type: ignore[method-assign]
    page.feed(HOSTILE._repr_html_())
    assert tags == {"p", "b", "table", "tr", "th", "td"}
    assert any("<script>" in text for text in words)
    assert not {"\x1b", "\n", "\u202e"} & set(HOSTILE._repr_html_() + repr(HOSTILE))
