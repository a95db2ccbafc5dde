"""Some cases of parity, run by :mod:`tests.parity.test_processors` in processes of their own.

Which kernels a processor has is decided once per process, when torch is loaded.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

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


if __name__ == "__main__":
    main()
