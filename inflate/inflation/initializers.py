"""The rules by which temporal tensors are made, and which tensor is made by which rule.

Each temporal branch starts as an exact identity, so that the video decoder equals the image decoder
whatever its blend; all that an identity does not need starts at random, so that gradients arrive.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from inflate.models import VideoDecoder
from inflate.models.blend import TemporalBlock


@dataclass(frozen=True)
class Rule:
    """How a tensor is made.

    ``zeros`` and ``ones``; ``dirac``, a convolution that gives back its input; ``constant``, all
    ``value``; ``uniform``, drawn between ``-value`` and ``value``.
    """

    name: Literal["zeros", "ones", "dirac", "constant", "uniform"]
    value: float = 0.0

    def __str__(self) -> str:
        """As it is printed in a plan."""
        if self.name == "uniform":
            return f"uniform(±{self.value:.4g})"
        return f"constant({self.value:g})" if self.name == "constant" else self.name


ZEROS, ONES, DIRAC = Rule("zeros"), Rule("ones"), Rule("dirac")

BRANCHES: Mapping[str, frozenset[str]] = {
    "time_mix_conv": frozenset(),
    "time_stack": frozenset({"out_layers.3"}),
    "time_mix_block": frozenset({"attn1.to_out.0", "attn2.to_out.0", "ff_in.net.2", "ff.net.2"}),
    "video_time_embed": frozenset({"2"}),
}
"""The temporal parts of a block, and the layers in each whose zeros make it an identity."""


def start_rules(decoder: VideoDecoder) -> dict[str, Rule]:
    """The rule of every temporal tensor of a decoder, by its key.

    Args:
        decoder: a decoder on any device, ``meta`` too: only its modules and shapes are looked at.
    """
    rules = {}
    for path, module in decoder.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(module, TemporalBlock):
            stored = module.stored_mix_factor(decoder.alpha, decoder.merge_strategy)
            rules[f"{prefix}mix_factor"] = Rule("constant", stored)
        for name, child in module.named_children():
            if name in BRANCHES:
                rules.update(
                    {f"{prefix}{name}.{k}": r for k, r in _branch_rules(name, child).items()}
                )
    return rules


def norm_keys(decoder: VideoDecoder) -> set[str]:
    """The keys of the norms in the temporal branches of a decoder."""
    found = set()
    for path, module in decoder.named_modules():
        if isinstance(module, (nn.GroupNorm, nn.LayerNorm)) and not BRANCHES.keys().isdisjoint(
            path.split(".")
        ):
            found |= {f"{path}.{name}" for name, _ in module.named_parameters()}
    return found


def make_tensor(rule: Rule, shape: tuple[int, ...], key: str, seed: int) -> Tensor:
    """A tensor made by a rule, in float32; one number throughout is stored once, and expanded.

    The random ones are drawn from a generator of their own, seeded by ``seed`` and ``key``: the
    same whatever else is made, and in whatever order.

    Source:
        ``dirac``: Zagoruyko and Komodakis, "DiracNets", 2017. ``uniform``: the start that
        ``torch.nn.Linear`` and ``torch.nn.Conv3d`` give themselves, of He et al., 2015.
    """
    if rule.name == "dirac":
        tensor = torch.zeros(shape)
        centre = tuple(extent // 2 for extent in shape[2:])
        for channel in range(min(shape[:2])):
            tensor[(channel, channel, *centre)] = 1.0
        return tensor
    if rule.name == "uniform":
        digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
        return torch.empty(shape).uniform_(-rule.value, rule.value, generator=generator)
    value = {"zeros": 0.0, "ones": 1.0}.get(rule.name, rule.value)
    # Through float64: a value that float32 cannot hold becomes infinite, which is told later.
    return torch.tensor(value, dtype=torch.float64).float().expand(shape)


def _branch_rules(branch: str, module: nn.Module) -> dict[str, Rule]:
    rules = {}
    for path, layer in module.named_modules():
        own = dict(layer.named_parameters(recurse=False))
        for name in own:
            key = f"{path}.{name}" if path else name
            fan_in = own["weight"][0].numel()
            rules[key] = _layer_rule(branch, path, layer, name, fan_in)
    return rules


def _layer_rule(branch: str, path: str, layer: nn.Module, name: str, fan_in: int) -> Rule:
    if branch == "time_mix_conv":
        return DIRAC if name == "weight" else ZEROS
    if path in BRANCHES[branch]:
        return ZEROS
    if isinstance(layer, (nn.GroupNorm, nn.LayerNorm)):
        return ONES if name == "weight" else ZEROS
    return Rule("uniform", 1.0 / math.sqrt(fan_in))
