"""A plan carried out: its tensors, one at a time, in the order of the file."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from inflate.checkpoint.reader import Checkpoint
from inflate.checkpoint.writer import is_repeated, one_of
from inflate.errors import PlanError
from inflate.inflation.initializers import make_tensor
from inflate.inflation.plan import Copy, InflationPlan, Make, PlannedTensor
from inflate.progress import Progress


def planned_tensors(
    plan: InflationPlan, checkpoint: Checkpoint, progress: Progress
) -> Iterator[Tensor]:
    """Read or make each tensor of a plan, in its stored type.

    Raises:
        CheckpointError: a tensor of the source cannot be read.
        PlanError: weights that are not finite, or that the cast makes so, all of them at once,
            after the last tensor.
    """
    problems = []
    for done, planned in enumerate(plan.tensors):
        progress("writing", done, len(plan.tensors))
        dtype = getattr(torch, planned.dtype)
        if isinstance(planned.origin, Make):
            rule = planned.origin.rule
            made = make_tensor(rule, planned.shape, planned.key, plan.config.seed)
            # One number throughout stays stored once.
            made = one_of(made).to(dtype).expand_as(made) if is_repeated(made) else made.to(dtype)
            if not is_finite(made):
                problems.append(f"{planned.key}, made as {rule}, overflows in {planned.dtype}")
            yield made
            continue
        source = checkpoint.read(planned.origin.key).view(planned.shape)
        tensor = source.to(dtype)
        if not is_finite(tensor):
            problems.append(_not_finite(planned, source, tensor))
        yield tensor
    progress("writing", len(plan.tensors), len(plan.tensors))
    if problems:
        raise PlanError("weights that are not finite cannot be converted:", problems)


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity, found without a copy of it."""
    if not tensor.numel():
        return True
    if is_repeated(tensor):
        tensor = one_of(tensor)
    low, high = torch.aminmax(tensor)
    return math.isfinite(low) and math.isfinite(high)


def _not_finite(planned: PlannedTensor, source: Tensor, stored: Tensor) -> str:
    """What is wrong with a tensor, with the number of values it concerns."""
    name = planned.origin.source if isinstance(planned.origin, Copy) else planned.key
    bad = int((~torch.isfinite(source)).sum())
    if bad:
        return f"{name} holds NaN or infinity ({bad} of {source.numel()} values)"
    lost = int((~torch.isfinite(stored)).sum())
    largest = source.abs().max().item()
    return (
        f"{name} overflows in {planned.dtype} ({lost} of {source.numel()} values, the largest "
        f"{largest:.4g}); store it in bfloat16 or float32"
    )
