"""Makers of small images and videos."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from PIL import Image


def picture(path: Path, width: int, height: int, seed: int = 0, mode: str = "RGB") -> Path:
    """An image of smooth colours, in the format of the path's ending."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin((x * (c + 1) + y * (seed + 1)) / 9.0) for c in range(3)]
    values = ((np.stack(waves, axis=-1) + 1) * 127).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).convert(mode).save(path)
    return path


def clip(path: Path, frames: int = 6, width: int = 48, height: int = 32, codec: str = "") -> Path:
    """A video of which frame ``t`` is grey, ``30 t`` of 255."""
    codec = codec or {".mkv": "ffv1", ".mp4": "mpeg4"}[path.suffix]
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for t in range(frames):
            values = np.full((height, width, 3), 30 * t, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(values, format="rgb24")))
        container.mux(stream.encode())
    return path
