"""The architecture and the temporal layers, read off the names and shapes of tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from inflate.config.schema import Architecture, Temporal
from inflate.errors import PlanError
from inflate.formats.layouts import DECODER

Shapes = Mapping[str, tuple[int, ...]]

_RESOLUTION = 256
"""The resolution that attention is counted by: no tensor shows it, and nothing else hangs on it."""


def infer_architecture(shapes: Shapes, path: object) -> Architecture:
    """What the shapes of a checkpoint say of its autoencoder.

    Dropout, tanh and the latents' scale leave no trace in tensors and keep their defaults.

    Args:
        shapes: the autoencoder's tensors, by their keys in LDM's words.
        path: the file's name, for messages.

    Raises:
        PlanError: tensors without which nothing can be said are missing or misshapen.
    """
    decoder, around = _under(shapes, DECODER), shapes
    needed = ("conv_in.weight", "conv_out.weight", "up.0.block.0.conv1.weight")
    problems = [f"{DECODER}{key} is missing" for key in needed if key not in decoder]
    problems += [
        f"{DECODER}{key} has the shape {list(decoder[key])}; expected four dimensions"
        for key in needed
        if key in decoder and len(decoder[key]) != 4
    ]
    problems += [
        f"{key} has the shape {list(around[key])}; expected four dimensions, none 0"
        for key in ("quant_conv.weight", "post_quant_conv.weight")
        # Others are compared with the architecture later, with everything else that does not fit.
        if key in around and (len(around[key]) < 2 or 0 in around[key])
    ]
    levels = _indices(decoder, r"up\.(\d+)\.")
    if levels != list(range(len(levels))):
        problems.append(f"the levels {DECODER}up.N are {levels}; expected 0, 1, 2 and so on")
    channels = [(decoder.get(f"up.{i}.block.0.conv1.weight") or (0,))[0] for i in levels]
    if 0 in channels:
        empty = [
            f"{DECODER}up.{i}.block.0.conv1.weight"
            for i, c in zip(levels, channels, strict=True)
            if not c
        ]
        problems.append(f"{', '.join(empty)} is missing or empty")
    if problems:
        raise PlanError(f"{path}: its tensors fit no architecture of this family:", problems)

    encoder_in = around.get("encoder.conv_in.weight", ())
    # The encoder's first convolution shows ch itself; without one it is the finest level's.
    ch = encoder_in[0] if encoder_in and encoder_in[0] else channels[0]
    if any(c % ch for c in channels):
        ch = math.gcd(*channels)
    z_channels = decoder["conv_in.weight"][1]
    encoder_out = around.get("encoder.conv_out.weight", ())
    twice = 2 if not encoder_out or encoder_out[0] == 2 * z_channels else 1
    attended = sorted({int(m[1]) for key in decoder if (m := re.match(r"up\.(\d+)\.attn\.", key))})
    resolution = max(_RESOLUTION, 2 ** (len(levels) - 1))
    return Architecture(
        ch=ch,
        ch_mult=tuple(c // ch for c in channels),
        num_res_blocks=max(len(_indices(decoder, r"up\.0\.block\.(\d+)\.")) - 1, 1),
        z_channels=z_channels,
        attn_resolutions=tuple(resolution // 2**level for level in attended),
        in_channels=encoder_in[1] if len(encoder_in) == 4 else decoder["conv_out.weight"][0],
        out_ch=decoder["conv_out.weight"][0],
        resolution=resolution,
        resamp_with_conv=len(levels) == 1 or "up.1.upsample.conv.weight" in decoder,
        attn_type="vanilla" if "mid.attn_1.q.weight" in decoder else "none",
        double_z=twice == 2,
        embed_dim=_embed_dim(around, twice),
        n_embed=_extent(around, "quantize.embedding.weight", 0),
    )


def infer_temporal(shapes: Shapes) -> Temporal:
    """What the shapes of a video decoder say of its temporal layers.

    Whether its blend is learned or fixed, and the alpha it started with, leave no trace; they keep
    their defaults.
    """
    decoder = _under(shapes, DECODER)
    conv = next(
        (s for k, s in decoder.items() if k.endswith("time_stack.in_layers.2.weight")), None
    )
    attention = any("time_mix_block" in key.split(".") for key in decoder)
    if conv is None:
        return Temporal(time_mode="attn-only")
    kernel: int | tuple[int, ...] = tuple(conv[2:])
    if len(set(conv[2:])) == 1:
        kernel = conv[2]
    return Temporal(time_mode="all" if attention else "conv-only", video_kernel_size=kernel)


def _under(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    return {k.removeprefix(prefix): s for k, s in shapes.items() if k.startswith(prefix)}


def _indices(names: Mapping[str, object], pattern: str) -> list[int]:
    return sorted({int(found[1]) for name in names if (found := re.match(pattern, name))})


def _embed_dim(shapes: Shapes, twice: int) -> int | None:
    """Channels between the quant convs, which either of them shows."""
    before = _extent(shapes, "quant_conv.weight", 0)
    after = _extent(shapes, "post_quant_conv.weight", 1)
    return after if after is not None or before is None else before // twice


def _extent(shapes: Shapes, name: str, axis: int) -> int | None:
    shape = shapes.get(name, ())
    return shape[axis] if len(shape) > axis else None
