"""``inflate batch`` as people and programs meet it: lines, JSON, reports, exit codes."""

from __future__ import annotations

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import pytest

from inflate.batch.jobs import Job
from inflate.batch.render import headline, to_html, to_junit, to_markdown
from inflate.batch.run import Outcome
from inflate.batch.summary import batch_document, exit_code
from inflate.cli.app import main
from inflate.cli.batch_view import watching

from ..report.building import document_of
from .conftest import Sources, write_manifest
from .fakes import FAILED, PARITY, FakeExecutor


@pytest.fixture(autouse=True)
def _fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are copies: ``m01`` cannot run, of ``m02`` parity does not hold."""

    def act(task: Any) -> str:
        acts = {"m01": "failed", "m02": "unequal"}
        return acts.get(Path(task.source).stem, "held")

    monkeypatch.setattr(
        "inflate.batch.batch.LocalExecutor", lambda slots, _lock: FakeExecutor(slots, act)
    )
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.chdir(tmp_path)


def test_a_line_a_job_in_a_pipe(sources: Sources, capsys: pytest.CaptureFixture[str]) -> None:
    sources(3)
    assert main(["batch", "ckpts/*", "-o", "out"]) == 2
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert re.fullmatch(r"held +bitwise, 0\.1 s +ckpts/m00\S+ -> out/m00\S+", lines[0])
    assert re.fullmatch(r"failed +0\.1 s +ckpts/m01\S+ -> out/m01\S+: no", lines[1])
    assert re.fullmatch(r"unequal +fail, 0\.1 s +ckpts/m02\S+ -> out/m02\S+", lines[2])
    assert lines[3].startswith("1 of 3 held, 1 did not hold, 1 could not run in ")
    assert (len(lines), said.err) == (4, "")
    assert main(["batch", "ckpts/*", "-o", "out", "-q"]) == 2
    said = capsys.readouterr()
    assert said.out == "1 of 3 held, 1 did not hold, 1 could not run, 3 known from the ledger\n"
    assert main(["batch", "ckpts/*", "-o", "out"]) == 2
    assert "2 failed in an earlier run; --retry-failed tries them again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pattern", "code"), [("ckpts/m00*", 0), ("ckpts/m0[02]*", 1), ("ckpts/m0[01]*", 2)]
)
def test_exit_codes(pattern: str, code: int, sources: Sources) -> None:
    sources(3)
    assert main(["batch", pattern, "-o", "out", "-q"]) == code


def test_a_table_on_a_terminal(
    sources: Sources, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(3)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["batch", "ckpts/*", "-o", "out"]) == 2
    said = capsys.readouterr()
    assert "all jobs" in said.err
    assert re.search(r"unequal +fail +[\d.e-]+ +0\.1 +ckpts/m02.safetensors +out/m02", said.out)
    assert "ckpts/m01.safetensors: no" in said.out


def test_no_colour_is_respected(
    sources: Sources, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(3)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")  # As on a terminal.
    main(["batch", "ckpts/*", "-o", "out", "--dry-run"])
    assert "\x1b" in capsys.readouterr().out, "the heads of a table are bold"
    monkeypatch.setenv("NO_COLOR", "1")
    for more in (["--dry-run"], []):
        main(["batch", "ckpts/*", "-o", "out", *more])
        said = capsys.readouterr()
        assert "ckpts/m00" in said.out
        assert "\x1b" not in said.out + said.err


def test_pages_that_cannot_be_made_are_told_before_the_work(
    sources: Sources, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(1)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main(["batch", "ckpts/*", "-o", "out", "--report-dir", "r"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "inflate-video[report]" in said.err
    assert not Path("r").exists()
    assert not list(Path("out").glob("*.safetensors"))


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
    assert document["schema"] == "inflate/batch/1"
    assert document["exit_code"] == 2
    assert document["counts"] == {
        "total": 4, "held": 2, "unequal": 1, "failed": 1, "not_run": 0, "reused": 0,
    }  # fmt: skip
    assert sorted(p.name for p in Path("r").iterdir()) == [
        "batch.json", "index.html", "jobs", "junit.xml", "summary.md",
    ]  # fmt: skip
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
    assert said.startswith("before\n## ⛔ inflate batch: 2 of 4 held")
    assert said.removeprefix("before\n") == Path("r/summary.md").read_text(encoding="utf-8")
    # The reports of what was done earlier are there too.
    shutil.rmtree("r")
    assert main(["batch", *arguments]) == 2
    assert len(list(Path("r/jobs").glob("*.html"))) == 3


def outcomes_of_strange_names() -> list[Outcome]:
    """Jobs whose names mean to be markup."""
    nasty = "<script>alert(1)</script>|`x`&\"'\x07\x1b[31m.safetensors"
    return [
        Outcome(Job("", nasty, f"out/{nasty}"), "held", document={"conversion": {"parity": PARITY},
                                                                 "seconds": 1.0}),
        Outcome(Job("", "b", "b2"), "failed", document={"error": nasty, "traceback": nasty}),
        Outcome(Job("", "c", "c2", {"video_kernel_size": (3, 1, 1)}), "not-run"),
        Outcome(Job("", "s3://k:secret@b/d", "d2"), "unequal",
                document={"conversion": {"parity": {**FAILED, "max_abs_error": None}}}),
        Outcome(Job("", "e", "e2"), "held", document={"conversion": {"parity": None}}),
    ]  # fmt: skip


def test_no_name_becomes_markup() -> None:
    outcomes = outcomes_of_strange_names()
    links = {outcomes[0].job.output: 'jobs/"><script>.json'}
    document = batch_document(outcomes, ledger="l", executor="local", seconds=2.0, reports=links)
    json.dumps(document, allow_nan=False)
    assert "secret" not in json.dumps(document)
    page = to_html(document)

    class Tags(HTMLParser):
        """Collects the elements, and what they load."""

        found: ClassVar[set[str]] = set()
        loaded: ClassVar[list[str | None]] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            """Remember."""
            self.found.add(tag)
            self.loaded += [value for key, value in attrs if key == "src"]

    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.found
    assert tags.loaded == []
    assert "http" not in page.replace("http-equiv", "")
    for rule in ("prefers-color-scheme: dark", "max-width: 640px", 'name="viewport"'):
        assert rule in page
    root = ElementTree.fromstring(to_junit(document))
    kinds = [[child.tag for child in case] for case in root[0]]
    assert kinds == [[], ["error"], ["skipped"], ["failure"], []]
    table = [line for line in to_markdown(document).splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 7 for line in table)
    assert "largest error not finite" in to_junit(document)
    assert [job["verdict"] for job in document["jobs"]] == [
        "bitwise", None, None, "fail", "unverified",
    ]  # fmt: skip
    assert headline(document) == ("2 of 5 held, 1 did not hold, 1 could not run, 1 not run")


def test_a_verdict_of_a_folded_decoder_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    parity = document_of("folded")
    outcomes = [Outcome(Job("", "a", "b"), "held", document={"conversion": {"parity": parity}})]
    document = batch_document(outcomes, ledger="l", executor="local", seconds=2.0)
    (job,) = document["jobs"]
    assert (job["verdict"], job["compared_with"]) == ("bitwise", "folded-reference")
    for text in (to_markdown(document), to_html(document)):
        assert "bitwise with the folded decoder" in text
    with watching(1, lines=True, quiet=False) as watch:
        watch.ended(outcomes[0])
    assert "bitwise with the folded decoder" in capsys.readouterr().out


def test_a_step_summary_stays_short() -> None:
    outcomes = [Outcome(Job("", f"s{i}" * 100, f"o{i}" * 100), "held") for i in range(1500)]
    document = batch_document(outcomes, ledger="l", executor="local", seconds=2.0)
    text = to_markdown(document)
    assert len(text.encode()) < 1 << 20
    assert text.endswith("and 500 more\n")
    assert exit_code(outcomes) == 0


def test_a_dry_run_tells_sizes_and_runs_nothing(
    sources: Sources, capsys: pytest.CaptureFixture[str]
) -> None:
    sources(2, broken=(1,))
    write_manifest(Path("m.yaml"), {"jobs": [{"source": "ckpts/*", "output": "out/"}]})
    assert main(["batch", "m.yaml", "--dry-run"]) == 2
    out = capsys.readouterr().out
    assert re.search(r"ckpts/m00.safetensors +586\.3 kB +out/m00\S+ +[\d.]+ MB +[\d.]+ MB", out)
    assert "m01.safetensors is cut short" in out.replace("\n", " ")
    assert not Path("out").exists()
    assert main(["batch", "m.yaml", "--dry-run", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "inflate/batch-plan/1"
    assert document["jobs"][0]["output_bytes"] > document["jobs"][0]["source_bytes"]
    assert document["jobs"][1]["output_bytes"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("m.yaml", "-o", "x"), "-o goes with sources and patterns"),
        (("m.yaml", "ckpts/*"), "expected it alone"),
        (("nowhere/*",), "nothing matches nowhere/*"),
        (("no.yaml",), "not readable as YAML"),
        (("ckpts/*", "--jobs", "0"), "--jobs"),
        (("ckpts/*", "--executor", "slurm"), "slurm"),
        (("ckpts/*", "--memory", "inf"), "'inf'"),
        (("ckpts/*", "--video-kernel-size", "99999"), "such as 3 or 3,1,1, of 999 at most"),
        (("ckpts/*", "--github-summary"), "GITHUB_STEP_SUMMARY is not set"),
        (("ckpts/*", "--report-dir", "file/x"), "file/x cannot be made"),
        (("ckpts/*", "--ledger", "file/x"), "cannot be made"),
        (("ckpts/*", "--alpha", "2", "--merge-strategy", "fixed"), "temporal.alpha is 2.0"),
    ],
)
def test_what_cannot_start_ends_with_2(
    arguments: tuple[str, ...],
    said: str,
    sources: Sources,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources(1)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    write_manifest(Path("m.yaml"), {"jobs": ["ckpts/*"]})
    Path("file").write_bytes(b"")
    assert main(["batch", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert not list(Path("ckpts").glob("*.video.*"))
