"""What keeps a temporal tensor from learning, told from the modules, and how it is said."""

from __future__ import annotations

from torch import nn

from inflate.formats.layouts import is_inflated
from inflate.inflation.dead_weight import MIX_FACTOR, blocked
from inflate.mix_factor import alpha_of
from inflate.models import VideoDecoder
from inflate.models.blend import TemporalBlock
from inflate.models.blocks import AttnBlock, ResnetBlock, Upsample

ARRIVES = "a gradient arrives"
AFTER_ZEROS = "the zeros that make its branch an identity pass no gradient on before they move"
EQUAL_BRANCHES = "its branches are equal before the first step: there is nothing to weigh"

_BUFFER = "a fixed blend is a buffer, which no optimiser changes"
_CENTRED = "the norms after it have one channel a group, and take every constant away again"
_FROZEN = "its requires_grad is false"

Why = tuple[str, str | None]
"""A reason, and what to change; None where it is as chosen, or does no harm."""


def blocks_of_tensors(decoder: VideoDecoder) -> dict[str, TemporalBlock | None]:
    """Every temporal tensor, and the block whose blend weighs it; None for those without."""
    blocks = {f"{p}.": m for p, m in decoder.named_modules() if isinstance(m, TemporalBlock)}
    found = {}
    for key in filter(lambda key: is_inflated([key]), decoder.state_dict()):
        path = next((path for path in blocks if key.startswith(path)), "")
        found[key] = blocks.get(path)
    return found


def frozen(parameter: nn.Parameter | None) -> Why | None:
    """Why no optimiser changes a tensor; None where one may."""
    if parameter is None:
        return _BUFFER, None
    return None if parameter.requires_grad else (_FROZEN, "set it to true")


def cut(key: str, block: TemporalBlock | None) -> Why | None:
    """Why the blend lets nothing through to a tensor; None where it does."""
    if block is None:
        return None
    alpha = alpha_of(float(block.mix_factor.detach()), block.merge_strategy, block.mix_weighs)
    return blocked(alpha, block.merge_strategy, mix_factor=key.endswith(MIX_FACTOR))


def centred(decoder: VideoDecoder, key: str) -> Why | None:
    """Why a bias never counts: norms of one channel a group take every constant away."""
    path, _, tensor = key.rpartition(".in_layers.")
    if tensor == "2.bias":
        vanishes = _alone(decoder.get_submodule(f"{path}.out_layers.0"))
    else:
        ends = key.endswith((".out_layers.3.bias", ".time_mix_block.ff.net.2.bias"))
        vanishes = ends and key.startswith(_levelled(decoder))
    return (_CENTRED, None) if vanishes else None


def later(key: str) -> str:
    """Why a tensor learns from the next step on."""
    return EQUAL_BRANCHES if key.endswith(".mix_factor") else AFTER_ZEROS


def _levelled(decoder: VideoDecoder) -> tuple[str, ...]:
    """The paths of the blocks after which every constant is taken away before it is used."""
    names = {module: path for path, module in decoder.named_modules()}
    kinds = (ResnetBlock, AttnBlock, Upsample, nn.Identity)
    run = [step for step in decoder.steps() if isinstance(step, kinds)]
    found = []
    vanishes = _alone(decoder.norm_out)
    for module in reversed(run):
        if vanishes:
            found.append(f"{names[module]}.")
        if isinstance(module, ResnetBlock):
            skips = not hasattr(module, "nin_shortcut")
            vanishes = vanishes and skips and _alone(module.norm1)
        elif isinstance(module, AttnBlock):
            vanishes = vanishes and _alone(module.norm)
        elif isinstance(module, Upsample):
            vanishes = vanishes and isinstance(module.conv, nn.Identity)
    return tuple(found)


def _alone(norm: nn.Module) -> bool:
    """Whether each channel of a norm is a group of its own."""
    return isinstance(norm, nn.GroupNorm) and norm.num_groups == norm.num_channels
