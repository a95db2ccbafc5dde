"""The architecture and the temporal layers, read off the names and shapes of tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inflate.config.schema import Architecture, Temporal
from inflate.errors import PlanError
from inflate.formats.layouts import DECODER

Shapes = Mapping[str, tuple[int, ...]]

_RESOLUTION = 256
"""The resolution that attention is counted by; no tensor shows it."""


@dataclass(frozen=True)
class _Half:
    """What the tensors of an encoder or decoder show: the channels of its levels, and so on."""

    channels: tuple[int, ...]
    blocks: int
    attended: tuple[int, ...]
    attends: bool


def infer_architecture(shapes: Shapes, path: object) -> Architecture:
    """The architecture of an autoencoder; encoder and decoder are each read off their own tensors.

    Dropout, tanh and the latents' scale leave no trace in tensors and keep their defaults.

    Args:
        shapes: the autoencoder's tensors, by their keys in LDM's words.
        path: the file's name, for messages.

    Raises:
        PlanError: tensors that are needed for it are missing or misshapen.
    """
    inside = _under(shapes, DECODER)
    needed = ("conv_in.weight", "conv_out.weight", "up.0.block.0.conv1.weight")
    problems = [f"{DECODER}{key} is missing" for key in needed if key not in inside]
    problems += [
        f"{DECODER}{key} has the shape {list(inside[key])}; expected four dimensions"
        for key in needed
        if key in inside and len(inside[key]) != 4
    ]
    problems += [
        f"{key} has the shape {list(shapes[key])}; expected four dimensions, none 0"
        for key in ("quant_conv.weight", "post_quant_conv.weight")
        # Others are compared with the architecture later, with everything else that does not fit.
        if key in shapes and (len(shapes[key]) < 2 or 0 in shapes[key])
    ]
    levels = _indices(inside, r"up\.(\d+)\.")
    if levels != list(range(len(levels))):
        problems.append(f"the levels {DECODER}up.N are {levels}; expected 0, 1, 2 and so on")
    first = [f"up.{i}.block.0.conv1.weight" for i in levels]
    if empty := [DECODER + key for key in first if not (inside.get(key) or (0,))[0]]:
        problems.append(f"{', '.join(empty)} is missing or empty")
    if problems:
        raise PlanError(f"{path}: its tensors fit no architecture of this family:", problems)

    decoder = _half(inside, "up", levels)
    encoder = _encoder(shapes) or decoder
    encoder_in = shapes.get("encoder.conv_in.weight", ())
    # The encoder's first convolution shows ch itself; without one it is the finest level's.
    ch = encoder_in[0] if encoder_in and encoder_in[0] else encoder.channels[0]
    ch = _unit(encoder.channels, ch)
    z_channels = inside["conv_in.weight"][1]
    encoder_out = shapes.get("encoder.conv_out.weight", ())
    twice = 2 if not encoder_out or encoder_out[0] == 2 * z_channels else 1
    most = max(len(encoder.channels), len(decoder.channels))
    resolution = max(_RESOLUTION, 2 ** (most - 1))
    seen = Architecture(
        ch=ch,
        ch_mult=tuple(c // ch for c in encoder.channels),
        num_res_blocks=encoder.blocks,
        z_channels=z_channels,
        attn_resolutions=tuple(resolution // 2**level for level in encoder.attended),
        in_channels=encoder_in[1] if len(encoder_in) == 4 else inside["conv_out.weight"][0],
        out_ch=inside["conv_out.weight"][0],
        resolution=resolution,
        resamp_with_conv=len(levels) == 1 or "up.1.upsample.conv.weight" in inside,
        attn_type="vanilla" if encoder.attends else "none",
        double_z=twice == 2,
        embed_dim=_embed_dim(shapes, twice),
        n_embed=_extent(shapes, "quantize.embedding.weight", 0),
    )
    if decoder == encoder:
        return seen
    same = decoder.channels == encoder.channels
    own = ch if same else _unit(decoder.channels, decoder.channels[0])
    return seen.with_decoder(
        ch=own,
        ch_mult=tuple(c // own for c in decoder.channels),
        num_res_blocks=decoder.blocks,
        attn_resolutions=tuple(resolution // 2**level for level in decoder.attended),
        attn_type="vanilla" if decoder.attends else "none",
    )


def infer_temporal(shapes: Shapes) -> Temporal:
    """The temporal layers that the shapes of a video decoder show.

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


def _encoder(shapes: Shapes) -> _Half | None:
    """What an encoder shows; None where it is absent or broken, which is reported later."""
    inside = _under(shapes, "encoder.")
    levels = _indices(inside, r"down\.(\d+)\.")
    first = [inside.get(f"down.{i}.block.0.conv1.weight", ()) for i in levels]
    if not levels or levels != list(range(len(levels))) or not all(s and s[0] for s in first):
        return None
    return _half(inside, "down", levels)


def _half(inside: Shapes, side: str, levels: Sequence[int]) -> _Half:
    counts = [len(_indices(inside, rf"{side}\.{level}\.block\.(\d+)\.")) for level in levels]
    more = side == "up"  # A decoder has one block more than its encoder.
    return _Half(
        channels=tuple(inside[f"{side}.{i}.block.0.conv1.weight"][0] for i in levels),
        blocks=max(max(counts) - more, 1),
        attended=tuple(_indices(inside, rf"{side}\.(\d+)\.attn\.")),
        attends="mid.attn_1.q.weight" in inside,
    )


def _unit(channels: Sequence[int], ch: int) -> int:
    """A number that divides the channels of every level: ``ch`` if it does."""
    return math.gcd(*channels) if any(c % ch for c in channels) else ch


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
