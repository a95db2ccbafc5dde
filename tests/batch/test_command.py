"""``inflate batch`` for people and programs: lines, JSON, reports, exit codes."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from inflate.batch.jobs import Job
from inflate.batch.ledger import Row, State
from inflate.batch.reports import (
    batch_document,
    failure_text,
    failures_first,
    to_html,
    to_junit,
    to_markdown,
)
from inflate.batch.survey import Outcome
from inflate.cli.app import main
from inflate.cli.batch_view import watching

from ..report.building import document_of
from .conftest import Sources, write_manifest
from .fakes import FAILED, PARITY, FakeExecutor, by_stem


@pytest.fixture(autouse=True)
def _fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are copies: ``m01`` cannot run, ``m02`` is not equal."""
    act = by_stem(m01="failed", m02="unequal")
    monkeypatch.setattr(
        "inflate.batch.batch.LocalExecutor", lambda slots, _lock: FakeExecutor(slots, act)
    )
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.chdir(tmp_path)


def outcome(state: State, reused: bool = False, job: Job | None = None, **document: Any) -> Outcome:
    """A result, without a run."""
    return Outcome(job or Job("a", "b"), Row("b", state=state, document=document), reused)


def document_with(*outcomes: Outcome, **more: Any) -> dict[str, Any]:
    """The document of a batch."""
    return batch_document(outcomes, ledger="l", executor="local", seconds=2.0, **more)


def test_failures_come_first_with_one_line_each() -> None:
    document = document_with(
        outcome("held"), outcome("not-run"), outcome("unequal", conversion={"parity": FAILED}),
        outcome("failed", error=f"{Path('a.ckpt').resolve()} is cut short;\ncopy it again"),
        outcome("failed", error="a bug: x", traceback="Traceback"),
    )  # fmt: skip
    jobs = failures_first(document)
    assert [job["status"] for job in jobs] == ["failed", "failed", "unequal", "not-run", "held"]
    texts = [failure_text(job) for job in jobs]
    assert texts[0] == "a.ckpt is cut short; copy it again"
    assert [bool(text) for text in texts] == [True, True, True, False, False]
    assert not any("\n" in text for text in texts)
    markdown, junit = to_markdown(document), to_junit(document)
    assert markdown.index("cut short") < markdown.index("| source |")
    assert [child.tag for case in ElementTree.fromstring(junit)[0] for child in case] == [
        "error", "error", "failure", "skipped",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "code"), [("ckpts/m00*", 0), ("ckpts/m0[02]*", 1), ("ckpts/m0[01]*", 2)]
)
def test_exit_codes(pattern: str, code: int, sources: Sources) -> None:
    sources(3)
    assert main(["batch", pattern, "-o", "out", "-q", "--set", "alpha=0.5"]) == code


def test_a_terminal_shows_bars_and_then_the_jobs(
    sources: Sources, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(3)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["batch", "ckpts/*", "-o", "out"]) == 2
    said = capsys.readouterr()
    assert "all jobs" in said.err
    assert re.search(r"not equal .+ckpts/m02.safetensors -> out/m02", said.out)


def test_json_and_reports(
    sources: Sources, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(4)
    step = Path("step.md")
    step.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    arguments = ["ckpts/*", "-o", "out", "--report-dir", "r", "--github-summary", "--json"]
    assert main(["batch", *arguments]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "inflate/batch/2"
    assert document["exit_code"] == 2
    assert document["counts"] == {
        "total": 4, "held": 2, "unequal": 1, "failed": 1, "not_run": 0, "reused": 0,
    }  # fmt: skip
    assert json.loads(Path("r/batch.json").read_text(encoding="utf-8")) == document
    linked = [job["report"] for job in document["jobs"] if job["report"]]
    assert len(linked) == len(set(linked)) == 3
    for link in linked:
        assert (Path("r") / link).read_text(encoding="utf-8").startswith("<!doctype html>")
    stored = (Path("r") / linked[0]).with_suffix(".json")
    assert json.loads(stored.read_text(encoding="utf-8")) == PARITY
    page = Path("r/index.html").read_text(encoding="utf-8")
    assert all(f'href="{link}"' in page for link in linked)
    suite = ElementTree.parse("r/junit.xml").getroot()[0]
    told = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert told == {"tests": "4", "failures": "1", "errors": "1", "skipped": "0"}
    said = step.read_text(encoding="utf-8")
    assert said.startswith("before\n## ")
    assert said.removeprefix("before\n") == Path("r/summary.md").read_text(encoding="utf-8")
    # The reports of what was done earlier are there too.
    shutil.rmtree("r")
    assert main(["batch", *arguments]) == 2
    assert len(list(Path("r/jobs").glob("*.html"))) == 3


def test_names_are_names_and_secrets_stay_out() -> None:
    nasty = "<script>alert(1)</script>|`x`&\"'\x07\x1b[31m.safetensors"
    outcomes = [
        outcome("held", job=Job(nasty, f"out/{nasty}"), conversion={"parity": PARITY}),
        outcome("failed", error=nasty, traceback=nasty),
        outcome("unequal", job=Job("s3://k:secret@b/d", "d2"), conversion={"parity": FAILED}),
    ]
    document = document_with(*outcomes, linked=True)
    assert "secret" not in json.dumps(document, allow_nan=False)
    assert to_html(document).count("<script") == 1, "its own"
    assert ElementTree.fromstring(to_junit(document)) is not None
    table = [line for line in to_markdown(document).splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 7 for line in table)


def test_a_verdict_of_a_folded_decoder_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    folded = outcome("held", conversion={"parity": document_of("folded")})
    document = document_with(folded)
    assert document["jobs"][0]["compared_with"] == "folded-reference"
    with watching(1, lines=True, quiet=False) as watch:
        watch.ended(folded)
    for text in (to_markdown(document), to_html(document), capsys.readouterr().out):
        assert "bitwise with the folded decoder" in text


def test_a_dry_run_prints_sizes(sources: Sources, capsys: pytest.CaptureFixture[str]) -> None:
    sources(2, broken=(1,))
    write_manifest(Path("m.yaml"), {"jobs": [{"source": "ckpts/*", "output": "out/"}]})
    assert main(["batch", "m.yaml", "--dry-run"]) == 2
    assert "m01.safetensors: " in capsys.readouterr().out
    assert not Path("out").exists()
    assert main(["batch", "m.yaml", "--dry-run", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "inflate/batch-plan/1"
    assert document["jobs"][0]["output_bytes"] > document["jobs"][0]["source_bytes"]
    assert document["jobs"][1]["output_bytes"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        ("m.yaml", "ckpts/*"), ("nowhere/*",), ("no.yaml",), ("ckpts/*", "--github-summary"),
        ("ckpts/*", "--report-dir", "file/x"), ("ckpts/*", "--report-dir", "r"),
        ("ckpts/*", "--ledger", "file/x"),
    ],
)  # fmt: skip
def test_what_cannot_start_ends_with_2(
    arguments: tuple[str, ...], sources: Sources,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sources(1)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    if "r" in arguments:
        monkeypatch.setitem(sys.modules, "jinja2", None)  # Pages need an extra.
    write_manifest(Path("m.yaml"), {"jobs": ["ckpts/*"]})
    Path("file").write_bytes(b"")
    before = sorted(Path().rglob("*"))
    assert main(["batch", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    assert sorted(Path().rglob("*")) == before
