"""Reports as files: by their ending, whole or not at all, and refused before work is done."""

from __future__ import annotations

import builtins
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inflate.errors import ConfigError, InflateError, OutputError
from inflate.report import writing
from inflate.report.writing import (
    ENDINGS,
    append_summary,
    check_reports,
    render,
    write_github_summary,
    write_report,
)

from .building import EQUAL, document_of

STARTS = {"html": "<!doctype html>", "json": '{\n"schema"', "md": "## ✅", "xml": "<testsuites"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_ending_says_what_is_written(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"report.{ending.upper()}"
    write_report(document_of("equal"), path)
    assert path.read_text(encoding="utf-8").startswith(STARTS[ending])
    assert list(tmp_path.iterdir()) == [path], "nothing is left beside it"


def test_json_is_the_document_and_small(tmp_path: Path) -> None:
    document = document_of("failed")
    write_report(document, tmp_path / "out.json")
    text = (tmp_path / "out.json").read_text()
    assert json.loads(text) == document
    rows = sum(len(value) for value in document.values() if isinstance(value, list))
    assert len(text.splitlines()) < rows + 3 * len(document), "a row a line"


def test_a_page_has_the_pictures_that_no_document_holds(tmp_path: Path) -> None:
    write_report(document_of("equal"), tmp_path / "with.html", EQUAL.pictures)
    write_report(document_of("equal"), tmp_path / "without.html")
    assert (tmp_path / "with.html").read_text().count("data:image/png") == 20
    without = (tmp_path / "without.html").read_text()
    assert "data:image/png" not in without
    assert "There are no images here: they are not stored in documents" in without


def test_an_older_report_is_replaced_only_by_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.md"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.raises(OutputError, match=r"report\.md cannot be written: No space left"):
        write_report(document_of("equal"), path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.md"]
    assert path.read_text() == "old"
    monkeypatch.undo()
    write_report(document_of("equal"), path)
    assert path.read_text(encoding="utf-8").startswith("## ✅")


def written(names: list[str]) -> None:
    """Reports of these names, refused or written."""
    check_reports(names)
    for name in names:
        write_report(document_of("bare"), name)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["report.pdf"], "has no ending that is known; expected .html, .json, .md, .xml"),
        (["report"], "has no ending that is known"),
        (["folder.html"], "is a folder"),
        (["missing/report.json"], "needs the folder"),
        (["a.md", "b.md", "./a.md"], "written twice"),
        (["s3://bucket/report.json"], "at a URL; expected a local file"),
        ([f"{'x' * 300}.md"], "cannot be written"),
    ],
)
def test_what_could_not_be_written_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.html").mkdir()
    with pytest.raises(OutputError) as caught:
        written(names)
    assert said in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.html"]


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="is read-only"):
        check_reports([tmp_path / "report.md"])


@pytest.fixture
def without_jinja(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Jinja2 here."""
    plain: Callable[..., Any] = builtins.__import__

    def importing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("jinja2"):
            raise ImportError("No module named 'jinja2'")
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)


@pytest.mark.usefixtures("without_jinja")
def test_pages_alone_need_the_extra(tmp_path: Path) -> None:
    said = r"pip install 'inflate-video\[report\]'"
    with pytest.raises(InflateError, match=said):
        check_reports([tmp_path / "report.html"])
    with pytest.raises(InflateError, match=said):
        render(document_of("bare"), "html")
    check_reports([tmp_path / "report.xml"])
    write_report(document_of("bare"), tmp_path / "report.xml")


def test_names_that_are_no_text_are_written_all_the_same(tmp_path: Path) -> None:
    document = document_of("bare")
    document["candidate"]["path"] = "caf\udce9.safetensors"
    for ending in ENDINGS:
        write_report(document, tmp_path / f"report.{ending}")
        assert "udce9" in (tmp_path / f"report.{ending}").read_text(encoding="utf-8")


def test_a_summary_of_names_that_are_no_text_is_appended_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "summary"
    append_summary(path, "caf\udce9\n")
    append_summary(path, "more\n")
    assert path.read_text(encoding="utf-8") == "caf\\udce9\nmore\n"


def test_the_summary_of_a_step_is_appended_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "summary"
    path.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    write_github_summary(document_of("equal"))
    text = path.read_text(encoding="utf-8")
    assert text.startswith("before\n## ✅ Parity: bitwise")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    with pytest.raises(OutputError, match="GITHUB_STEP_SUMMARY cannot be written"):
        write_github_summary(document_of("equal"))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    with pytest.raises(ConfigError, match="GITHUB_STEP_SUMMARY, which is not set"):
        write_github_summary(document_of("equal"))
