"""What the machine can do, for the floors: bytes written, FLOPs of a product: FOLDER."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time

import torch

BLOCK, BLOCKS, SIDE, TIMES = 1 << 20, 512, 2048, 5


def disk() -> float:
    """Bytes a second of a sequential write with its fsync."""
    block = os.urandom(BLOCK)
    with tempfile.TemporaryFile(dir=sys.argv[1], buffering=0) as file:
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), 0, BLOCK * BLOCKS)
        started = time.perf_counter()
        for _ in range(BLOCKS):
            file.write(block)
        os.fsync(file.fileno())
        return BLOCK * BLOCKS / (time.perf_counter() - started)


def product() -> float:
    """FLOPs a second of a product of float32 matrices, on all cores."""
    a = torch.randn(SIDE, SIDE)
    a @ a
    started = time.perf_counter()
    for _ in range(TIMES):
        a @ a
    return TIMES * 2 * SIDE**3 / (time.perf_counter() - started)


json.dump(
    {
        "disk_bytes_per_second": disk(),
        "flops_per_second": product(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    },
    sys.stdout,
)
