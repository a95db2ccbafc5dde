"""Measure the video decoder's forward pass against its yardsticks, each in processes of its own.

Cases run in turn with their yardsticks, round after round, so that a machine that drifts drifts for
both; what is reported is medians, and medians of the ratios taken within a round. Yardsticks are
``diffusers`` (its ``AutoencoderKLTemporalDecoder`` decoder on the same weights, for ``conv-only``
with kernel 3,1,1) and ``convolutions`` (the time of the decoder's convolutions, linear maps and
nothing else, on tensors of the same shapes; it has no memory to compare).

    python scripts/benchmark_decoder.py --latent 16 --json decoder.json
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

KL_F8: dict[str, Any] = {
    "ch": 128,
    "out_ch": 3,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "in_channels": 3,
    "resolution": 256,
    "z_channels": 4,
}
MODES = ("conv-only", "attn-only", "all")
PASSES = 2
"""Forward passes a process, of which the fastest counts: the first one meets cold memory."""

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
CLOCK_HELP = "the time that passes, or the CPU time of the process: steadier where others compute"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", choices=MODES, action="append", help="every mode by default")
    parser.add_argument("--kernel", choices=["3", "3,1,1"], action="append")
    parser.add_argument("--latent", type=int, action="append", help="height and width of latents")
    parser.add_argument("--frames", type=int, action="append")
    parser.add_argument("--chunk", type=int, action="append", help="measure decode(chunk=...) too")
    parser.add_argument("--train", action="store_true", help="measure gradient checkpointing too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="torch's threads; its own choice by default")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help=CLOCK_HELP)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(_measure(json.loads(options.one))))
        return 0
    rows = measure_all(
        options.mode or list(MODES),
        options.kernel or ["3,1,1"],
        options.latent or [16],
        options.frames or [8],
        options.chunk or [],
        train=options.train,
        rounds=options.rounds,
        threads=options.threads,
        clock=options.clock,
        say=lambda text: print(text, file=sys.stderr),
    )
    print_table(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def measure_all(
    modes: Sequence[str],
    kernels: Sequence[str],
    latents: Sequence[int],
    frames: Sequence[int],
    chunks: Sequence[int] = (),
    *,
    train: bool = False,
    rounds: int = 3,
    threads: int | None = None,
    clock: str = "wall",
    say: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """One row for each case and yardstick.

    Args:
        modes: time modes.
        kernels: kernels of the Conv3d, as text.
        latents: heights of square latents.
        frames: numbers of frames, T.
        chunks: chunks of ``decode`` to measure against the whole pass.
        train: measure a training step of the temporal layers with gradient checkpointing, too.
        rounds: how often each is measured.
        threads: torch's threads, or None for its own choice.
        clock: one of CLOCKS.
        say: called with each measurement.

    Returns:
        Rows of ``case``, ``seconds``, ``peak_bytes`` (of the process, its growth over the loaded
        decoder), ``yardstick``, ``ratio`` (of times) and ``peak_ratio``.
    """
    rows = []
    for mode in modes:
        for kernel in kernels if mode != "attn-only" else kernels[:1]:
            for size in latents:
                for count in frames:
                    case = {"mode": mode, "kernel": kernel, "latent": size, "frames": count}
                    rows += _against_yardsticks(
                        {**case, "threads": threads, "clock": clock}, chunks, train, rounds, say
                    )
    return rows


def _against_yardsticks(
    case: dict[str, Any],
    chunks: Sequence[int],
    train: bool,
    rounds: int,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    subjects: dict[str, dict[str, Any]] = {"forward": {**case, "what": "forward"}}
    if case["mode"] == "conv-only" and case["kernel"] == "3,1,1":
        subjects["diffusers"] = {**case, "what": "diffusers"}
    subjects["convolutions"] = {**case, "what": "convolutions"}
    for chunk in chunks:
        subjects[f"chunk {chunk}"] = {**case, "what": "forward", "chunk": chunk}
    for name in ("training", "checkpointed") if train else ():
        subjects[name] = {**case, "what": name}
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            seen[name].append(_in_a_process(subject))
            say(f"{_title(case)} {name}: {seen[name][-1]}")
    own = f"decoder {_title(case)}"
    rows = [
        _row(own, seen["forward"], yardstick, seen[yardstick])
        for yardstick in ("diffusers", "convolutions")
        if yardstick in seen
    ]
    for chunk in chunks:
        rows.append(_row(f"{own} chunk {chunk}", seen[f"chunk {chunk}"], "whole", seen["forward"]))
    if train:
        rows.append(_row(f"{own} checkpointed", seen["checkpointed"], "training", seen["training"]))
    return rows


def _row(
    case: str, own: list[dict[str, Any]], yardstick: str, theirs: list[dict[str, Any]]
) -> dict[str, Any]:
    def ratio(of: str) -> float | None:
        if any(not pair[1][of] for pair in zip(own, theirs, strict=True)):
            return None
        return statistics.median(a[of] / b[of] for a, b in zip(own, theirs, strict=True))

    return {
        "case": case,
        "seconds": statistics.median(a["seconds"] for a in own),
        "peak_bytes": statistics.median(a["peak_bytes"] for a in own),
        "yardstick": yardstick,
        "yardstick_seconds": statistics.median(b["seconds"] for b in theirs),
        "ratio": ratio("seconds"),
        "peak_ratio": ratio("peak_bytes"),
    }


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as a table in Markdown."""
    print("| case | seconds | peak MB | yardstick | its seconds | ratio | ratio of peaks |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        peaks = "-" if row["peak_ratio"] is None else f"{row['peak_ratio']:.2f}"
        own = f"{row['seconds']:.2f} | {row['peak_bytes'] / 1e6:.0f}"
        yardstick = f"{row['yardstick']} | {row['yardstick_seconds']:.2f}"
        print(f"| {row['case']} | {own} | {yardstick} | {row['ratio']:.2f} | {peaks} |")


def _title(case: dict[str, Any]) -> str:
    kernel = "" if case["mode"] == "attn-only" else f" k{case['kernel']}"
    return f"{case['mode']}{kernel} T={case['frames']} {case['latent']}x{case['latent']}"


def _in_a_process(subject: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", json.dumps(subject)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _measure(subject: dict[str, Any]) -> dict[str, Any]:
    import torch

    if subject["threads"]:
        torch.set_num_threads(subject["threads"])
    clock = CLOCKS[subject["clock"]]
    decoder = _decoder(subject)
    size, frames = subject["latent"], subject["frames"]
    z = torch.randn(frames, KL_F8["z_channels"], size, size)
    run: Callable[[], float]
    if subject["what"] == "convolutions":
        run = _convolutions(decoder, z, frames, clock)
    elif subject["what"] == "diffusers":
        theirs, indicator = _diffusers(decoder), torch.zeros(1, frames)
        run = _timed(lambda: theirs(z, indicator, frames), clock)
    elif subject["what"] in ("training", "checkpointed"):
        decoder.freeze_spatial()
        decoder.enable_gradient_checkpointing(subject["what"] == "checkpointed")
        run = _timed(lambda: decoder(z, timesteps=frames).square().mean().backward(), clock)
    elif "chunk" in subject:
        run = _timed(lambda: decoder.decode(z, frames, chunk=subject["chunk"]), clock)
    else:
        run = _timed(lambda: decoder(z, timesteps=frames), clock)
    before = _resident()
    with torch.inference_mode(subject["what"] not in ("training", "checkpointed")):
        seconds = min(run() for _ in range(PASSES))
    peak = 0 if subject["what"] == "convolutions" else max(0, _peak() - before)
    return {"seconds": seconds, "peak_bytes": peak}


def _timed(run: Callable[[], object], clock: Callable[[], float]) -> Callable[[], float]:
    def timed() -> float:
        start = clock()
        run()
        return clock() - start

    return timed


def _decoder(subject: dict[str, Any]) -> Any:
    """A decoder whose temporal layers do something, as after training."""
    import torch

    from inflate.models import VideoDecoder

    torch.manual_seed(0)
    kernel = [int(k) for k in subject["kernel"].split(",")]
    decoder = VideoDecoder(
        time_mode=subject["mode"],
        video_kernel_size=kernel if len(kernel) > 1 else kernel[0],
        **KL_F8,
    )
    for name, parameter in decoder.named_parameters():
        if name.endswith("time_stack.out_layers.3.weight"):
            torch.nn.init.normal_(parameter, std=0.01)
    return decoder.eval()


def _diffusers(decoder: Any) -> Any:
    """The decoder of diffusers' class, on the very tensors of ours."""
    import torch
    from diffusers import AutoencoderKLTemporalDecoder

    from inflate.formats.dialects import to_diffusers

    levels = len(KL_F8["ch_mult"])
    with torch.device("meta"):
        model = AutoencoderKLTemporalDecoder(
            block_out_channels=tuple(KL_F8["ch"] * mult for mult in KL_F8["ch_mult"]),
            down_block_types=("DownEncoderBlock2D",) * levels,
            layers_per_block=KL_F8["num_res_blocks"],
            latent_channels=KL_F8["z_channels"],
        )
    theirs = model.decoder
    expected = theirs.state_dict()
    own = {f"decoder.{key}": value for key, value in decoder.state_dict().items()}
    names = {key: to_diffusers(key, levels).removeprefix("decoder.") for key in own}
    tensors = {names[key]: value.view(expected[names[key]].shape) for key, value in own.items()}
    theirs.load_state_dict(tensors, strict=True, assign=True)
    return theirs.eval()


def _convolutions(
    decoder: Any, z: Any, frames: int, clock: Callable[[], float]
) -> Callable[[], float]:
    """Time torch's own layers, on random tensors in the usual layout, one at a time."""
    import torch
    from torch import nn

    kinds = (nn.Conv2d, nn.Conv3d, nn.Linear)
    calls: list[tuple[Any, Any]] = []
    handles = [
        module.register_forward_hook(lambda m, given, _: calls.append((m, given[0].shape)))
        for module in decoder.modules()
        if isinstance(module, kinds)
    ]
    with torch.inference_mode():
        decoder(z, timesteps=frames)
    for handle in handles:
        handle.remove()

    def run() -> float:
        seconds = 0.0
        for module, shape in calls:
            kind = next(kind for kind in kinds if isinstance(module, kind))
            x = torch.randn(shape)
            seconds += _timed(lambda k=kind, m=module, x=x: k.forward(m, x), clock)()  # type: ignore[misc]
        return seconds

    return run


def _resident() -> int:
    """Bytes of memory that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _peak() -> int:
    """Bytes of memory that the process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
