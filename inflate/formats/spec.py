"""Every tensor of an autoencoder, derived from its configuration alone.

Keys are LDM's (``decoder.conv_in.weight``), in the order of the modules' ``state_dict``. No module
is built and torch is not imported; a test checks that the lists match the modules.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from inflate.config.schema import Architecture, Temporal
from inflate.formats.layouts import DECODER, temporal_part
from inflate.mix_factor import ATTENTION_WEIGHS, RESIDUAL_WEIGHS, Weighs
from inflate.vocabulary import TemporalPart

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
Role = Literal["norm", "conv", "linear", "mix_factor"]


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of an autoencoder: its key, its shape, and its purpose.

    ``fan_in`` is the number of inputs per output of its layer. A temporal tensor has a ``part``
    and the path of its ``layer`` inside that part (``out_layers.3``); a ``mix_factor`` also has
    the branch that it weighs.
    """

    key: str
    shape: Shape
    role: Role
    fan_in: int = 1
    part: TemporalPart | None = None
    layer: str = ""
    weighs: Weighs | None = None


Specs = Iterator[TensorSpec]


def decoder_spec(a: Architecture, temporal: Temporal | None = None) -> tuple[TensorSpec, ...]:
    """The tensors of the video decoder, or of the image decoder if ``temporal`` is None."""
    return tuple(_decoder(a, temporal))


def image_shapes(a: Architecture) -> dict[str, Shapes]:
    """The tensors of each part of an image autoencoder, by part and key."""
    return {
        DECODER: _shapes(_decoder(a, None)),
        "encoder.": _shapes(_encoder(a)),
        **quant_shapes(a),
    }


def quant_shapes(a: Architecture) -> dict[str, Shapes]:
    """The tensors between encoder and decoder, by part: quant convs and codebook."""
    e, z = a.embed_dim, a.z_channels
    twice = 2 if a.double_z else 1
    parts: dict[str, Shapes] = {"quant_conv.": {}, "post_quant_conv.": {}, "quantize.": {}}
    if e is not None:
        parts["quant_conv."] = _shapes(_conv("quant_conv", twice * z, twice * e, 1))
        parts["post_quant_conv."] = _shapes(_conv("post_quant_conv", e, z, 1))
    if a.n_embed is not None:
        parts["quantize."]["quantize.embedding.weight"] = (a.n_embed, e or z)
    return parts


def _shapes(tensors: Iterable[TensorSpec]) -> Shapes:
    return {tensor.key: tensor.shape for tensor in tensors}


def _decoder(a: Architecture, temporal: Temporal | None) -> Specs:
    a = a.decoder
    top = len(a.ch_mult) - 1
    yield from _conv("decoder.conv_in", a.z_channels, a.level_channels[top], 3)
    yield from _middle("decoder.mid", a.level_channels[top], a, temporal)
    for level, channels in enumerate(a.level_channels):
        path = f"decoder.up.{level}"
        coarser = a.level_channels[min(level + 1, top)]
        yield from _blocks(path, a.num_res_blocks + 1, coarser, level, a, temporal)
        if level > 0 and a.resamp_with_conv:
            yield from _conv(f"{path}.upsample.conv", channels, channels, 3)
    yield from _norm("decoder.norm_out", a.level_channels[0])
    yield from _conv("decoder.conv_out", a.level_channels[0], a.out_ch, 3)
    if kernel := _kernel(temporal):
        yield from _conv("decoder.conv_out.time_mix_conv", a.out_ch, a.out_ch, *kernel)


def _encoder(a: Architecture) -> Specs:
    top = len(a.ch_mult) - 1
    yield from _conv("encoder.conv_in", a.in_channels, a.ch, 3)
    for level, channels in enumerate(a.level_channels):
        path = f"encoder.down.{level}"
        finer = a.level_channels[level - 1] if level else a.ch
        yield from _blocks(path, a.num_res_blocks, finer, level, a, None)
        if level < top and a.resamp_with_conv:
            yield from _conv(f"{path}.downsample.conv", channels, channels, 3)
    yield from _middle("encoder.mid", a.level_channels[top], a, None)
    yield from _norm("encoder.norm_out", a.level_channels[top])
    out = (2 if a.double_z else 1) * a.z_channels
    yield from _conv("encoder.conv_out", a.level_channels[top], out, 3)


