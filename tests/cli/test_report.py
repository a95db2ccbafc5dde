"""``--report``, ``--github-summary`` and ``inflate report``: files beside what is printed."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from inflate import workflow

from ..conversions import nudged, spoil_start
from ..report.building import document_of
from .conftest import Run

CPU = ("--device", "cpu")
BIAS = "decoder.conv_out.time_mix_conv.bias"
SUMMARY = "GITHUB_STEP_SUMMARY"


@pytest.fixture
def wrong(videos: dict[str, Path], tmp_path: Path) -> Path:
    """A video checkpoint that does not equal its image decoder."""
    return nudged(videos["all"], tmp_path / "wrong.safetensors", BIAS)


def all_of(folder: Path) -> list[str]:
    """The options for a report of every kind."""
    return [word for e in ("html", "json", "md", "xml") for word in ("--report", f"{folder}/r.{e}")]


@pytest.mark.parametrize("spoilt", [False, True])
def test_several_reports_of_one_run(
    run: Run, image: Path, videos: dict[str, Path], wrong: Path, tmp_path: Path, spoilt: bool
) -> None:
    video = wrong if spoilt else videos["all"]
    ran = run("verify", image, video, "--json", *all_of(tmp_path), *CPU)
    verdict = "fail" if spoilt else "bitwise"
    assert (ran.code, ran.err) == (int(spoilt), "")
    document = json.loads(ran.out)
    assert json.loads((tmp_path / "r.json").read_text()) == document
    assert document["verdict"] == verdict
    assert f"Parity: {verdict}" in (tmp_path / "r.md").read_text()
    assert ("Not equal" if spoilt else "Bitwise equal") in (tmp_path / "r.html").read_text()
    failures = int(ET.parse(tmp_path / "r.xml").getroot().get("failures", ""))
    assert (failures > 0) == spoilt


def test_reports_of_a_conversion(run: Run, source: Path, tmp_path: Path) -> None:
    ran = run("convert", source, "-q", *all_of(tmp_path), *CPU)
    assert ran.code == 0
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["verdict"] == "bitwise"
    assert document["candidate"]["path"] == ran.out.strip()
    assert len(document["candidate"]["fingerprint"]) == 64


def test_a_conversion_that_fails_tells_why(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_start(monkeypatch, lambda *_: True)
    ran = run("convert", source, "-q", "--report", tmp_path / "r.json", *CPU)
    assert (ran.code, ran.out) == (1, "")
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["verdict"] == "fail"


@pytest.mark.parametrize("option", ["--dry-run", "--skip-parity"])
def test_without_a_check_there_is_no_report(
    run: Run, source: Path, tmp_path: Path, option: str
) -> None:
    ran = run("convert", source, option, "--report", tmp_path / "r.md", *CPU)
    assert (ran.code, ran.out) == (2, "")
    assert option in ran.err
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("command", ["convert", "verify"])
def test_what_cannot_be_written_is_told_before_anything_is_done(
    run: Run, source: Path, tmp_path: Path, command: str
) -> None:
    for options, said in (
        (("--report", tmp_path / "r.pdf"), "expected .html, .json, .md, .xml"),
        (("--report", tmp_path / "no" / "r.md"), "make it first"),
        (("--report", "r.md", "--report", "r.md"), "written twice"),
        (("--github-summary",), f"${SUMMARY}, which is not set"),
    ):
        ran = run(command, source, *options, *CPU)
        assert (ran.code, ran.out) == (2, "")
        assert said in ran.err
        assert ran.err.count("\n") == 1
        assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("command", ["convert", "verify"])
def test_a_folder_that_goes_meanwhile_does_not_hide_what_was_done(
    run: Run,
    image: Path,
    videos: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    folder, output = tmp_path / "reports", tmp_path / "v.safetensors"
    folder.mkdir()
    done = getattr(workflow, f"{command}_with")

    def going(*arguments: Any, **options: Any) -> Any:
        result = done(*arguments, **options)
        folder.rmdir()
        return result

    monkeypatch.setattr(f"inflate.workflow.{command}_with", going)
    pair = (image, "-o", output) if command == "convert" else (image, videos["all"])
    ran = run(command, *pair, "--report", folder / "r.json", *CPU)
    assert (ran.code, ran.out) == (2, "")
    assert str(folder / "r.json") in ran.err
    assert (f"{output} was published" if command == "convert" else "bitwise") in ran.err
    assert output.exists() == (command == "convert")


def test_ctrl_c_after_the_output_has_its_name_says_so(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("inflate.report.writing.write_report", interrupted)
    ran = run("convert", source, "--report", tmp_path / "r.json", *CPU)
    assert ran.code == 130
    assert f"{tmp_path / 'img.video.safetensors'} was published" in ran.err


@pytest.fixture(autouse=True)
def _no_workflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests may run in a step of a workflow themselves."""
    monkeypatch.delenv(SUMMARY, raising=False)


