"""Temporal tensors that no gradient ever reaches, because of the blend that a plan gives them."""

from __future__ import annotations

from collections import Counter

import numpy as np

from inflate.formats.spec import decoder_spec
from inflate.inflation.plan import InflationPlan, Make
from inflate.io.arrays import cast
from inflate.mix_factor import alpha_of

LEAST_SHARE = 2.0**-23
"""The share of a branch below which float32 rounds away what the branch adds."""

MIX_FACTOR = ".mix_factor"


def blocked(alpha: float, merge_strategy: str, *, mix_factor: bool) -> tuple[str, str] | None:
    """Why the blend passes no gradient to a tensor, and what to change; None where it passes one.

    Args:
        alpha: of the block that the tensor belongs to.
        merge_strategy: ``fixed`` or ``learned``.
        mix_factor: whether the tensor is the block's ``mix_factor``, else one of its branch.
    """
    with np.errstate(over="ignore"):
        share = alpha if merge_strategy == "fixed" else float(1.0 / (1.0 + np.exp(-alpha)))
    if (min(share, 1.0 - share) if mix_factor else share) >= LEAST_SHARE:
        return None
    if merge_strategy == "fixed":
        more = "a larger alpha" if share else "an alpha above 0"
        return (
            f"a fixed blend with alpha {share:g} lets no gradient into the temporal branches",
            f"choose --merge-strategy learned, or {more}",
        )
    what = "the slope of their share" if mix_factor else "the share of the temporal branches"
    return (
        f"a saturated sigmoid: at alpha {alpha:g} {what} is below {LEAST_SHARE:.1g}, which float32 "
        "rounds away",
        "choose an alpha between -15 and 15",
    )


def dead_weight(plan: InflationPlan) -> tuple[str, ...]:
    """Notes on the tensors of a plan that can never learn; none for the copy of a video checkpoint.

    A ``mix_factor`` counts as the file stores it: a narrow type may round a small share away.
    """
    temporal = {tensor.key: tensor for tensor in plan.initialised}
    strategy = plan.config.temporal.merge_strategy
    found: Counter[tuple[str, str] | None] = Counter()
    for spec in decoder_spec(plan.config.architecture, plan.config.temporal):
        tensor = temporal.get(spec.key)
        if spec.weighs is None or tensor is None or not isinstance(tensor.origin, Make):
            continue
        stored = cast(np.array([tensor.origin.rule.value], np.float32), tensor.dtype)
        alpha = alpha_of(float(stored[0]), strategy, spec.weighs)
        block = spec.key.removesuffix(MIX_FACTOR) + "."
        for key in temporal:
            own = key == spec.key
            if key.startswith(block) and not (own and strategy == "fixed"):
                found[blocked(alpha, strategy, mix_factor=own)] += 1
    return tuple(
        f"{why[0]}: {count} temporal tensors never learn, however long the decoder is trained. "
        f"To let them learn, {why[1]}"
        for why, count in found.items()
        if why is not None
    )
