"""The tensors that an image autoencoder of an architecture has, and where a file differs.

They are listed from the architecture alone, without building a module, so that a header can be
judged without torch; a test holds the lists equal to the modules'.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from inflate.checkpoint.index import FLOATS
from inflate.checkpoint.layouts import DECODER, PASSED_THROUGH
from inflate.checkpoint.locate import Located
from inflate.config.schema import Architecture
from inflate.errors import nearest

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


def image_shapes(architecture: Architecture) -> dict[str, Shapes]:
    """The tensors of each part of an image autoencoder, by part and key."""
    return {
        DECODER: _keyed(DECODER, _decoder(architecture)),
        "encoder.": _keyed("encoder.", _encoder(architecture)),
        **quant_shapes(architecture),
    }


def quant_shapes(architecture: Architecture) -> dict[str, Shapes]:
    """The tensors between encoder and decoder, by part: quant convs and codebook."""
    e, z = architecture.embed_dim, architecture.z_channels
    twice = 2 if architecture.double_z else 1
    parts: dict[str, Shapes] = {"quant_conv.": {}, "post_quant_conv.": {}, "quantize.": {}}
    if e is not None:
        parts["quant_conv."] = _keyed("", _conv("quant_conv", twice * z, twice * e, 1))
        parts["post_quant_conv."] = _keyed("", _conv("post_quant_conv", e, z, 1))
    if architecture.n_embed is not None:
        parts["quantize."]["quantize.embedding.weight"] = (architecture.n_embed, e or z)
    return parts


def image_problems(
    located: Located, architecture: Architecture, temporal: frozenset[str] = frozenset()
) -> list[str]:
    """Every way in which the tensors of a file do not fit their architecture, in words.

    Parts beside the decoder may be absent; those that are there must be whole.

    Args:
        located: the autoencoder of the file.
        architecture: what it should look like.
        temporal: keys that are not the image autoencoder's, and are left out of the comparison.
    """
    problems = []
    for part, expected in image_shapes(architecture).items():
        present = [key for key in located.part(part) if key not in temporal]
        if part == "quantize.":
            # Other quantisers keep more beside their codebook; it is passed through as it is.
            present = [key for key in present if key in expected]
        if present or part == DECODER:
            problems += mismatches(located, expected, present)
    for key in (*located.part(DECODER), *(k for p in PASSED_THROUGH for k in located.part(p))):
        info = located.tensors[key]
        # Other quantisers count in whole numbers; they are passed through as they are.
        counted = key.startswith("quantize.") and key != "quantize.embedding.weight"
        if info.dtype not in FLOATS and not counted:
            problems.append(
                f"{info.name} is stored as {info.dtype}; expected one of {', '.join(FLOATS)}"
            )
    return problems


def mismatches(located: Located, expected: Mapping[str, Shape], present: list[str]) -> list[str]:
    """Missing, extra and misshapen tensors among those that claim to be of a part, in words."""
    names = {key: located.name_of(key) for key in (*expected, *present)}
    extra = [key for key in present if key not in expected]
    missing = [key for key in expected if key not in located.tensors]
    # Keys are compared, not names: a long prefix would make any two of them alike.
    problems = [
        f"{names[key]} is missing; expected the shape {list(expected[key])}"
        f"{nearest(key, extra, names)}"
        for key in missing
    ]
    problems += [
        f"{names[key]} is not part of this architecture{nearest(key, missing, names)}"
        for key in extra
    ]
    for key, shape in expected.items():
        info = located.tensors.get(key)
        if info is not None and info.shape != shape:
            problems.append(f"{info.name} has the shape {list(info.shape)}; expected {list(shape)}")
    return problems


def _keyed(prefix: str, tensors: Iterator[tuple[str, Shape]]) -> Shapes:
    return {prefix + key: shape for key, shape in tensors}


def _decoder(a: Architecture) -> Iterator[tuple[str, Shape]]:
    channels = a.level_channels[-1]
    yield from _conv("conv_in", a.z_channels, channels, 3)
    yield from _middle(channels, a)
    for level in reversed(range(len(a.ch_mult))):
        for i in range(a.num_res_blocks + 1):
            yield from _resnet(f"up.{level}.block.{i}", channels, a.level_channels[level])
            channels = a.level_channels[level]
            if level in a.attention_levels:
                yield from _attention(f"up.{level}.attn.{i}", channels)
        if level > 0 and a.resamp_with_conv:
            yield from _conv(f"up.{level}.upsample.conv", channels, channels, 3)
    yield from _norm("norm_out", channels)
    yield from _conv("conv_out", channels, a.out_ch, 3)


def _encoder(a: Architecture) -> Iterator[tuple[str, Shape]]:
    channels = a.ch
    yield from _conv("conv_in", a.in_channels, channels, 3)
    for level in range(len(a.ch_mult)):
        for i in range(a.num_res_blocks):
            yield from _resnet(f"down.{level}.block.{i}", channels, a.level_channels[level])
            channels = a.level_channels[level]
            if level in a.attention_levels:
                yield from _attention(f"down.{level}.attn.{i}", channels)
        if level < len(a.ch_mult) - 1 and a.resamp_with_conv:
            yield from _conv(f"down.{level}.downsample.conv", channels, channels, 3)
    yield from _middle(channels, a)
    yield from _norm("norm_out", channels)
    yield from _conv("conv_out", channels, (2 if a.double_z else 1) * a.z_channels, 3)


def _middle(channels: int, a: Architecture) -> Iterator[tuple[str, Shape]]:
    yield from _resnet("mid.block_1", channels, channels)
    if a.attn_type != "none":
        yield from _attention("mid.attn_1", channels)
    yield from _resnet("mid.block_2", channels, channels)


def _resnet(name: str, channels: int, out: int) -> Iterator[tuple[str, Shape]]:
    yield from _norm(f"{name}.norm1", channels)
    yield from _conv(f"{name}.conv1", channels, out, 3)
    yield from _norm(f"{name}.norm2", out)
    yield from _conv(f"{name}.conv2", out, out, 3)
    if channels != out:
        yield from _conv(f"{name}.nin_shortcut", channels, out, 1)


def _attention(name: str, channels: int) -> Iterator[tuple[str, Shape]]:
    yield from _norm(f"{name}.norm", channels)
    for part in ("q", "k", "v", "proj_out"):
        yield from _conv(f"{name}.{part}", channels, channels, 1)


def _norm(name: str, channels: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (channels,)
    yield f"{name}.bias", (channels,)


def _conv(name: str, channels: int, out: int, kernel: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (out, channels, kernel, kernel)
    yield f"{name}.bias", (out,)
