"""Translation between LDM's tensor names and those of other tools.

Source:
    The names of ``AutoencoderKL``, ``VQModel`` and ``AutoencoderKLTemporalDecoder`` of diffusers;
    older files use ``query, key, value, proj_attn`` in attention.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

Dialect = Literal["ldm", "diffusers"]

MARKS: Mapping[str, Dialect] = {
    "mid.block_1.conv1.weight": "ldm",
    "mid_block.resnets.0.conv1.weight": "diffusers",
    "mid_block.resnets.0.spatial_res_block.conv1.weight": "diffusers",
}
"""Names that every decoder of a dialect has, in any architecture, and the dialect."""

WRAPPERS = frozenset(
    ("module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
)
"""Name components added by DDP, torch.compile, Lightning Fabric, FSDP and checkpointing."""

_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_ANY_ATTENTION = _ATTENTION | {"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out"}
_RESNET = {
    "conv_shortcut": "nin_shortcut",
    "temporal_res_block.norm1": "time_stack.in_layers.0",
    "temporal_res_block.conv1": "time_stack.in_layers.2",
    "temporal_res_block.norm2": "time_stack.out_layers.0",
    "temporal_res_block.conv2": "time_stack.out_layers.3",
    "time_mixer": "",
}
_ENDS = {"conv_norm_out": "norm_out", "time_conv_out": "conv_out.time_mix_conv"}

_BLOCKS = re.compile(
    r"(?:mid_block|(up|down)_blocks\.(\d+))\.(resnets|attentions|upsamplers|downsamplers)\.(\d+)\.(.+)"
)
_LDM_BLOCKS = re.compile(
    r"(?:mid\.(block|attn)_([12])|(up|down)\.(\d+)\.(?:(block|attn)\.(\d+)|(?:up|down)sample))\.(.+)"
)


def unwrapped(name: str) -> str:
    """A name without the wrappers of training frameworks."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def to_ldm(rest: str, levels: int) -> str:
    """LDM's name for a name inside an encoder or decoder; unknown names are unchanged."""
    if matched := _BLOCKS.fullmatch(rest):
        side, number, kind, index, inner = matched.groups()
        level = "mid" if side is None else f"{side}.{_level(side, int(number), levels)}"
        if kind == "resnets":
            inner = _renamed(inner.removeprefix("spatial_res_block."), _RESNET)
            block = f"block_{int(index) + 1}" if side is None else f"block.{index}"
        elif kind == "attentions":
            inner = _renamed(inner, _ANY_ATTENTION)
            block = f"attn_{int(index) + 1}" if side is None else f"attn.{index}"
        else:
            block = kind.removesuffix("rs")
        return f"{level}.{block}.{inner}"
    return _renamed(rest, _ENDS)


def to_diffusers(key: str, levels: int, *, video: bool = True) -> str:
    """The name in ``AutoencoderKLTemporalDecoder``, or in ``AutoencoderKL``, for a key of LDM.

    Raises:
        KeyError: diffusers has no such tensor.
    """
    part, _, rest = key.partition(".")
    if part in ("quant_conv", "post_quant_conv"):
        return key
    if part not in ("encoder", "decoder"):
        raise KeyError(key)
    matched = _LDM_BLOCKS.fullmatch(rest)
    if not matched:
        return f"{part}.{_named(rest, _ENDS, 'conv_in', 'conv_out')}"
    mid, number, side, level, kind, index, inner = matched.groups()
    block = f"{side}_blocks.{_level(side, int(level), levels)}" if side else "mid_block"
    place = index if side else str(int(number) - 1)
    if (mid or kind) == "attn":
        return f"{part}.{block}.attentions.{place}.{_named(inner, _ATTENTION)}"
    if (mid or kind) is None:
        return f"{part}.{block}.{side}samplers.0.{_named(inner, {}, 'conv')}"
    own = _named(inner, _RESNET, "norm1", "conv1", "norm2", "conv2")
    if video and part == "decoder" and not own.startswith("t"):
        own = f"spatial_res_block.{own}"
    return f"{part}.{block}.resnets.{place}.{own}"


def _level(side: str, number: int, levels: int) -> int:
    """The index of a level in the other dialect: diffusers counts ``up_blocks`` from the latent."""
    return levels - 1 - number if side == "up" else number


def _renamed(rest: str, names: Mapping[str, str]) -> str:
    module, _, leaf = rest.rpartition(".")
    own = names.get(module, module)
    return f"{own}.{leaf}" if own else leaf


def _named(rest: str, names: Mapping[str, str], *same: str) -> str:
    """The diffusers name for a name inside a block."""
    module, _, leaf = rest.rpartition(".")
    known = {own: theirs for theirs, own in names.items()} | {name: name for name in same}
    if module not in known or (not module and leaf != "mix_factor"):
        raise KeyError(rest)
    return f"{known[module]}.{leaf}"
