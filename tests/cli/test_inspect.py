"""``inflate inspect``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from inflate.cli.demo import DEMO_CHECKPOINT
from inflate.vocabulary import TARGETS
from inflate.workflow import convert, inspect

from ..checkpoints import autoencoder, write_safetensors
from ..conversions import CPU
from .conftest import Run


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A safetensors image checkpoint."""
    return write_safetensors(tmp_path / "img.safetensors", autoencoder())


def test_text(run: Run, plain: Path) -> None:
    ran = run("inspect", plain)
    assert (ran.code, ran.err) == (0, "")
    assert "format        safetensors" in ran.out
    assert "architecture  ch 32, ch_mult 1 2" in ran.out
    assert f"write {plain.with_name('img.video.safetensors')}" in ran.out
    assert "obstacle:" not in ran.out


def test_the_document(run: Run, plain: Path, videos: dict[str, Path]) -> None:
    document = run("inspect", plain, "--json").document
    assert document["schema"] == "inflate/inspection/1"
    assert (document["kind"], document["layout"]) == ("image autoencoder", None)
    assert (document["names"], document["inflated"], document["obstacles"]) == ("ldm", False, [])
    assert document["architecture"]["ch_mult"] == [1, 2]
    weights = autoencoder()
    decoder = [key for key in weights if key.startswith("decoder.")]
    assert document["convert"]["copied"] == len(decoder)
    assert document["convert"]["passed_through"] == len(weights) - len(decoder)
    sizes = {part["name"]: part["nbytes"] for part in document["parts"]}
    assert sizes["decoder"] == sum(4 * weights[key].numel() for key in decoder)

    video = run("inspect", videos["conv-only"], "--json").document
    assert (video["inflated"], video["temporal"]["time_mode"]) == (True, "conv-only")
    assert video["metadata"]["inflate.parity.verdict"] == "bitwise"
    assert "--layout" in video["obstacles"][-1]
    assert (video["kind"], video["layout"]) == ("video autoencoder", "autoencoder")
    assert video["layouts"]["autoencoder"]["obstacles"] == []
    assert video["layouts"]["sgm"]["obstacles"] != []

    demo = run("inspect", DEMO_CHECKPOINT, "--json").document
    assert demo["format"] == "torch"
    assert demo["foreign"] == ["pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"]


@pytest.mark.parametrize("layout", TARGETS)
def test_the_layout_of_a_video_file(layout: Any, tmp_path: Path) -> None:
    weights = autoencoder("plain", ch_mult=[1], num_res_blocks=2)
    source = write_safetensors(tmp_path / "img.safetensors", weights)
    options = {"video_kernel_size": (3, 1, 1), "skip_parity": True, **CPU}
    convert(source, tmp_path / "out", layout=layout, **options)
    found = inspect(tmp_path / "out")
    kind = "video decoder" if layout == "decoder" else "video autoencoder"
    assert (found.kind, found.layout, found.layouts[layout]) == (kind, layout, ())
    assert found.blend is not None
    assert (found.blend.strategy, found.blend.alpha) == ("learned", 0.0)


def test_every_obstacle_is_listed(run: Run, tmp_path: Path) -> None:
    weights = autoencoder()
    del weights["decoder.norm_out.bias"]
    weights["decoder.extra.weight"] = torch.zeros(2)
    path = write_safetensors(tmp_path / "bad.safetensors", weights)
    quiet = run("inspect", path, "-q")
    assert quiet.code == 0
    obstacles = quiet.out.splitlines()
    assert len(obstacles) >= 2
    for name in ("decoder.norm_out.bias", "decoder.extra.weight"):
        assert any(name in line for line in obstacles)
    full = run("inspect", path).out
    assert all(f"obstacle: {line}" in full for line in obstacles)


def test_a_check_is_in_the_exit_code(run: Run, plain: Path, videos: dict[str, Path]) -> None:
    broken = ("--ignore", "decoder.conv_in.bias")
    files: list[tuple[tuple[object, ...], int]] = [
        ((plain,), 0), ((plain, *broken), 1), ((videos["all"],), 1), ((plain.parent / "no",), 2),
    ]  # fmt: skip
    for arguments, code in files:
        for more in ((), ("-q",), ("--json",)):
            assert run("inspect", *arguments, "--check", *more).code == code
    assert run("inspect", plain, *broken).code == 0


def test_safetensors_need_no_torch(plain: Path) -> None:
    script = (
        "import sys; from inflate.cli.app import main; code = main(['inspect', sys.argv[1]]);"
        "heavy = {'torch', 'omegaconf', 'safetensors', 'xformers'} & set(sys.modules);"
        "print(sorted(heavy), file=sys.stderr); sys.exit(code or len(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", script, plain], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
