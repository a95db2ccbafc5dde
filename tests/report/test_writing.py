"""Reports as files: by their ending, whole or not at all, and refused before work is done."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import inflate
from inflate.errors import ConfigError, InflateError, OutputError
from inflate.report import writing
from inflate.report.writing import (
    ENDINGS,
    append_summary,
    check_reports,
    github_summary,
    render,
    save_report,
    write_report,
)

from ..conversions import CPU
from .building import EQUAL, FAILED, document_of

STARTS = {"html": "<!doctype html>", "json": '{\n"schema"', "md": "## ✅", "xml": "<testsuites"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_ending_selects_the_format(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"report.{ending.upper()}"
    save_report(EQUAL, path)
    assert path.read_text(encoding="utf-8").startswith(STARTS[ending])
    assert list(tmp_path.iterdir()) == [path], "nothing else is left"


def test_json_is_the_document_a_row_per_line(tmp_path: Path) -> None:
    document = document_of("failed")
    save_report(FAILED, tmp_path / "out.json")
    text = (tmp_path / "out.json").read_text()
    assert json.loads(text) == document
    rows = sum(len(value) for value in document.values() if isinstance(value, list))
    assert len(text.splitlines()) < rows + 3 * len(document)


def test_a_page_has_the_pictures_that_no_document_holds(tmp_path: Path) -> None:
    save_report(EQUAL, tmp_path / "with.html")
    write_report(document_of("equal"), tmp_path / "without.html")
    assert (tmp_path / "with.html").read_text().count("data:image/png") == 20
    assert "data:image/png" not in (tmp_path / "without.html").read_text()


def test_a_conversion_is_saved_where_it_was_checked(image: Path, tmp_path: Path) -> None:
    plan = inflate.convert(image, tmp_path / "out.safetensors", dry_run=True, **CPU)
    with pytest.raises(ConfigError):
        inflate.save_report(plan, tmp_path / "report.json")
    assert list(tmp_path.iterdir()) == []
    result = inflate.convert(image, tmp_path / "out.safetensors", **CPU)
    inflate.save_report(result, tmp_path / "report.json")
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["candidate"]["path"] == str(result.output)


def test_an_older_report_is_replaced_only_by_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.md"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.raises(OutputError) as caught:
        save_report(EQUAL, path)
    assert caught.value.path == str(path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.md"]
    assert path.read_text() == "old"
    monkeypatch.undo()
    save_report(EQUAL, path)
    assert path.read_text(encoding="utf-8").startswith("## ✅")
    with pytest.raises(OutputError):
        save_report(EQUAL, tmp_path / f"{'x' * 300}.md")


@pytest.mark.parametrize(
    "names",
    [
        ["report.pdf"],
        ["report"],
        ["folder.html"],
        ["missing/report.json"],
        ["a.md", "b.md", "./a.md"],
        ["s3://bucket/report.json"],
    ],
)
def test_what_could_not_be_written_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.html").mkdir()
    with pytest.raises(OutputError):
        check_reports(names)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.html"]


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError):
        check_reports([tmp_path / "report.md"])


def test_pages_alone_need_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(InflateError, match=r"inflate-video\[report\]"):
        check_reports([tmp_path / "report.html"])
    with pytest.raises(InflateError, match=r"inflate-video\[report\]"):
        render(document_of("bare"), "html")
    write_report(document_of("bare"), tmp_path / "report.xml")


def test_names_that_are_not_text_are_written_all_the_same(tmp_path: Path) -> None:
    document = document_of("bare")
    document["candidate"]["path"] = "caf\udce9.safetensors"
    for ending in ENDINGS:
        write_report(document, tmp_path / f"report.{ending}")
        assert "udce9" in (tmp_path / f"report.{ending}").read_text(encoding="utf-8")


def test_the_summary_of_a_step_is_appended_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "summary"
    path.write_text("before\n")
    monkeypatch.setenv(writing.SUMMARY, str(path))
    append_summary(github_summary(), "caf\udce9\n")
    assert path.read_text(encoding="utf-8") == "before\ncaf\\udce9\n"
    with pytest.raises(OutputError):
        append_summary(tmp_path, "text")
    monkeypatch.delenv(writing.SUMMARY)
    with pytest.raises(ConfigError):
        github_summary()
