"""Infer architecture and temporal layers from names and shapes; find tensors that do not fit."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from inflate.config.schema import Architecture, Temporal
from inflate.errors import PlanError
from inflate.formats.layouts import DECODER, UNCHECKED, is_inflated
from inflate.formats.locate import Located
from inflate.formats.spec import Shape, image_shapes
from inflate.io.index import FLOATS, NARROW

Shapes = Mapping[str, Shape]

_RESOLUTION = 256
"""The resolution that ``attn_resolutions`` refers to; no tensor shows it."""

_MOST, _EXAMPLES = 10, 3
"""How many problems of one kind are listed; further ones are only counted."""


def infer_architecture(shapes: Shapes, path: object) -> Architecture:
    """Infer the architecture of an autoencoder, separately for encoder and decoder.

    Tensors do not show dropout, tanh and the scale of the latents; these keep their defaults.

    Raises:
        PlanError: required tensors are missing or have the wrong shape.
    """
    inside, outside = _under(shapes, DECODER), _under(shapes, "encoder.")
    levels, own_levels = _indices(inside, r"up\.(\d+)\."), _indices(outside, r"down\.(\d+)\.")
    needed = ["conv_in.weight", "conv_out.weight", *_first_convs("up", levels or [0])]
    kernels = [DECODER + key for key in needed]
    kernels += [k for k in ("quant_conv.weight", "post_quant_conv.weight") if k in shapes]
    problems = [
        f"{key} has the shape {list(shapes[key])}; expected four dimensions, none 0"
        if key in shapes
        else f"{key} is missing"
        for key in kernels
        if not _is_kernel(shapes.get(key))
    ]
    if levels != list(range(len(levels))):
        problems.append(f"the levels {DECODER}up.N are {levels}; expected 0, 1, 2 and so on")
    if problems:
        raise PlanError(f"{path}: its tensors fit no architecture of this family:", problems)

    resolution = max(_RESOLUTION, 2 ** (max(len(levels), len(own_levels)) - 1))
    # Missing tensors of the encoder are reported later, with everything else that does not fit.
    whole = own_levels == list(range(len(own_levels))) and own_levels
    if whole and all(_is_kernel(outside.get(key)) for key in _first_convs("down", own_levels)):
        ch = _extent(outside, "conv_in.weight", 0)
        encoder = _half(outside, "down", own_levels, resolution, ch or 0)
        decoder = _half(inside, "up", levels, resolution, encoder["ch"])
    else:
        encoder = decoder = _half(inside, "up", levels, resolution)
    z_channels, out_ch = inside["conv_in.weight"][1], inside["conv_out.weight"][0]
    double_z = _extent(outside, "conv_out.weight", 0) in (None, 2 * z_channels)
    embed_dim = _extent(shapes, "post_quant_conv.weight", 1)
    if embed_dim is None and (twice := _extent(shapes, "quant_conv.weight", 0)) is not None:
        embed_dim = twice // 2 if double_z else twice
    seen = Architecture(
        **encoder,
        z_channels=z_channels,
        in_channels=_extent(outside, "conv_in.weight", 1) or out_ch,
        out_ch=out_ch,
        resolution=resolution,
        resamp_with_conv=len(levels) == 1 or "up.1.upsample.conv.weight" in inside,
        double_z=double_z,
        embed_dim=embed_dim,
        n_embed=_extent(shapes, "quantize.embedding.weight", 0),
    )
    return seen.with_decoder(**decoder)


def infer_temporal(shapes: Shapes) -> Temporal:
    """Infer the temporal layers of a video decoder from its shapes.

    Shapes do not show whether its blend is learned or fixed, or its initial alpha; these keep
    their defaults.
    """
    decoder = _under(shapes, DECODER)
    convs = (s for k, s in decoder.items() if k.endswith("time_stack.in_layers.2.weight"))
    conv = next(convs, None)
    if conv is None:
        return Temporal(time_mode="attn-only")
    kernel = conv[2] if len(set(conv[2:])) == 1 else conv[2:]
    attends = any("time_mix_block" in key.split(".") for key in decoder)
    return Temporal(time_mode="all" if attends else "conv-only", video_kernel_size=kernel)


def image_problems(located: Located, architecture: Architecture) -> list[str]:
    """Messages for all tensors of a file that do not fit its architecture.

    Parts other than the decoder may be absent, but a part that is present must be complete.
    Temporal tensors are not compared.
    """
    problems = []
    for part, expected in image_shapes(architecture).items():
        present = [key for key in located.part(part) if key not in located.temporal]
        if part in UNCHECKED:
            present = [key for key in present if key in expected]
        if present or part == DECODER:
            problems += mismatches(located, expected, present)
    known = (*FLOATS, *NARROW)
    return problems + _counted(
        f"{info.name} is stored as {info.dtype}; expected one of {', '.join(known)}"
        for key, info in located.tensors.items()
        # Other quantisers have integer counters; they are passed through unchanged.
        if info.dtype not in known
        and (not key.startswith(UNCHECKED) or key == "quantize.embedding.weight")
    )


def mismatches(located: Located, expected: Shapes, present: Collection[str]) -> list[str]:
    """Messages for the tensors of a part that are missing, extra or of the wrong shape.

    If many tensors have the same problem, three are named and the others counted.
    """
    extra = {located.name_of(key): key for key in present if key not in expected}
    missing = {located.name_of(key): key for key in expected if key not in located.tensors}
    hint = ""
    if extra and not missing:
        hint = ": another tool added them; --ignore PATTERN leaves them out"
    elif missing and is_inflated(missing.values()):
        hint = ": the file has fewer temporal layers than its configuration says"
    return [
        *_counted(
            (
                f"{name} is missing; expected the shape {list(expected[key])}{_alike(name, extra)}"
                for name, key in missing.items()
            ),
            hint,
        ),
        *_counted(
            (f"{name} is not part of this architecture{_alike(name, missing)}" for name in extra),
            hint,
        ),
        *_counted(
            f"{info.name} has the shape {list(info.shape)}; expected {list(shape)}"
            for key, shape in expected.items()
            if (info := located.tensors.get(key)) is not None and info.shape != shape
        ),
    ]


def _half(
    inside: Shapes, side: str, levels: Sequence[int], resolution: int, ch: int = 0
) -> dict[str, Any]:
    """Infer the fields of an encoder or decoder; ``ch`` is used if it divides all channels."""
    channels = [inside[key][0] for key in _first_convs(side, levels)]
    ch = ch or channels[0]
    if any(c % ch for c in channels):
        ch = math.gcd(*channels)
    blocks = max(len(_indices(inside, rf"{side}\.{i}\.block\.(\d+)\.")) for i in levels)
    return {
        "ch": ch,
        "ch_mult": tuple(c // ch for c in channels),
        "num_res_blocks": max(blocks - (side == "up"), 1),  # A decoder has one more block.
        "attn_resolutions": tuple(
            resolution // 2**i for i in _indices(inside, rf"{side}\.(\d+)\.attn\.")
        ),
        "attn_type": "vanilla" if "mid.attn_1.q.weight" in inside else "none",
    }


def _first_convs(side: str, levels: Iterable[int]) -> list[str]:
    return [f"{side}.{level}.block.0.conv1.weight" for level in levels]


def _is_kernel(shape: Shape | None) -> bool:
    return shape is not None and len(shape) == 4 and 0 not in shape


def _under(shapes: Shapes, prefix: str) -> dict[str, Shape]:
    return {k.removeprefix(prefix): s for k, s in shapes.items() if k.startswith(prefix)}


def _indices(names: Iterable[str], pattern: str) -> list[int]:
    return sorted({int(found[1]) for name in names if (found := re.match(pattern, name))})


def _extent(shapes: Shapes, name: str, axis: int) -> int | None:
    shape = shapes.get(name, ())
    return shape[axis] if len(shape) > axis else None


def _counted(problems: Iterable[str], hint: str = "") -> list[str]:
    found = list(problems)
    if len(found) <= _MOST:
        return found
    return [*found[:_EXAMPLES], f"and {len(found) - _EXAMPLES} more tensors like these{hint}"]


def _alike(name: str, others: Iterable[str]) -> str:
    close = get_close_matches(name, list(others), 1, cutoff=0.95)
    return f" (did you mean {close[0]!r}?)" if close else ""
