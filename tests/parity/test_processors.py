"""Parity holds bit for bit on processors older than the one that the tests run on.

Run as a program, it prints the cases: which kernels a processor has is decided once per process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

import inflate
from inflate.parity.device import exact_float32

from ..checkpoints import (
    ATTENTION_IN_UP,
    autoencoder,
    prefixed,
    video_autoencoder,
    write_lightning,
    write_safetensors,
    write_torch,
)
from ..conversions import CPU, at_offset
from ..models.builders import noise

THREADS = (1, 2, 3)


def verdicts(folder: Path) -> dict[str, str]:
    """The verdict of each case; what is copied is to be ``bitwise`` on every processor."""
    found = {}
    image = write_lightning(folder / "img.ckpt", autoencoder(**ATTENTION_IN_UP))
    for mode in ("all", "conv-only", "attn-only"):
        out = folder / f"{mode}.safetensors"
        inflate.convert(image, out, time_mode=mode, alpha=0.3, overwrite=True, **CPU)
        # Elsewhere in its file than where it was checked.
        report = inflate.verify(image, at_offset(out, 36), **CPU)
        found[f"inflate {mode}"] = report.verdict
    weights = video_autoencoder("plain", temporal={"time_mode": "all"}, **ATTENTION_IN_UP)
    video = write_torch(folder / "video.pt", prefixed(weights))
    for layout in ("autoencoder", "sgm"):
        copied = inflate.convert(video, folder / layout, layout=layout, overwrite=True, **CPU)
        assert copied.parity is not None
        found[f"copy to {layout}"] = copied.parity.verdict
    return found


def offsets_that_differ(folder: Path) -> list[int]:
    """Where in a file the same weights decode a single frame to other images than at its start."""
    weights = video_autoencoder("plain", temporal={"time_mode": "attn-only"})
    z = noise(1, 4, 3, 5)
    images = {}
    start = write_safetensors(folder / "start.safetensors", weights)
    for offset in range(0, 64, 4):
        path = at_offset(Path(shutil.copy(start, folder / f"{offset}.safetensors")), offset)
        with exact_float32(), torch.inference_mode():
            images[offset] = inflate.load_video_decoder(path)(z, timesteps=1)
    return [offset for offset, image in images.items() if not torch.equal(image, images[0])]


def main() -> None:
    """Print what came of every case, by the number of threads, as JSON."""
    found = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        with tempfile.TemporaryDirectory() as folder:
            found[threads] = {
                "verdicts": verdicts(Path(folder)),
                "offsets": offsets_that_differ(Path(folder)),
            }
    json.dump(found, sys.stdout)


pytestmark = pytest.mark.slow  # test_matrix does the same on the processor that it runs on.

ROOT = Path(__file__).resolve().parents[2]
PROCESSORS = {
    # torch's own kernels, oneDNN's, and MKL's, in which the rows of a matrix differ by address.
    "SSE4": ("default", "SSE41", "SSE4_2"),
    "AVX2": ("avx2", "AVX2", "AVX2"),
}


@pytest.fixture(scope="module", params=PROCESSORS)
def found(request: pytest.FixtureRequest) -> Any:
    """What the cases came to on a processor, by the number of threads."""
    names = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
    chosen = dict(zip(names, PROCESSORS[request.param], strict=True))
    command = [sys.executable, "-m", "tests.parity.test_processors"]
    ran = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **chosen}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize("threads", THREADS)
def test_every_case_is_bitwise(found: Any, threads: int) -> None:
    verdicts = found[str(threads)]["verdicts"]
    assert len(verdicts) == 5
    assert verdicts == dict.fromkeys(verdicts, "bitwise")


@pytest.mark.parametrize("threads", THREADS)
def test_the_same_weights_at_every_offset_give_the_same_images(found: Any, threads: int) -> None:
    assert found[str(threads)]["offsets"] == []


if __name__ == "__main__":
    main()
