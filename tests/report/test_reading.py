"""The published schema, and documents that are read back: those that keep to it, and no others."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from inflate.report.reading import parity_schema, read_document
from jsonschema import Draft202012Validator

from inflate.errors import InflateError
from inflate.report.documents import parity_document
from inflate.report.writing import render, write_report
from inflate.workflow import verify

from ..conversions import CPU, nudged
from .building import REPORTS, document_of

ROOT = Path(__file__).resolve().parents[2]


def stored(document: Any) -> Any:
    """A document as a file has it."""
    return json.loads(json.dumps(document, allow_nan=False))


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(parity_schema())


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """The schemas of objects, wherever they are."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for inner in schema.values():
            yield from objects(inner)


def test_no_object_has_room_for_more() -> None:
    found = list(objects(parity_schema()))
    assert len(found) > 15
    for schema in found:
        assert schema["additionalProperties"] is False
        assert schema["required"] == list(schema["properties"])


@pytest.mark.parametrize("name", REPORTS)
def test_made_up_documents_keep_to_it_and_are_read_back(name: str, tmp_path: Path) -> None:
    document = document_of(name)
    Draft202012Validator(parity_schema()).validate(stored(document))
    write_report(document, tmp_path / "out.json")
    assert read_document(tmp_path / "out.json") == stored(document)


@pytest.mark.parametrize("spoilt", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_real_documents_keep_to_it(
    image: Path, videos: dict[str, Path], tmp_path: Path, spoilt: bool, alone: bool
) -> None:
    video = videos["all"]
    if spoilt:
        key = "decoder.conv_out.time_mix_conv.bias"
        video = nudged(video, tmp_path / "spoilt.safetensors", key)
    report = verify(*((video,) if alone else (image, video)), **CPU)
    document = parity_document(report)
    Draft202012Validator(parity_schema()).validate(stored(document))
    for ending in ("html", "md", "xml"):
        assert report.verdict in render(stored(document), ending)


BROKEN = {
    "a verdict that is none": lambda d: d.update(verdict="good"),
    "something more": lambda d: d.update(extra=1),
    "something less": lambda d: d.pop("floor"),
    "a text for a number": lambda d: d.update(max_abs_error="0"),
    "more in a row": lambda d: d["probes"][0].update(extra=1),
    "less in a row": lambda d: d["layers"][3]["errors"].pop("needed"),
    "an error below 0": lambda d: d["probes"][0].update(max_abs_error=-1.0),
    "a number for a list": lambda d: d.update(plan=3),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_what_does_not_keep_to_it_is_refused(damage: str, tmp_path: Path) -> None:
    document = copy.deepcopy(document_of("failed"))
    BROKEN[damage](document)
    path = tmp_path / "out.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InflateError, match=r"does not keep to inflate/parity-report/1: ") as caught:
        read_document(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("[]", "has the schema None"),
        ('{"schema": "inflate/parity-report/2"}', "a newer inflate wrote it"),
        ('{"schema": "inflate/conversion/1"}', "expected 'inflate/parity-report/1'"),
        ('{"schema": ["inflate/parity-report/1"]}', "has the schema"),
        ('{"schema": "inflate/parity-report/1"}', "is a required property"),
        ('{"schema": "inflate/parity-report/1", "verdict": NaN}', "it holds NaN"),
        ('{"schema": "inflate/parity-report/1", "max_abs_error": 1e999}', "it holds the number"),
        (
            '{"schema": "inflate/parity-report/1", "seed": 1' + "0" * 400 + "}",
            "it holds the number",
        ),
        ("[" * 100_000, "is no JSON"),
        ("\xff", "is no JSON"),
    ],
)
def test_what_is_no_such_document_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InflateError) as caught:
        read_document(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_or_far_too_large(tmp_path: Path) -> None:
    with pytest.raises(InflateError, match="cannot be read: No such file"):
        read_document(tmp_path / "out.json")
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(InflateError, match="has more than"):
        read_document(tmp_path / "large.json")


def test_reading_needs_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(document_of("bare"), tmp_path / "out.json")
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(InflateError, match=r"pip install 'inflate-video\[report\]'"):
        read_document(tmp_path / "out.json")


def test_the_package_holds_the_schema_and_the_templates() -> None:
    root = resources.files("inflate.report")
    assert (root / "schema" / "parity-report-1.schema.json").is_file()
    for name in ("base.html.j2", "report.html.j2", "style.css", "report.js"):
        assert (root / "templates" / name).is_file()


def test_what_the_documentation_says_of_the_schema_is_so() -> None:
    assert "parity-report-1.schema.json" in (ROOT / "docs" / "reports.md").read_text()
    picture = (ROOT / "docs" / "report.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 300_000
