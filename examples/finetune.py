"""Fine-tune the temporal layers of a video autoencoder on clips.

    inflate convert img.ckpt -o img.video.safetensors
    python examples/finetune.py img.video.safetensors clips/*.mp4 -o trained.safetensors
    inflate verify img.ckpt trained.safetensors --trained

The spatial layers stay frozen, so the trained file still holds the image decoder. The decoder sees
noisy posterior samples, as a diffusion model's latents are.
"""

import argparse
import sys
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

import inflate


def read_clip(path: str | Path, height: int | None = None) -> Tensor:
    """The frames of a video, ``T 3 H W``, in bytes; scaled to a height if one is given."""
    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            width = height and round(frame.width * height / frame.height)
            scaled = frame.reformat(width, height, "rgb24", interpolation="AREA")
            frames.append(torch.from_numpy(scaled.to_ndarray()))
    return torch.stack(frames).permute(0, 3, 1, 2).contiguous()


def random_clips(
    videos: list[Tensor], rng: np.random.Generator, batch: int, frames: int, side: int
) -> Tensor:
    """Random crops of consecutive frames, ``B T 3 side side`` in [-1, 1]."""
    clips = []
    for _ in range(batch):
        video = videos[rng.integers(len(videos))]
        length, _, height, width = video.shape
        t, y, x = (int(rng.integers(n + 1)) for n in (length - frames, height - side, width - side))
        clips.append(video[t : t + frames, :, y : y + side, x : x + side])
    return torch.stack(clips).float() / 127.5 - 1.0


def noisy_latents(model: torch.nn.Module, clips: Tensor, noise: float) -> Tensor:
    """Posterior samples ``B T e h w``, with noise in units of their standard deviation."""
    with torch.no_grad():
        z = model.encode(clips, sample=True)
        return z + noise * z.std() * torch.randn_like(z)


def loss_of(output: Tensor, clips: Tensor) -> Tensor:
    """L1 of the frames, and of the differences between neighbouring frames, ``B T C H W``."""
    return (output - clips).abs().mean() + (output.diff(dim=1) - clips.diff(dim=1)).abs().mean()


def main() -> None:
    """Train, log, save."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("checkpoint", help="a video autoencoder that inflate convert wrote")
    parser.add_argument("clips", nargs="+", help="video files")
    parser.add_argument("-o", "--output", type=Path, default="trained.safetensors", help="result")
    parser.add_argument("--steps", type=int, default=100, help="optimiser steps")
    parser.add_argument("--batch", type=int, default=2, help="clips per step")
    parser.add_argument("--frames", type=int, default=8, help="at least 2")
    parser.add_argument("--height", type=int, help="scale the clips to so many pixels")
    parser.add_argument("--side", type=int, default=64, help="pixels of the random crops")
    parser.add_argument("--lr", type=float, default=1e-4, help="learning rate")
    parser.add_argument("--noise", type=float, default=0.2, help="in units of the latents' std")
    parser.add_argument("--seed", type=int, default=0, help="of crops and noise")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bfloat16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--checkpointing", action="store_true", help="less memory, more time")
    parser.add_argument("--compile", action="store_true", help="torch.compile the decoder")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT")
    parser.add_argument("--resume", action="store_true", help="continue from OUTPUT's state")
    args = parser.parse_args()
    state_path = args.output.with_suffix(".state.pt")
    for name, least in {"steps": 1, "batch": 1, "frames": 2, "side": 1}.items():
        if getattr(args, name) < least:
            parser.error(f"--{name} is {getattr(args, name)}; expected {least} or more")
    if args.output.suffix != ".safetensors" or not args.output.parent.is_dir():
        parser.error(f"-o is {args.output}; expected NAME.safetensors in a folder that exists")
    if args.output.exists() and not args.overwrite:
        parser.error(f"{args.output} exists; choose another name with -o, or pass --overwrite")
    if args.resume and not state_path.is_file():
        parser.error(f"{state_path} does not exist; run without --resume first")

    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    loading, videos = args.checkpoint, []
    try:
        model = inflate.load_video_autoencoder(loading).to(args.device)
        for loading in args.clips:
            videos.append(read_clip(loading, args.height))
    except (inflate.InflateError, OSError, RuntimeError, AssertionError, ValueError) as error:
        parser.error(f"cannot load {loading}: {error}")
    for path, video in zip(args.clips, videos, strict=True):
        if len(video) < args.frames or min(video.shape[2:]) < args.side:
            shape = " x ".join(map(str, video.shape))
            parser.error(f"{path} has T x C x H x W = {shape}; smaller than --frames or --side")
    blank = torch.zeros(1, 1, 3, args.side, args.side, device=args.device)
    if model.encoder is None or model.decode(model.encode(blank)).shape != blank.shape:
        parser.error(f"{args.checkpoint} does not encode and decode crops of --side {args.side}")
    model.freeze_spatial()
    model.enable_gradient_checkpointing(args.checkpointing)
    optimizer = torch.optim.AdamW(model.parameter_groups(lr=args.lr, weight_decay=0.01))
    start = 0
    if args.resume:
        state = torch.load(state_path, map_location=args.device, weights_only=True)
        start = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"].cpu())
        rng.bit_generator.state = state["rng"]
    decode = torch.compile(model) if args.compile else model

    for step in range(start, args.steps):
        clips = random_clips(videos, rng, args.batch, args.frames, args.side).to(args.device)
        with torch.autocast(clips.device.type, torch.bfloat16, enabled=args.bfloat16):
            z = noisy_latents(model, clips, args.noise)
            loss = loss_of(decode(z).float(), clips)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.temporal_parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 10 == 0 or step + 1 == args.steps:
            print(f"step {step + 1}/{args.steps}  loss {loss.item():.4f}", flush=True)
        if (step + 1) % 100 == 0 or step + 1 == args.steps:
            state = {
                "step": step + 1,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "torch_rng": torch.get_rng_state(),
                "rng": rng.bit_generator.state,
            }
            torch.save(state, state_path)

    inflate.save_video_autoencoder(model, args.output, overwrite=args.overwrite)
    print(f"saved {args.output}; next: inflate verify IMAGE {args.output} --trained")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted; --resume continues from the last saved state", file=sys.stderr)
        sys.exit(130)
