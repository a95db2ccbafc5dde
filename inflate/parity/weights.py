"""Compare the tensors that two files should share."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from inflate.formats.layouts import DECODER, PASSED_THROUGH, is_inflated
from inflate.formats.recorded import CONFIG_KEY, SOURCE_BLEND_KEY
from inflate.formats.source import Source
from inflate.formats.spec import TensorSpec, decoder_spec
from inflate.inflation.initializers import start_rule, start_rules
from inflate.io.arrays import is_finite
from inflate.io.index import WIDTHS
from inflate.io.reader import same_bytes
from inflate.loading import in_parallel, make_tensor, read_tensor
from inflate.parity.result import PlanRow, TemporalResult, WeightsResult


def compare_weights(
    reference: Source, candidate: Source, same: Collection[str] = ()
) -> WeightsResult:
    """Compare every shared tensor with its source, rounded to the candidate's type.

    A tensor that the source lacks counts as different, except an identity ``quant_conv``, which
    diffusers' class always has. Tensors in ``same`` are known to be equal and not read again.
    """
    made = () if reference.located.part("quant_conv.") else _identity_quant(candidate)
    keys = [key for key in _shared_keys(reference, candidate) if key not in made]

    def equal(key: str) -> bool:
        if reference.info(key) is None:
            return False
        if key in same or same_bytes(candidate.checkpoint, key, reference.checkpoint):
            return True
        have = read_tensor(candidate, key)
        return torch.equal(read_tensor(reference, key).to(have.dtype), have)

    found = zip(keys, in_parallel(equal, keys), strict=True)
    return WeightsResult(len(keys), tuple(key for key, is_equal in found if not is_equal))


def compare_temporal(candidate: Source) -> TemporalResult | None:
    """Compare every temporal tensor with what its rule and seed make.

    None if the file does not record its configuration and seed.
    """
    if CONFIG_KEY not in candidate.checkpoint.metadata:
        return None
    same = {tensor.key: torch.equal(*both) for tensor, *both in temporal_starts(candidate)}
    return TemporalResult(len(same), tuple(key for key, is_same in same.items() if not is_same))


def temporal_starts(candidate: Source) -> Iterator[tuple[TensorSpec, Tensor, Tensor]]:
    """Every temporal tensor of a video checkpoint, with the values that its rule and seed make."""
    config = candidate.config
    for tensor in decoder_spec(config.architecture, config.temporal):
        if tensor.part is not None:
            now = read_tensor(candidate, tensor.key)
            rule = start_rule(tensor, config.temporal)
            made = make_tensor(rule, tensor.shape, tensor.key, config.seed)
            yield tensor, now, made.to(now.dtype)


def not_finite(candidate: Source) -> tuple[str, ...]:
    """The tensors of a video checkpoint with NaN or infinity."""
    tensors = candidate.located.tensors
    return tuple(key for key in tensors if not is_finite(candidate.read(key)))


def plan_rows(candidate: Source) -> tuple[PlanRow, ...]:
    """Every tensor of a video checkpoint and its origin, by its name.

    Rules are those of the recorded configuration; None if the file records none, or is a copy of
    a video checkpoint.
    """
    rules = start_rules(candidate.config)
    metadata = candidate.checkpoint.metadata
    copied = SOURCE_BLEND_KEY in metadata  # Copied from a video checkpoint, which may be trained.
    ours = CONFIG_KEY in metadata and not copied
    rows = []
    for key, info in candidate.located.tensors.items():
        origin: Literal["copied", "initialised", "passed-through"] = "passed-through"
        if key.startswith(DECODER):
            origin = "initialised" if key in rules and not copied else "copied"
        rule = str(rules[key]) if ours and key in rules else None
        rows.append(PlanRow(key, origin, info.shape, info.dtype, info.nbytes, rule))
    return tuple(rows)


def narrowed(reference: Source, candidate: Source) -> tuple[str, str] | None:
    """The types of the first tensor that the candidate stores with less range or precision."""
    for key in _shared_keys(reference, candidate):
        have, want = reference.info(key), candidate.info(key)
        if have is None or want is None or have.dtype == want.dtype:
            continue
        if WIDTHS[want.dtype] <= WIDTHS[have.dtype]:
            return have.dtype, want.dtype
    return None


def _shared_keys(reference: Source, candidate: Source) -> list[str]:
    """The keys that both files should have."""
    keys = candidate.located.part(DECODER)
    if not reference.inflated:
        keys = [key for key in keys if not is_inflated([key])]
    if any(reference.located.part(part) for part in PASSED_THROUGH):
        keys += [key for part in PASSED_THROUGH for key in candidate.located.part(part)]
    return keys


def _identity_quant(source: Source) -> tuple[str, ...]:
    """The keys of a source's ``quant_conv`` if it is an identity."""
    keys = ("quant_conv.weight", "quant_conv.bias")
    if any(source.info(key) is None for key in keys):
        return ()
    weight, bias = map(source.read, keys)
    is_identity = np.array_equal(weight[:, :, 0, 0], np.eye(len(bias))) and not bias.any()
    return keys if is_identity else ()
