"""Training: parameters by kind, and gradient checkpointing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from inflate.models.blocks import GroupNorm, LayerNorm, Step
from inflate.vocabulary import TEMPORAL_PARTS


class Checkpointed(nn.Module):
    """A network of steps that can recompute each of them in the backward pass."""

    gradient_checkpointing = False

    def run_step(self, step: Step, h: Tensor, **arguments: Any) -> Tensor:
        """A step's output; with checkpointing, only its input is kept for the backward pass.

        Source:
            Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
        """
        if self.gradient_checkpointing and torch.is_grad_enabled():
            out: Tensor = checkpoint(step, h, use_reentrant=False, **arguments)
            return out
        return step(h, **arguments)


class Trainable(nn.Module):
    """The parameters of a video decoder or autoencoder, split into temporal and spatial ones."""

    def temporal_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the temporal layers, learned blend factors included."""
        return (p for name, p in self.named_parameters() if _is_temporal(name))

    def spatial_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the image layers: those of the image checkpoint."""
        return (p for name, p in self.named_parameters() if not _is_temporal(name))

    def freeze_spatial(self) -> None:
        """Train the temporal layers alone.

        The image layers get no gradients and keep none. So the encoder, and a decoder's layers
        before its first temporal one, record nothing for the backward pass.
        """
        for parameter in self.spatial_parameters():
            parameter.requires_grad_(False)
            parameter.grad = None

    def parameter_groups(self, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """The parameters that require a gradient, in groups for an optimiser of ``torch.optim``.

        The second group has no weight decay: blend factors and norms. Decay pulls a weight to
        zero, which for a blend factor is not "no temporal branch" but a share of one half, and
        for the gain of a norm is a layer without output.

        Args:
            lr: the learning rate of both groups.
            weight_decay: that of the first group.
        """
        norms = {
            id(parameter)
            for module in self.modules()
            if isinstance(module, GroupNorm | LayerNorm)
            for parameter in module.parameters(recurse=False)
        }
        decayed: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                kept = id(parameter) in norms or name.endswith("mix_factor")
                (others if kept else decayed).append(parameter)
        return [
            {"params": decayed, "lr": lr, "weight_decay": weight_decay},
            {"params": others, "lr": lr, "weight_decay": 0.0},
        ]

    def enable_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Recompute each block in the backward pass: the same gradients, less memory, more time."""
        for module in self.modules():
            if isinstance(module, Checkpointed):
                module.gradient_checkpointing = enabled


def _is_temporal(name: str) -> bool:
    return any(part in TEMPORAL_PARTS for part in name.split("."))
