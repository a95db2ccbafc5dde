"""Make an image checkpoint of any preset with random weights, to try and to measure with.

The weights are drawn as the layers draw theirs; the file has the names and the size of a real one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from inflate.config.loading import build_config, read_config
from inflate.config.presets import load_presets
from inflate.config.schema import Architecture
from inflate.formats.spec import quant_shapes
from inflate.models import Decoder, Encoder


def make_state_dict(architecture: Architecture, seed: int) -> dict[str, Tensor]:
    """The tensors of an image autoencoder of an architecture, random from a seed."""
    torch.manual_seed(seed)
    arguments = architecture.module_arguments()
    tensors = {}
    for prefix, module in (("encoder.", Encoder(**arguments)), ("decoder.", Decoder(**arguments))):
        tensors.update({prefix + key: value for key, value in module.state_dict().items()})
    for shapes in quant_shapes(architecture).values():
        for key, shape in shapes.items():
            tensors[key] = torch.randn(shape) / max(1, torch.Size(shape[1:]).numel()) ** 0.5
    return tensors


def main() -> int:
    """Write the file; ``.safetensors``, or torch's own format under any other ending."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--preset", choices=sorted(load_presets()), default="kl-f8")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--around",
        type=float,
        default=0.0,
        metavar="GB",
        help="make a full Stable Diffusion file of it: the autoencoder under first_stage_model., "
        "next to so many gigabytes of a diffusion model",
    )
    options = parser.parse_args()
    settings = read_config(options.preset)
    kept = {k: v for k, v in settings.items() if k.startswith("architecture.")}
    plain = {k.removeprefix("architecture."): v for k, v in kept.items()}
    frozen = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    architecture = build_config(Architecture(**frozen), kept).architecture
    tensors = make_state_dict(architecture, options.seed)
    if options.around:
        tensors = {f"first_stage_model.{key}": value for key, value in tensors.items()}
        for i in range(round(options.around * 10)):
            key = f"model.diffusion_model.input_blocks.{i}.0.weight"
            tensors[key] = torch.randn(5000, 5000)
    if options.output.suffix == ".safetensors":
        save_file(tensors, options.output)
    else:
        torch.save({"state_dict": tensors}, options.output)
    print(f"{options.output}: {options.output.stat().st_size:,} bytes", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
