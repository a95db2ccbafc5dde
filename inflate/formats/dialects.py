"""The names that other tools give to the tensors of this family, and back.

Everything inside speaks LDM's names. A file of diffusers is translated key by key; each pattern
matches whole parts of a name, never a piece of one.

Source:
    The names of ``AutoencoderKL``, ``VQModel`` and ``AutoencoderKLTemporalDecoder`` of diffusers;
    older files say ``query, key, value, proj_attn`` in attention.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from inflate.formats.layouts import DECODER

MARK = "mid_block.resnets.0."
"""What follows ``decoder.`` in the names of diffusers, whatever the architecture."""

_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_OLD_ATTENTION = {"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out"}
_TEMPORAL_RESNET = {
    "norm1": "time_stack.in_layers.0",
    "conv1": "time_stack.in_layers.2",
    "norm2": "time_stack.out_layers.0",
    "conv2": "time_stack.out_layers.3",
}
_ENDS = {
    "conv_norm_out": "norm_out",
    "conv_in": "conv_in",
    "conv_out": "conv_out",
    "time_conv_out": "conv_out.time_mix_conv",
}


def speaks_diffusers(names: Iterable[str], prefix: str | None = None) -> bool:
    """Whether names are those that diffusers gives: under a prefix, or any."""
    mark = f"{prefix or ''}{DECODER}{MARK}"
    return any(n.startswith(mark) or (prefix is None and f".{mark}" in n) for n in names)


def from_diffusers(names: Iterable[str]) -> dict[str, str]:
    """LDM's name for each name of diffusers; names that are not an autoencoder's are left out."""
    parts = {name: _split(name) for name in names}
    levels: dict[str, int] = {}
    for prefix, part, rest in parts.values():
        # Of this decoder alone: the blocks of a diffusion model beside it are called alike.
        if part == "decoder" and (matched := re.match(r"up_blocks\.(\d+)\.", rest)):
            levels[prefix] = max(levels.get(prefix, 0), int(matched[1]) + 1)
    found = {}
    for name, (prefix, part, rest) in parts.items():
        if part in ("quant_conv", "post_quant_conv", "quantize"):
            found[name] = name
        elif part in ("encoder", "decoder"):
            translated = _module(rest, levels.get(prefix, 0))
            if translated is not None:
                found[name] = f"{prefix}{part}.{translated}"
    return found


def to_diffusers(keys: Iterable[str], levels: int, *, video: bool = True) -> dict[str, str]:
    """The name in ``AutoencoderKLTemporalDecoder``, or in ``AutoencoderKL``, for each key.

    Args:
        keys: keys as LDM names them, ``decoder.*``, ``encoder.*``, ``quant_conv.*``.
        levels: how many levels the autoencoder has.
        video: whether the decoder is a video decoder.

    Raises:
        KeyError: a key that has no place there.
    """
    return {key: _export(key, levels, video) for key in keys}


def attention_matrices(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The attention weights stored as ``[C, C]`` where LDM has ``[C, C, 1, 1]``."""
    return [
        name
        for name, shape in shapes.items()
        if len(shape) == 2 and re.search(r"(^|\.)attn(_1|\.\d+)\.(q|k|v|proj_out)\.weight$", name)
    ]


def _split(name: str) -> tuple[str, str, str]:
    """A name as prefix, part of the autoencoder (or nothing), and rest."""
    matched = re.match(
        r"((?:.*\.)?)(encoder|decoder|quant_conv|post_quant_conv|quantize)\.(.*)$", name
    )
    return (matched[1], matched[2], matched[3]) if matched else ("", "", name)


def _module(rest: str, up_levels: int) -> str | None:
    """LDM's name for a name inside an encoder or decoder of diffusers."""
    if matched := re.match(r"up_blocks\.(\d+)\.(.*)$", rest):
        inner = _block(matched[2])
        return inner and f"up.{up_levels - 1 - int(matched[1])}.{inner}"
    if matched := re.match(r"down_blocks\.(\d+)\.(.*)$", rest):
        inner = _block(matched[2])
        return inner and f"down.{matched[1]}.{inner}"
    if matched := re.match(r"mid_block\.resnets\.([01])\.(.*)$", rest):
        inner = _resnet(matched[2])
        return inner and f"mid.block_{int(matched[1]) + 1}.{inner}"
    if matched := re.match(r"mid_block\.attentions\.0\.(.*)$", rest):
        inner = _attention(matched[1])
        return inner and f"mid.attn_1.{inner}"
    if matched := re.match(r"(\w+)\.(weight|bias)$", rest):
        own = _ENDS.get(matched[1])
        return own and f"{own}.{matched[2]}"
    return None


