"""A plan carried out: its tensors, one at a time, in the order of the file."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from inflate.checkpoint.reader import Checkpoint
from inflate.checkpoint.writer import is_repeated, one_of
from inflate.errors import PlanError
from inflate.inflation.initializers import make_array
from inflate.inflation.plan import Copy, InflationPlan, Make, PlannedTensor
from inflate.progress import Progress

_SERIAL = 32_000
"""So few numbers torch looks through on one thread: more would wait for each other, beside the
threads that hash and write, longer than they help."""

_TOGETHER = 1 << 20
"""Bytes that are read or made at once, at least, where there are as many."""

Carried = tuple[Tensor, "str | None"]
"""A tensor of a plan, and what is wrong with it."""


def planned_tensors(
    plan: InflationPlan, checkpoint: Checkpoint, progress: Progress
) -> Iterator[Tensor]:
    """Read or make each tensor of a plan, in its stored type, some ahead on another thread.

    Raises:
        CheckpointError: a tensor of the source cannot be read.
        PlanError: weights that are not finite, or that the cast makes so, all of them at once,
            after the last tensor.
    """
    problems = []
    done = 0
    carried: deque[Carried] = deque()
    with ThreadPoolExecutor(1) as pool:
        for batch in (*_batches(plan.tensors), ()):  # Behind the last one nothing is ahead.
            ahead = pool.submit(_carry_out_all, batch, plan, checkpoint)
            while carried:
                progress("writing", done, len(plan.tensors))
                tensor, problem = carried.popleft()
                if problem is not None:
                    problems.append(problem)
                yield tensor
                del tensor  # Else it would live until the next is there.
                done += 1
            carried = ahead.result()
    progress("writing", len(plan.tensors), len(plan.tensors))
    if problems:
        raise PlanError("weights that are not finite cannot be converted:", problems)


def _batches(tensors: Iterable[PlannedTensor]) -> Iterator[list[PlannedTensor]]:
    """Tensors in their order, small ones together: handing each over takes longer than it does."""
    batch: list[PlannedTensor] = []
    nbytes = 0
    for tensor in tensors:
        batch.append(tensor)
        nbytes += tensor.info.nbytes
        if nbytes >= _TOGETHER:
            yield batch
            batch, nbytes = [], 0
    if batch:
        yield batch


def _carry_out_all(
    batch: Sequence[PlannedTensor], plan: InflationPlan, checkpoint: Checkpoint
) -> deque[Carried]:
    return deque(_carry_out(planned, plan, checkpoint) for planned in batch)


def _carry_out(planned: PlannedTensor, plan: InflationPlan, checkpoint: Checkpoint) -> Carried:
    dtype = getattr(torch, planned.dtype)
    if isinstance(planned.origin, Make):
        rule = planned.origin.rule
        array = make_array(rule, planned.shape, planned.key, plan.config.seed)
        one = torch.tensor(array.flat[0])
        made = torch.from_numpy(array) if any(array.strides) else one.expand(planned.shape)
        # One number throughout stays stored once.
        made = one_of(made).to(dtype).expand_as(made) if is_repeated(made) else made.to(dtype)
        # What is drawn lies between the bounds: if they are finite, so is all of it.
        if is_finite(torch.tensor(rule.value).to(dtype) if rule.name == "uniform" else made):
            return made, None
        return made, f"{planned.key}, made as {rule}, overflows in {planned.dtype}"
    source = checkpoint.read(planned.origin.key).view(planned.shape)
    tensor = source.to(dtype)
    return tensor, None if is_finite(tensor) else _not_finite(planned, source, tensor)


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity, found without a copy of it."""
    if not tensor.numel():
        return True
    if is_repeated(tensor):
        tensor = one_of(tensor)
    for part in tensor.reshape(-1).split(_SERIAL):  # type: ignore[no-untyped-call]
        low, high = torch.aminmax(part)
        if not (math.isfinite(low) and math.isfinite(high)):
            return False
    return True


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
