"""Reports: ``--report``, ``--github-summary``, ``inflate report``, and parity on a terminal."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import inflate
from inflate.cli.console import print_table
from inflate.cli.render_parity import print_document
from inflate.display import one_line
from inflate.parity.result import RecordedSource, TemporalResult, TrainedResult, WeightsResult
from inflate.report.documents import parity_document
from inflate.report.summary import advice, reason

from ..report.building import REPORTS, document_of, shown_verdict
from ..safety.refusals import refused
from .conftest import CPU, Run

SUMMARY = "GITHUB_STEP_SUMMARY"


def all_of(folder: Path) -> list[str]:
    """The options for a report of every kind."""
    return [word for e in ("html", "json", "md", "xml") for word in ("--report", f"{folder}/r.{e}")]


@pytest.mark.parametrize("failed", [False, True])
def test_several_reports_of_one_run(
    run: Run, tiny: Path, tiny_video: Path, wrong: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, failed: bool,
) -> None:  # fmt: skip
    video = wrong if failed else tiny_video
    monkeypatch.setenv(SUMMARY, str(tmp_path / "step.md"))
    (tmp_path / "step.md").write_text("before\n")
    options = ("--json", "--github-summary", *all_of(tmp_path))
    ran = run("verify", tiny, video, *options, *CPU)
    assert (ran.code, ran.err) == (int(failed), "")
    verdict = ran.document["verdict"]
    assert verdict == ("fail" if failed else "bitwise")
    assert json.loads((tmp_path / "r.json").read_text()) == ran.document
    assert f"Parity: {verdict}" in (tmp_path / "r.md").read_text()
    step = (tmp_path / "step.md").read_text()
    assert 0 <= step.index("before") < step.index(f"Parity: {verdict}")
    assert ("Not equal" if failed else "Bitwise equal") in (tmp_path / "r.html").read_text()
    failures = int(ET.parse(tmp_path / "r.xml").getroot().get("failures", ""))
    assert (failures > 0) == failed


def test_reports_that_cannot_be_made_are_refused_before_the_work(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SUMMARY, raising=False)
    monkeypatch.chdir(source.parent)
    for words, named in (
        (("convert", source, "--report", "r.md", "--dry-run"), "--dry-run"),
        (("convert", source, "--report", "r.md", "--skip-parity"), "--skip-parity"),
        (("convert", source, "--report", "r.pdf"), "r.pdf"),
        (("verify", source, "--report", "r.pdf"), "r.pdf"),
        (("verify", source, "--github-summary"), SUMMARY),
    ):
        assert named in refused(source.parent, *words, *CPU)


def test_a_folder_that_vanishes_does_not_hide_what_was_done(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, output = tmp_path / "reports", tmp_path / "v.safetensors"
    folder.mkdir()
    done = inflate.convert

    def vanishing(*arguments: Any, **options: Any) -> Any:
        result = done(*arguments, **options)
        folder.rmdir()
        return result

    monkeypatch.setattr("inflate.convert", vanishing)
    ran = run("convert", source, "-o", output, "--report", folder / "r.json", *CPU)
    assert (ran.code, ran.out) == (2, "")
    assert str(folder / "r.json") in ran.err
    assert f"{output} was published" in ran.err
    assert output.exists()


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A document, alone in its folder."""
    path = tmp_path / "stored" / "out.json"
    path.parent.mkdir()
    path.write_text(json.dumps(document_of("failed")))
    return path


@pytest.mark.parametrize(
    ("kind", "start"), [("html", "<!doctype html>"), ("md", "## ❌"), ("xml", "<testsuites")]
)
def test_documents_are_rendered(
    run: Run, stored: Path, tmp_path: Path, kind: str, start: str
) -> None:
    default, elsewhere = stored.with_suffix(f".{kind}"), tmp_path / f"else.{kind}"
    for options, path in (
        (("--to", kind), default),
        (("-o", elsewhere), elsewhere),
        (("--to", kind, "-o", elsewhere), elsewhere),
    ):
        ran = run("report", stored, *options)
        assert (ran.code, ran.out, ran.err) == (0, f"{path}\n", "")
        assert path.read_text(encoding="utf-8").startswith(start)
    printed = run("report", stored, "--to", kind, "-o", "-")
    assert (printed.code, printed.out) == (0, default.read_text(encoding="utf-8"))


