"""Decode with a checkout of sgm, CogVideo or ComfyUI, and compare with the decoder of this package.

    python scripts/peers.py PATH

An image checkpoint with random weights is converted into the layout that the tool reads; the tool's
own code loads the file (400 MB) and decodes the same latents. The largest difference is printed.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import inflate
from inflate.errors import InflateError

KERNEL = [3, 1, 1]
FRAMES = 3
Decode = Callable[[Tensor], Tensor]


def sgm_decoder(root: Path, path: Path) -> Decode:
    """The ``VideoDecoder`` of a package ``sgm``, filled strictly."""
    sys.path.insert(0, str(root))
    module: Any = importlib.import_module("sgm.modules.autoencoding.temporal_ae")
    if path.suffix == ".ckpt":
        weights = torch.load(path, weights_only=True)["state_dict"]
    else:
        weights = load_file(path)
    decoder = module.VideoDecoder(
        ch=128, ch_mult=[1, 2, 4, 4], out_ch=3, num_res_blocks=2,
        attn_resolutions=[], in_channels=3, resolution=256, z_channels=4, double_z=True,
        video_kernel_size=KERNEL, merge_strategy="learned",
    )  # fmt: skip
    own = {k.removeprefix("decoder."): v for k, v in weights.items() if "encoder." not in k}
    decoder.load_state_dict(own, strict=True)
    return lambda z: decoder.eval()(z, timesteps=FRAMES)


def comfyui_decoder(root: Path, path: Path) -> Decode:
    """The first stage that ComfyUI's Load VAE makes of a file."""
    sys.path.insert(0, str(root))
    sys.argv[1:] = ["--cpu"]  # It reads the command line when it is imported.
    sd: Any = importlib.import_module("comfy.sd")
    utils: Any = importlib.import_module("comfy.utils")
    vae = sd.VAE(sd=utils.load_torch_file(str(path)))
    vae.throw_exception_if_invalid()
    stage = vae.first_stage_model.float()
    return lambda z: stage.decode(z)


TOOLS: dict[str, tuple[str, str, str, str, Any]] = {
    "sgm": (
        "sgm/modules/autoencoding/temporal_ae.py", "", "decoder", "out.safetensors", sgm_decoder
    ),
    "CogVideo": (
        "sat/sgm/modules/autoencoding/temporal_ae.py", "sat", "cogvideo", "out.ckpt", sgm_decoder
    ),
    "ComfyUI": ("comfy/sd.py", "", "comfyui", "out.safetensors", comfyui_decoder),
}  # fmt: skip
"""Each tool's mark, the folder of its packages, the layout that it reads, and how to load it."""


def main() -> int:
    """Compare, and return the exit code: 2 where the path is not a checkout of any of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("path", type=Path, help="checkout of sgm, CogVideo or ComfyUI")
    root: Path = parser.parse_args().path
    found = [name for name, (mark, *_) in TOOLS.items() if (root / mark).is_file()]
    if not found:
        marks = ", ".join(f"{name} ({mark})" for name, (mark, *_) in TOOLS.items())
        print(f"error: {root} is not a checkout of any of: {marks}", file=sys.stderr)
        return 2
    _, folder, layout, name, load = TOOLS[found[0]]
    with tempfile.TemporaryDirectory() as temporary:
        image, out = Path(temporary, "img.safetensors"), Path(temporary, name)
        make = [sys.executable, str(Path(__file__).with_name("make_checkpoint.py")), str(image)]
        subprocess.run([*make, "--preset", "svd"], check=True)
        try:
            kernel = tuple(KERNEL)
            inflate.convert(image, out, layout=layout, video_kernel_size=kernel, device="cpu")
            ours = inflate.load_video_decoder(out)
        except InflateError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        z = torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            theirs = load(root / folder, out)(z)
            error = float((theirs - ours(z, timesteps=FRAMES)).abs().max())
    print(f"{found[0]} at {root}: layout {layout}, {FRAMES} frames, largest difference {error:.3g} "
          f"of {float(theirs.abs().max()):.3g}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