def _middle(path: str, channels: int, a: Architecture, temporal: Temporal | None) -> Specs:
    yield from _residual(f"{path}.block_1", channels, channels, temporal)
    if a.attn_type != "none":
        yield from _attention(f"{path}.attn_1", channels, temporal)
    yield from _residual(f"{path}.block_2", channels, channels, temporal)


def _blocks(
    path: str, count: int, before: int, level: int, a: Architecture, temporal: Temporal | None
) -> Specs:
    """The blocks of a level whose input has ``before`` channels."""
    channels = a.level_channels[level]
    for i in range(count):
        yield from _residual(f"{path}.block.{i}", channels if i else before, channels, temporal)
    for i in range(count if level in a.attention_levels else 0):
        yield from _attention(f"{path}.attn.{i}", channels, temporal)


def _residual(path: str, channels: int, out: int, temporal: Temporal | None) -> Specs:
    kernel = _kernel(temporal)
    if kernel:
        yield _mix_factor(path, RESIDUAL_WEIGHS)
    yield from _norm(f"{path}.norm1", channels)
    yield from _conv(f"{path}.conv1", channels, out, 3)
    yield from _norm(f"{path}.norm2", out)
    yield from _conv(f"{path}.conv2", out, out, 3)
    if channels != out:
        yield from _conv(f"{path}.nin_shortcut", channels, out, 1)
    if kernel:
        for layers, conv in (("in_layers", 2), ("out_layers", 3)):
            yield from _norm(f"{path}.time_stack.{layers}.0", out)
            yield from _conv(f"{path}.time_stack.{layers}.{conv}", out, out, *kernel)


def _attention(path: str, channels: int, temporal: Temporal | None) -> Specs:
    attends = temporal is not None and temporal.time_mode != "conv-only"
    if attends:
        yield _mix_factor(path, ATTENTION_WEIGHS)
    yield from _norm(f"{path}.norm", channels)
    for name in ("q", "k", "v", "proj_out"):
        yield from _conv(f"{path}.{name}", channels, channels, 1)
    if attends:
        yield from _time_mix_block(f"{path}.time_mix_block", channels)
        yield from _linear(f"{path}.video_time_embed.0", channels, 4 * channels)
        yield from _linear(f"{path}.video_time_embed.2", 4 * channels, channels)


def _time_mix_block(path: str, c: int) -> Specs:
    for name in ("norm_in", "ff_in", "attn1", "ff", "norm2", "attn2", "norm1", "norm3"):
        if name.startswith("norm"):
            yield from _norm(f"{path}.{name}", c)
        elif name.startswith("ff"):  # The first has two halves; one is the gate.
            yield from _linear(f"{path}.{name}.net.0.proj", c, 8 * c)
            yield from _linear(f"{path}.{name}.net.2", 4 * c, c)
        else:
            for projection in ("to_q", "to_k", "to_v"):
                yield from _linear(f"{path}.{name}.{projection}", c, c, bias=False)
            yield from _linear(f"{path}.{name}.to_out.0", c, c)


def _mix_factor(path: str, weighs: Weighs) -> TensorSpec:
    key = f"{path}.mix_factor"
    return TensorSpec(key, (1,), "mix_factor", part="mix_factor", weighs=weighs)


def _norm(path: str, channels: int) -> Specs:
    yield from _layer(path, "norm", (channels,))


def _conv(path: str, channels: int, out: int, *kernel: int) -> Specs:
    """A convolution; a single number is the kernel size for both image axes."""
    yield from _layer(path, "conv", (out, channels, *(kernel * 2 if len(kernel) == 1 else kernel)))


def _linear(path: str, channels: int, out: int, *, bias: bool = True) -> Specs:
    yield from _layer(path, "linear", (out, channels), bias=bias)


def _layer(path: str, role: Role, weight: Shape, *, bias: bool = True) -> Specs:
    part, layer = temporal_part(path) or (None, "")
    fan_in = math.prod(weight[1:])
    yield TensorSpec(f"{path}.weight", weight, role, fan_in, part, layer)
    if bias:
        yield TensorSpec(f"{path}.bias", weight[:1], role, fan_in, part, layer)


def _kernel(temporal: Temporal | None) -> tuple[int, int, int] | None:
    """The kernel size of the temporal convolutions; None if there are none."""
    return None if temporal is None or temporal.time_mode == "attn-only" else temporal.kernel