def _block(rest: str) -> str | None:
    if matched := re.match(r"resnets\.(\d+)\.(.*)$", rest):
        inner = _resnet(matched[2])
        return inner and f"block.{matched[1]}.{inner}"
    if matched := re.match(r"attentions\.(\d+)\.(.*)$", rest):
        inner = _attention(matched[2])
        return inner and f"attn.{matched[1]}.{inner}"
    if matched := re.match(r"(up|down)samplers\.0\.conv\.(weight|bias)$", rest):
        return f"{matched[1]}sample.conv.{matched[2]}"
    return None


def _resnet(rest: str) -> str | None:
    if rest == "time_mixer.mix_factor":
        return "mix_factor"
    if matched := re.match(r"temporal_res_block\.(\w+)\.(weight|bias)$", rest):
        own = _TEMPORAL_RESNET.get(matched[1])
        return own and f"{own}.{matched[2]}"
    if matched := re.match(r"(?:spatial_res_block\.)?(\w+)\.(weight|bias)$", rest):
        if matched[1] == "conv_shortcut":
            return f"nin_shortcut.{matched[2]}"
        if matched[1] in ("norm1", "conv1", "norm2", "conv2"):
            return f"{matched[1]}.{matched[2]}"
    return None


def _attention(rest: str) -> str | None:
    matched = re.match(r"(.+)\.(weight|bias)$", rest)
    own = matched and (_ATTENTION.get(matched[1]) or _OLD_ATTENTION.get(matched[1]))
    return f"{own}.{matched[2]}" if matched and own else None


def _export(key: str, levels: int, video: bool) -> str:
    part, _, rest = key.partition(".")
    if part in ("quant_conv", "post_quant_conv"):
        return key
    video = video and part == "decoder"
    if matched := re.match(r"mid\.block_([12])\.(.*)$", rest):
        return f"{part}.mid_block.resnets.{int(matched[1]) - 1}.{_export_resnet(matched[2], video)}"
    if matched := re.match(r"mid\.attn_1\.(\w+)\.(weight|bias)$", rest):
        return f"{part}.mid_block.attentions.0.{_export_attention(matched)}"
    if matched := re.match(r"(up|down)\.(\d+)\.attn\.(\d+)\.(\w+)\.(weight|bias)$", rest):
        inner = _export_attention(matched)
        return f"{part}.{_side(matched, levels)}.attentions.{matched[3]}.{inner}"
    if matched := re.match(r"(up|down)\.(\d+)\.block\.(\d+)\.(.*)$", rest):
        inner = _export_resnet(matched[4], video)
        return f"{part}.{_side(matched, levels)}.resnets.{matched[3]}.{inner}"
    if matched := re.match(r"(up|down)\.(\d+)\.(?:up|down)sample\.conv\.(weight|bias)$", rest):
        return f"{part}.{_side(matched, levels)}.{matched[1]}samplers.0.conv.{matched[3]}"
    ends = {own: theirs for theirs, own in _ENDS.items()}
    module, _, leaf = rest.rpartition(".")
    return f"{part}.{ends[module]}.{leaf}"


def _side(matched: re.Match[str], levels: int) -> str:
    level = int(matched[2])
    return f"{matched[1]}_blocks.{levels - 1 - level if matched[1] == 'up' else level}"


def _export_attention(matched: re.Match[str]) -> str:
    module, leaf = matched.groups()[-2:]
    names = {own: theirs for theirs, own in _ATTENTION.items()}
    return f"{names[module]}.{leaf}"


def _export_resnet(rest: str, video: bool) -> str:
    if rest == "mix_factor":
        return "time_mixer.mix_factor"
    module, _, leaf = rest.rpartition(".")
    temporal = {own: theirs for theirs, own in _TEMPORAL_RESNET.items()}
    if module in temporal:
        return f"temporal_res_block.{temporal[module]}.{leaf}"
    own = "conv_shortcut" if module == "nin_shortcut" else module
    if own not in ("norm1", "conv1", "norm2", "conv2", "conv_shortcut"):
        raise KeyError(rest)
    return f"spatial_res_block.{own}.{leaf}" if video else f"{own}.{leaf}"