def test_without_a_kind_it_is_printed(run: Run, tiny: Path, wrong: Path, tmp_path: Path) -> None:
    live = run("verify", tiny, wrong, "--report", tmp_path / "r.json", *CPU)
    again = run("report", tmp_path / "r.json")
    assert (live.code, again.code) == (1, 0), "0: it was printed, whatever the verdict"
    assert again.out == live.out != ""
    path = tmp_path / "r.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"probes": []}))
    assert run("report", path).code == 0


Print = Callable[..., list[str]]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Print:
    """Prints a report, by default as in a pipe, and returns its lines."""

    def lines(report: str | dict[str, Any], terminal: int = 0, colour: bool = False) -> list[str]:
        monkeypatch.delenv("NO_COLOR", raising=False)
        if not colour:
            monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("COLUMNS", str(terminal or 200))
        monkeypatch.setenv("TERM", "xterm")
        if terminal:
            monkeypatch.setenv("FORCE_COLOR", "1")
        print_document(document_of(report) if isinstance(report, str) else report)
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return lines


@pytest.mark.parametrize("name", REPORTS)
def test_the_verdict_first_then_why_and_what_to_do_then_the_numbers(
    printed: Print, name: str
) -> None:
    document, lines = document_of(name), printed(name)
    failed = document["verdict"] == "fail"
    verdict = "FAIL   largest" if failed else f"{shown_verdict(name)[0]}  (largest"
    assert lines[0].startswith(f"parity: {verdict} error ")
    if not failed:
        explained = not lines[0].startswith("parity: bitwise  ")
        assert (one_line(reason(document)) in lines) == explained
    table = next(n for n, line in enumerate(lines) if line.split()[:1] == ["probe"])
    for label, expected in (
        ("cause: ", int(failed)), ("next:  ", len(advice(document)))
    ):  # fmt: skip
        found = [n for n, line in enumerate(lines) if line.startswith(label)]
        assert len(found) == expected
        assert all(n < table for n in found)
    assert len(lines) < 40


MOVED = WeightsResult(3, (), TemporalResult(2, ("t.weight",)))
ELSEWHERE = RecordedSource("sdxl.ckpt", "0" * 64, given=False)


@pytest.mark.parametrize(
    ("changes", "named", "not_named"),
    [
        ({"weights": MOVED}, "t.weight changed", "sdxl.ckpt"),
        # Of another checkpoint with the same weights, the tensors that changed are the cause.
        ({"weights": MOVED, "recorded_source": ELSEWHERE}, "t.weight changed", "sdxl.ckpt"),
        (
            {"weights": replace(MOVED, different=("s.bias",)), "recorded_source": ELSEWHERE},
            "sdxl.ckpt",
            "t.weight",
        ),
        ({"weights": replace(MOVED, different=("s.bias",))}, "s.bias", "t.weight"),
        # Trained layers are to change.
        (
            {"weights": MOVED, "trained": TrainedResult(("t.weight is NaN",), 0.1, 0.02, ())},
            "t.weight is NaN",
            "changed",
        ),
    ],
)
def test_the_cause_is_what_went_wrong(
    printed: Print, changes: dict[str, Any], named: str, not_named: str
) -> None:
    report = replace(REPORTS["bare"], verdict="fail", not_finite=(), bisect=None, **changes)
    (cause,) = (line for line in printed(parity_document(report)) if line.startswith("cause: "))
    assert named in cause
    assert not_named not in cause


@pytest.mark.parametrize("name", sorted({*REPORTS} - {"hostile"}))
def test_a_narrow_terminal_cuts_no_word(printed: Print, name: str) -> None:
    words = {word for line in printed(name) for word in line.split()}
    assert {word for line in printed(name, terminal=80) for word in line.split()} <= words


@pytest.mark.parametrize(
    ("name", "styled"),
    [
        ("close", "\x1b[1;33mfloat32 on cpu, no GPU was found"),
        ("equal", "\x1b[1;32mbitwise\x1b"),
        ("folded", "\x1b[1;33mbitwise with the folded decoder\x1b"),
        ("failed", "\x1b[1;31mFAIL"),
    ],
)
def test_colours_are_those_of_the_verdict(printed: Print, name: str, styled: str) -> None:
    assert any(styled in line for line in printed(name, terminal=200, colour=True))


def test_a_table_is_whole_in_a_narrow_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_table(("name", "path"), [("a", "x" * 60), ("b", "y " * 60)])
    assert len(capsys.readouterr().out.splitlines()) == 3
