"""Documents and their files: each keeps to its schema; others are refused; files are whole."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from inflate.cli.app import main
from inflate.errors import InflateError, OutputError
from inflate.report import writing
from inflate.report.documents import conversion_document, parity_document
from inflate.report.schemas import problem_of, published_schemas, read_document
from inflate.report.writing import append_summary, check_reports, render, save_report, write_report

from ..checkpoints import autoencoder, write_torch
from ..conversions import converted
from .building import EQUAL, REPORTS, document_of

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("batch/2", "conversion/2", "error/1", "inspection/2", "parity-report/2", "presets/1")


def stored(document: Any) -> Any:
    """A document as a file has it, written without NaN."""
    return json.loads(json.dumps(document, allow_nan=False))


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """The schemas of objects with fixed keys, wherever they are."""
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "properties" in schema:
            yield schema
        for inner in schema.values():
            yield from objects(inner)


def test_the_published_schemas_are_closed() -> None:
    schemas = published_schemas()
    assert sorted(schemas) == [f"inflate/{name}" for name in NAMES]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
        for found in objects(schema):
            assert found["additionalProperties"] is False
    text = (ROOT / "docs" / "reports.md").read_text()
    assert all(name in text for name in NAMES)


@pytest.mark.parametrize("name", REPORTS)
def test_parity_reports_keep_to_the_schema_and_are_read_back(name: str, tmp_path: Path) -> None:
    document = document_of(name)
    assert list(document)[:3] == ["schema", "verdict", "compared_with"]
    write_report(document, tmp_path / "out.json")
    assert read_document(tmp_path / "out.json") == stored(document)


def test_a_conversion(tmp_path: Path) -> None:
    weights = autoencoder()
    weights["loss.logvar"] = weights["decoder.conv_in.bias"].clone()  # To leave behind.
    image = write_torch(tmp_path / "img.pt", weights)
    conversion = converted(image, merge_strategy="fixed", video_kernel_size=(3, 1, 1))
    document = stored(conversion_document(conversion))
    assert problem_of(document) is None
    assert document["output"] == str(conversion.output)
    assert document["fingerprint"] == conversion.fingerprint
    assert conversion.parity is not None
    assert document["parity"] == stored(parity_document(conversion.parity))
    assert document["notes"] == list(conversion.notes) != []
    names = [name.split(".")[0] for name in autoencoder()]
    counts = document["plan"]
    assert counts["copied"] == names.count("decoder")
    assert counts["passed_through"] == len(names) - names.count("decoder")
    assert counts["dropped"] == 1
    assert sum(counts.values()) - 1 == len(conversion.plan.tensors)


@pytest.mark.parametrize(
    ("line", "schema", "code"),
    [
        ("inspect {image}", "inspection/2", 0),
        ("inspect {video}", "inspection/2", 0),
        ("presets", "presets/1", 0),
        ("verify {image} {video} --device cpu", "parity-report/2", 0),
        ("convert {image} -o {out} --dry-run", "conversion/2", 0),
        ("batch {image} -o {out} --device cpu", "batch/2", 0),
        ("batch {image} {video} -o {out} --device cpu", "batch/2", 2),
        ("inspect {missing}", "error/1", 2),
        ("verify {video} {missing} --atol inf", "error/1", 2),
        ("convert {image} --no-such-option", "error/1", 2),
    ],
)
def test_every_document_that_a_command_prints(
    line: str, schema: str, code: int, tiny: Path, tiny_video: Path, tmp_path: Path, capsys: Any
) -> None:
    places = {"image": tiny, "video": tiny_video, "out": tmp_path / "o", "missing": tmp_path / "m"}
    words = [word.format(**places) for word in line.split()]
    assert main([*words, "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == f"inflate/{schema}"
    assert problem_of(document) is None


BROKEN = {
    "unknown verdict": lambda d: d.update(verdict="good"),
    "extra key": lambda d: d.update(extra=1),
    "missing key in a row": lambda d: d["layers"][3]["errors"].pop("needed"),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_document_that_breaks_the_schema_is_refused(damage: str, tmp_path: Path) -> None:
    document = copy.deepcopy(document_of("failed"))
    BROKEN[damage](document)
    path = tmp_path / "out.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InflateError) as caught:
        read_document(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"schema": "inflate/parity-report/9"}',
        '{"schema": "inflate/parity-report/2"}',
        '{"schema": "inflate/parity-report/2", "max_abs_error": 1e999}',
        '{"schema": "inflate/parity-report/2", "seed": 1' + "0" * 5000 + "}",
        "[" * 100_000,
        "\xff",
    ],
)
def test_any_other_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InflateError) as caught:
        read_document(path)
    assert caught.value.path == str(path)


def test_a_far_too_large_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(InflateError):
        read_document(tmp_path / "large.json")


def test_reports_are_replaced_by_whole_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.MD"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.raises(OutputError) as caught:
        save_report(EQUAL, path)
    assert caught.value.path == str(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "old"
    monkeypatch.undo()
    save_report(EQUAL, path)
    assert path.read_text(encoding="utf-8").startswith("## ✅")
    with pytest.raises(OutputError):
        save_report(EQUAL, tmp_path / f"{'x' * 300}.md")


@pytest.mark.parametrize(
    "names", ["a.pdf", "a", "folder.html", "gone/a.json", "a.md b.md ./a.md", "s3://bucket/a.json"]
)
def test_what_could_not_be_written_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.html").mkdir()
    with pytest.raises(OutputError):
        check_reports(names.split())
    assert [p.name for p in tmp_path.iterdir()] == ["folder.html"]


def test_pages_alone_need_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(InflateError, match=r"\.\[report\]"):
        check_reports([tmp_path / "report.html"])
    with pytest.raises(InflateError, match=r"\.\[report\]"):
        render(document_of("bare"), "html")
    write_report(document_of("bare"), tmp_path / "report.xml")


def test_a_summary_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "summary"
    path.write_text("before\n")
    append_summary(path, "caf\udce9\n")
    assert path.read_text(encoding="utf-8") == "before\ncaf\\udce9\n"
    with pytest.raises(OutputError):
        append_summary(tmp_path, "text")
