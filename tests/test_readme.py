"""Every command and every Python block of the README runs as it is written."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from inflate.cli.app import main
from inflate.cli.demo import DEMO_CHECKPOINT

from .checkpoints import autoencoder, write_safetensors

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[list[str]]:
    """The command lines of the shell blocks that call a program, as words."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [w for w in words if w and (w[0] == program or w[0].startswith(program))]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an ``img.ckpt`` and one of ``ckpts``, to stand in."""
    shutil.copyfile(DEMO_CHECKPOINT, tmp_path / "img.ckpt")
    (tmp_path / "ckpts").mkdir()
    write_safetensors(tmp_path / "ckpts" / "img.safetensors", autoencoder(ch_mult=[1]))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # For worker processes.
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_inflate_commands_run_in_their_order(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(commands("inflate")) >= 8
    for words in commands("inflate"):
        assert main(words[1:]) == 0, words
    assert (workplace / "img.video.safetensors").is_file()
    # What the README shows of verify is what verify prints.
    capsys.readouterr()
    assert main(["verify", "img.ckpt", "img.video.safetensors", "--device", "cpu"]) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    shown = blocks("text")[0].splitlines()
    # The noise is the machine's own: its number differs from one to the next.
    noise = re.compile(r"^noise floor: [\d.e-]+$")
    assert [noise.sub("noise floor", line) for line in printed] == [
        noise.sub("noise floor", line) for line in shown
    ]
    assert "noise floor: 9.76e-07" in shown


@pytest.mark.slow
def test_the_two_set_up_commands_are_there_and_demo_runs(tmp_path: Path) -> None:
    scripts = [words[0] for words in commands("scripts/")]
    assert scripts == ["scripts/demo.sh", "scripts/test.sh"]
    assert all(os.access(ROOT / script, os.X_OK) for script in scripts)
    venv = os.environ.get("VIRTUAL_ENV")
    if venv is None or not (Path(venv) / ".inflate-dev").is_file():
        pytest.skip("not in an environment of scripts/test.sh, which demo.sh would reuse")
    done = subprocess.run(
        [ROOT / "scripts/demo.sh", "out"],
        cwd=tmp_path,
        env=os.environ | {"INFLATE_VENV": venv},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("parity: bitwise") == 3


def test_the_python_blocks_run(workplace: Path) -> None:
    names = {"frames": torch.rand(8, 3, 16, 16) * 2 - 1}
    found = blocks("python")
    assert len(found) == 3
    for block in found:
        exec(compile(block, str(ROOT / "README.md"), "exec"), names)
    assert names["video"].shape == (64, 3, 256, 256)
