"""Measure batches: two workers against one, a batch against single commands, 1,000 finished jobs.

    python scripts/benchmark_batch.py [--repeat 3] [--folder DIR]

It makes its own inputs, alternates what it compares, and prints medians and their ratios.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SMALL = {"ch_mult": [1]}
MIDDLE = {"ch": 96, "ch_mult": [1, 2, 4], "num_res_blocks": 2}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        make(folder / "small", 24, SMALL)
        make(folder / "middle", 8, MIDDLE)
        workers(folder, chosen.repeat)
        commands(folder, chosen.repeat)
        finished(folder, chosen.repeat)


def make(folder: Path, count: int, shape: dict[str, object]) -> None:
    """Write this many sources into a folder."""
    from tests.checkpoints import autoencoder, write_safetensors

    folder.mkdir()
    for number in range(count):
        write_safetensors(folder / f"m{number:02}.safetensors", autoencoder(seed=number, **shape))


def workers(folder: Path, repeat: int) -> None:
    """Eight mid-size jobs with one worker and with two."""
    taken: dict[str, list[float]] = {"1": [], "2": []}
    for _ in range(repeat):
        for jobs, seconds in taken.items():
            seconds.append(batch(folder, "middle", "--jobs", jobs))
    print_ratio("8 mid-size jobs", "--jobs 2", taken["2"], "--jobs 1", taken["1"])


def commands(folder: Path, repeat: int) -> None:
    """Twenty-four small jobs in a batch and as single commands."""
    together, alone = [], []
    for _ in range(repeat):
        together.append(batch(folder, "small", "--jobs", "2"))
        out = folder / "alone"
        out.mkdir()
        started = time.perf_counter()
        for source in sorted((folder / "small").iterdir()):
            inflate("convert", source, "-o", out / source.name, "--device", "cpu", "-q")
        alone.append(time.perf_counter() - started)
        shutil.rmtree(out)
    print_ratio("24 small jobs", "one batch", together, "24 commands", alone)


def finished(folder: Path, repeat: int) -> None:
    """A thousand finished jobs, compared with a command that does nothing."""
    sources = folder / "thousand"
    sources.mkdir()
    first = next(iter(sorted((folder / "small").iterdir())))
    for number in range(1000):
        shutil.copyfile(first, sources / f"m{number:04}.safetensors")
    print("converting 1,000 checkpoints (a minute or two)", file=sys.stderr)
    command = ("batch", f"{sources}/*", "-o", folder / "done", "--skip-parity", "-q")
    inflate(*command, "--jobs", "2")
    again, start = [], []
    for _ in range(repeat):
        again.append(timed(*command))
        start.append(timed("presets"))
    print_ratio("1,000 finished jobs", "batch", again, "inflate presets", start)
    print(f"  beyond start-up: {statistics.median(again) - statistics.median(start):.2f} s")


def batch(folder: Path, sources: str, *options: str) -> float:
    """Seconds of a batch into an empty folder."""
    out = folder / "out"
    seconds = timed("batch", f"{folder / sources}/*", "-o", out, "--device", "cpu", "-q", *options)
    shutil.rmtree(out)
    return seconds


def timed(*arguments: object) -> float:
    """Seconds of a command."""
    started = time.perf_counter()
    inflate(*arguments)
    return time.perf_counter() - started


def inflate(*arguments: object) -> None:
    """Run a command."""
    subprocess.run(
        [sys.executable, "-m", "inflate", *map(str, arguments)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def print_ratio(what: str, name: str, new: list[float], other: str, old: list[float]) -> None:
    """Print two medians and their ratio."""
    a, b = statistics.median(new), statistics.median(old)
    print(f"{what}: {name} {a:.2f} s, {other} {b:.2f} s, ratio {a / b:.2f}", flush=True)


if __name__ == "__main__":
    main()
