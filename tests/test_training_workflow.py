"""From an image checkpoint to a trained file, as the README describes it."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import inflate
from inflate.cli.demo import DEMO_CHECKPOINT

from .conversions import CPU, snapshot
from .media import clip

pytestmark = pytest.mark.slow

FINETUNE = Path(__file__).resolve().parents[1] / "examples" / "finetune.py"
QUICK = ("--frames", "3", "--side", "16", "--batch", "1", "--device", "cpu")


def finetune(*arguments: object) -> str:
    """Run the example, and return its log."""
    words = [sys.executable, str(FINETUNE), *map(str, arguments), *QUICK]
    ran = subprocess.run(words, capture_output=True, text=True, cwd=FINETUNE.parents[1])
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained file, its start, and a clip."""
    folder = tmp_path_factory.mktemp("training")
    clip(folder / "clip.mp4")
    start = folder / "start.safetensors"
    inflate.convert(DEMO_CHECKPOINT, start, video_kernel_size=(3, 1, 1), **CPU)
    finetune(start, folder / "clip.mp4", "-o", folder / "trained.safetensors", "--steps", 3)
    return folder


def test_training_leaves_the_image_decoder_intact(folder: Path) -> None:
    trained = folder / "trained.safetensors"
    report = inflate.verify(DEMO_CHECKPOINT, trained, trained=True, **CPU)
    assert report.passed
    assert report.trained is not None
    assert all(part.moved for part in report.trained.movements)
    assert report.trained.max_abs_difference
    assert not inflate.verify(DEMO_CHECKPOINT, trained, **CPU).passed


def test_an_interrupted_run_resumes_bit_for_bit(folder: Path) -> None:
    start, output = folder / "start.safetensors", folder / "resumed.safetensors"
    finetune(start, folder / "clip.mp4", "-o", output, "--steps", 1)
    output.unlink()
    finetune(start, folder / "clip.mp4", "-o", output, "--steps", 3, "--resume")
    assert output.read_bytes() == (folder / "trained.safetensors").read_bytes()


def test_what_cannot_be_trained_is_refused_before_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = runpy.run_path(str(FINETUNE))["main"]
    start, video, output = folder / "start.safetensors", folder / "clip.mp4", folder / "new"
    for wrong in (
        (DEMO_CHECKPOINT, video),  # An image autoencoder.
        (start, folder / "gone.mp4"),
        (start, start),  # Not a video.
        (start, video, "--frames", 300),
        (start, video, "--side", 30),
        (start, video, "--steps", 0),
        (start, video, "--device", "nowhere"),
        (start, video, "--resume"),
        (start, video, "-o", start),
    ):
        before = snapshot(folder)
        words = ["finetune.py", "-o", str(output), *QUICK, *map(str, wrong)]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2, wrong
        assert snapshot(folder) == before
