"""``inflate inspect``: what a file holds and what stands in its way, without torch where it can."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ..checkpoints import autoencoder
from .conftest import Run


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A safetensors image checkpoint."""
    path = tmp_path / "img.safetensors"
    save_file(autoencoder(), path)
    return path


def test_what_people_read(run: Run, plain: Path) -> None:
    ran = run("inspect", plain)
    assert (ran.code, ran.err) == (0, "")
    assert "format        safetensors" in ran.out
    assert "architecture  ch 32, ch_mult 1 2" in ran.out
    assert f"write {plain.with_name('img.video.safetensors')}" in ran.out
    assert "in the way" not in ran.out


def test_what_programs_read(run: Run, plain: Path) -> None:
    document = json.loads(run("inspect", plain, "--json").out)
    assert document["schema"] == "inflate/inspection/1"
    assert document["names"] == "ldm"
    assert document["inflated"] is False
    assert document["architecture"]["ch_mult"] == [1, 2]
    assert document["obstacles"] == []
    weights = autoencoder()
    decoder = [key for key in weights if key.startswith("decoder.")]
    assert document["convert"]["copied"] == len(decoder)
    assert document["convert"]["passed_through"] == len(weights) - len(decoder)
    sizes = {part["name"]: part["nbytes"] for part in document["parts"]}
    assert sizes["decoder"] == sum(4 * weights[key].numel() for key in decoder)


def test_everything_in_the_way_is_listed(run: Run, tmp_path: Path) -> None:
    weights = autoencoder()
    del weights["decoder.norm_out.bias"]
    weights["decoder.extra.weight"] = torch.zeros(2)
    path = tmp_path / "bad.safetensors"
    save_file(weights, path)
    ran = run("inspect", path, "-q")
    assert ran.code == 0
    assert "decoder.norm_out.bias is missing" in ran.out
    assert "decoder.extra.weight is not part of this architecture" in ran.out


def test_a_video_checkpoint(run: Run, videos: dict[str, Path]) -> None:
    document = json.loads(run("inspect", videos["conv-only"], "--json").out)
    assert document["inflated"] is True
    assert document["temporal"]["time_mode"] == "conv-only"
    assert document["metadata"]["inflate.parity.verdict"] == "bitwise"
    assert "--layout" in document["obstacles"][-1]


def test_another_family_is_named(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "taesd.safetensors"
    save_file({"decoder.layers.1.conv.0.weight": torch.zeros(2)}, path)
    ran = run("inspect", path)
    assert ran.code == 0
    assert "in the way" in ran.out
    assert "TAESD" in ran.out


def test_what_cannot_be_read(run: Run, tmp_path: Path) -> None:
    ran = run("inspect", tmp_path / "nothing.safetensors")
    assert (ran.code, ran.out) == (2, "")
    assert "does not exist" in ran.err


def test_foreign_names_of_a_torch_file(run: Run) -> None:
    from inflate.cli.demo import DEMO_CHECKPOINT

    document = json.loads(run("inspect", DEMO_CHECKPOINT, "--json").out)
    assert document["format"] == "torch"
    assert document["foreign"] == ["pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"]


def test_safetensors_need_no_torch(plain: Path) -> None:
    script = (
        "import sys; from inflate.cli.app import main; code = main(['inspect', sys.argv[1]]);"
        "heavy = {'torch', 'omegaconf', 'safetensors', 'xformers'} & set(sys.modules);"
        "print(sorted(heavy), file=sys.stderr); sys.exit(code or len(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(plain)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
