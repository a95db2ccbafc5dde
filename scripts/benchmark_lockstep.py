"""Measure the cost of comparing layers: two passes in lockstep against the same passes alone.

    python scripts/benchmark_lockstep.py IMAGE VIDEO [--repeats 3] [--latent 8]

Prints the median of each in seconds and their ratio, as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from inflate.formats.source import describe
from inflate.io.reader import open_checkpoint
from inflate.parity.device import exact_float32, resolve_device
from inflate.parity.lockstep import Lockstep
from inflate.parity.metrics import TOLERANCES
from inflate.parity.pair import DecoderPair, against_source
from inflate.parity.probes import Probe
from inflate.parity.result import Tolerance


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("image", type=Path)
    parser.add_argument("video", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--latent", type=int, default=8, help="height and width of the latents")
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = resolve_device(options.device)
    with open_checkpoint(options.image) as image, open_checkpoint(options.video) as video:
        pair = against_source(describe(image), describe(video), torch.float32, device)
        probe = Probe("benchmark", 1, options.frames, options.latent, options.latent)
        found = measure(pair, probe, options.repeats, device)
    print(json.dumps({"device": str(device), "latents": [options.frames, options.latent], **found}))


def measure(
    pair: DecoderPair, probe: Probe, repeats: int, device: torch.device
) -> dict[str, float]:
    """Seconds of two plain passes and of two in lockstep, taken in turn, and their ratio."""
    assert pair.modules is not None
    modules = pair.modules
    tolerance = Tolerance(TOLERANCES["float32"], TOLERANCES["float32"])
    z = probe.latents(pair.channels, 0).to(device)

    def plain() -> None:
        pair.reference(z, probe.frames)
        pair.candidate(z, probe.frames)

    def watched() -> None:
        lockstep = Lockstep(modules, tolerance)
        lockstep.decode(pair.reference, pair.candidate, z, probe.frames)
        assert lockstep.layers

    times: dict[str, list[float]] = {"plain": [], "lockstep": []}
    with exact_float32(), torch.inference_mode():
        plain()  # The first pass reads the weights from the file.
        for _ in range(repeats):
            times["plain"].append(seconds(plain, device))
            times["lockstep"].append(seconds(watched, device))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {**medians, "ratio": medians["lockstep"] / medians["plain"]}


def seconds(work: Callable[[], None], device: torch.device) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
