"""``--report``, ``--github-summary`` and ``inflate report``: files next to what is printed."""

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
from .conftest import CPU, Run

SUMMARY = "GITHUB_STEP_SUMMARY"


@pytest.fixture
def wrong(videos: dict[str, Path], tmp_path: Path) -> Path:
    """A video checkpoint that does not equal its image decoder."""
    bias = "decoder.conv_out.time_mix_conv.bias"
    return nudged(videos["all"], tmp_path / "wrong.safetensors", bias)


def all_of(folder: Path) -> list[str]:
    """The options for a report of every kind."""
    return [word for e in ("html", "json", "md", "xml") for word in ("--report", f"{folder}/r.{e}")]


@pytest.mark.parametrize("failed", [False, True])
def test_several_reports_of_one_run(
    run: Run, image: Path, videos: dict[str, Path], wrong: Path, tmp_path: Path, failed: bool
) -> None:
    video = wrong if failed else videos["all"]
    ran = run("verify", image, video, "--json", *all_of(tmp_path), *CPU)
    assert (ran.code, ran.err) == (int(failed), "")
    verdict = ran.document["verdict"]
    assert verdict == ("fail" if failed else "bitwise")
    assert json.loads((tmp_path / "r.json").read_text()) == ran.document
    assert f"Parity: {verdict}" in (tmp_path / "r.md").read_text()
    assert ("Not equal" if failed else "Bitwise equal") in (tmp_path / "r.html").read_text()
    failures = int(ET.parse(tmp_path / "r.xml").getroot().get("failures", ""))
    assert (failures > 0) == failed


@pytest.mark.parametrize("failed", [False, True])
def test_reports_of_a_conversion(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: bool
) -> None:
    if failed:
        spoil_start(monkeypatch, lambda *_: True)
    ran = run("convert", source, "-q", "--report", tmp_path / "r.json", *CPU)
    document = json.loads((tmp_path / "r.json").read_text())
    assert (ran.code, document["verdict"]) == ((1, "fail") if failed else (0, "bitwise"))
    assert ran.out == ("" if failed else f"{document['candidate']['path']}\n")


@pytest.mark.parametrize("option", ["--dry-run", "--skip-parity"])
def test_without_a_check_there_is_no_report(
    run: Run, source: Path, tmp_path: Path, option: str
) -> None:
    ran = run("convert", source, option, "--report", tmp_path / "r.md", *CPU)
    assert (ran.code, ran.out) == (2, "")
    assert option in ran.err
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("command", ["convert", "verify"])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--report", "r.pdf"), "r.pdf"),
        (("--report", "no/r.md"), "no"),
        (("--report", "r.md", "--report", "r.md"), "r.md"),
        (("--github-summary",), SUMMARY),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(
    run: Run,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    options: tuple[str, ...],
    named: str,
) -> None:
    monkeypatch.delenv(SUMMARY, raising=False)
    monkeypatch.chdir(tmp_path)
    ran = run(command, source, *options, *CPU)
    assert (ran.code, ran.out) == (2, "")
    assert named in ran.err
    assert ran.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("command", ["convert", "verify"])
def test_a_folder_that_vanishes_does_not_hide_what_was_done(
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

    def vanishing(*arguments: Any, **options: Any) -> Any:
        result = done(*arguments, **options)
        folder.rmdir()
        return result

    monkeypatch.setattr(f"inflate.workflow.{command}_with", vanishing)
    pair = (image, "-o", output) if command == "convert" else (image, videos["all"])
    ran = run(command, *pair, "--report", folder / "r.json", *CPU)
    assert (ran.code, ran.out) == (2, "")
    assert str(folder / "r.json") in ran.err
    assert (f"{output} was published" if command == "convert" else "bitwise") in ran.err
    assert output.exists() == (command == "convert")


def test_the_summary_of_a_step(
    run: Run, image: Path, wrong: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    monkeypatch.setenv(SUMMARY, str(path))
    assert run("verify", image, wrong, "-q", "--github-summary", *CPU).code == 1
    text = path.read_text()
    assert text.index("before") < text.index("Parity: fail")


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


def test_without_a_kind_it_is_printed(run: Run, image: Path, wrong: Path, tmp_path: Path) -> None:
    live = run("verify", image, wrong, "--report", tmp_path / "r.json", *CPU)
    again = run("report", tmp_path / "r.json")
    assert (live.code, again.code) == (1, 0), "0: it was printed, whatever the verdict"
    assert again.out == live.out != ""


@pytest.mark.parametrize(
    "options",
    [
        ("-o", "x.json"),
        ("-o", "x"),
        ("-o", "-"),
        ("--to", "md", "-o", "x.html"),
        ("-o", "no/x.md"),
        ("--to", "pdf"),
    ],
)
def test_what_cannot_be_rendered(run: Run, stored: Path, options: tuple[str, ...]) -> None:
    ran = run("report", stored, *options)
    assert (ran.code, ran.out) == (2, "")
    assert options[-1].removeprefix("no/").removesuffix(".md") in ran.err
    assert list(stored.parent.iterdir()) == [stored]


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "inflate/parity-report/2"}'])
def test_what_is_not_a_document_is_one_message(run: Run, stored: Path, text: str) -> None:
    stored.write_text(text)
    ran = run("report", stored, "--to", "html")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"error: {stored} ")
    assert ran.err.count("\n") == 1


def test_rendering_loads_no_torch(stored: Path) -> None:
    code = (
        "import sys\n"
        "from inflate.cli.app import main\n"
        "for options in ([], ['--to', 'html'], ['--to', 'md'], ['--to', 'xml']):\n"
        "    assert main(['report', sys.argv[1], *options]) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, stored], check=True, capture_output=True)