def test_the_summary_of_a_step(
    run: Run,
    image: Path,
    wrong: Path,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "summary.md"
    monkeypatch.setenv(SUMMARY, str(path))
    assert run("verify", image, wrong, "-q", "--github-summary", *CPU).code == 1
    assert run("convert", source, "-q", "--github-summary", *CPU).code == 0
    text = path.read_text()
    assert text.index("Parity: fail") < text.index("Parity: bitwise")


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
def test_a_stored_document_is_rendered_again(
    run: Run, stored: Path, tmp_path: Path, kind: str, start: str
) -> None:
    beside, elsewhere = stored.with_suffix(f".{kind}"), tmp_path / f"else.{kind}"
    for options, path in (
        (("--to", kind), beside),
        (("-o", elsewhere), elsewhere),
        (("--to", kind, "-o", elsewhere), elsewhere),
    ):
        ran = run("report", stored, *options)
        assert (ran.code, ran.out, ran.err) == (0, f"{path}\n", "")
        assert path.read_text(encoding="utf-8").startswith(start)
    printed = run("report", stored, "--to", kind, "-o", "-")
    assert (printed.code, printed.out) == (0, beside.read_text(encoding="utf-8"))


def test_without_a_kind_it_is_printed(
    run: Run, stored: Path, image: Path, wrong: Path, tmp_path: Path
) -> None:
    ran = run("report", stored)
    assert ran.code == 0, "that it was printed, whatever the verdict"
    assert ran.out.startswith("parity: fail  (largest error 0.0731, float32 on cpu, no GPU")
    assert ran.err.startswith("note: the latents of the probe real")
    live = run("verify", image, wrong, "--report", tmp_path / "r.json", *CPU)
    assert run("report", tmp_path / "r.json").out == live.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-o", "x.json"), "expected .html, .md or .xml"),
        (("-o", "x"), "expected .html, .md or .xml"),
        (("-o", "-"), "expected --to html, md or xml"),
        (("--to", "md", "-o", "x.html"), "--to is 'md', and the ending of x.html"),
        (("-o", "no/x.md"), "make it first"),
        (("--to", "pdf"), "pdf"),
    ],
)
def test_what_cannot_be_rendered(
    run: Run, stored: Path, options: tuple[str, ...], said: str
) -> None:
    ran = run("report", stored, *options)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "inflate/parity-report/2"}'])
def test_what_is_no_document_is_one_message(run: Run, stored: Path, text: str) -> None:
    stored.write_text(text)
    ran = run("report", stored, "--to", "html")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"error: {stored} ")
    assert ran.err.count("\n") == 1
    assert list(stored.parent.iterdir()) == [stored]


def test_rendering_loads_no_torch(stored: Path) -> None:
    code = (
        "import sys\n"
        "from inflate.cli.app import main\n"
        "for options in ([], ['--to', 'html'], ['--to', 'md'], ['--to', 'xml']):\n"
        "    assert main(['report', sys.argv[1], *options]) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, stored], check=True, capture_output=True)
