"""Every command and every Python block of the README runs as it is written, in its order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from inflate.cli.app import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SET_UP = [
    "python3 -m venv .venv",
    "source .venv/bin/activate",
    "pip install -c constraints.txt '.[report,diffusers]'",
]
"""Run outside the tests: they make the environment that the tests run in."""


def blocks() -> list[tuple[str, str]]:
    """The language and the text of each fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_it_is_short_and_the_set_up_comes_first() -> None:
    assert len(README.splitlines()) <= 130
    language, text = blocks()[0]
    assert language == "bash"
    assert text.splitlines()[:3] == SET_UP


@pytest.mark.slow
def test_every_block_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # For worker processes.
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    printed = ""
    for language, text in blocks():
        if language == "python":
            exec(compile(text, str(ROOT / "README.md"), "exec"), names)
        elif language == "text":
            assert comparable(text) == comparable(printed)
        else:
            assert language == "bash"
            for line in text.splitlines():
                if line in SET_UP:
                    continue
                program, *arguments = shlex.split(line, comments=True)
                if program == "cd":
                    monkeypatch.chdir(arguments[0])
                    continue
                assert program == "inflate"
                capsys.readouterr()
                assert main(arguments) == 0, line
                printed = capsys.readouterr().out
    assert Path("report.html").is_file()
    assert Path("out/demo.video.safetensors").is_file()


def comparable(output: str) -> list[str]:
    """The lines of ``verify`` without what differs between machines: noise and the device."""
    output = re.sub(r"(?m)^noise floor: [\d.e-]+", "noise floor", output)
    output = re.sub(r"(?m)(float32 on) .*\)$", r"\1", output)
    return [line.rstrip().removesuffix(")") for line in output.splitlines()]


@pytest.mark.slow
def test_the_demo_script_runs(tmp_path: Path) -> None:
    venv = os.environ.get("VIRTUAL_ENV")
    if venv is None or not (Path(venv) / ".inflate-dev").is_file():
        pytest.skip("not in an environment of scripts/test.sh, which demo.sh would reuse")
    environment = os.environ | {"INFLATE_VENV": venv}
    command = [ROOT / "scripts/demo.sh", "out"]
    printed = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    assert printed.count("parity: bitwise") == 3
