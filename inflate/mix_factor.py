"""The meaning of ``mix_factor``, with which a temporal block blends its two branches.

Its meaning depends on the block: in a residual block it weighs the temporal branch, in an
attention block the spatial branch. Users see only ``alpha``, the share of the temporal branch,
before a sigmoid if ``learned``. Only this module converts between the two.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from inflate.vocabulary import MERGE_STRATEGIES

Weighs = Literal["temporal", "spatial"]
"""The branch that ``mix_factor`` weighs."""

RESIDUAL_WEIGHS: Weighs = "temporal"
ATTENTION_WEIGHS: Weighs = "spatial"

N = TypeVar("N")
"""A float, or a tensor."""


def mix_factor_of(alpha: N, merge_strategy: str, weighs: Weighs) -> N:
    """The ``mix_factor`` that a block stores for an ``alpha``.

    Raises:
        ValueError: the ``merge_strategy`` is unknown.
    """
    check_merge_strategy(merge_strategy)
    if weighs == "temporal":
        return alpha
    number: Any = alpha
    # 0.0 - alpha rather than -alpha, to avoid a negative zero in the file.
    opposite: N = (1.0 if merge_strategy == "fixed" else 0.0) - number
    return opposite


def alpha_of(mix_factor: N, merge_strategy: str, weighs: Weighs) -> N:
    """The ``alpha`` for a stored ``mix_factor``.

    Raises:
        ValueError: the ``merge_strategy`` is unknown.
    """
    return mix_factor_of(mix_factor, merge_strategy, weighs)  # The conversion is its own inverse.


def check_merge_strategy(merge_strategy: str) -> None:
    """Raise ValueError for an unknown ``merge_strategy``."""
    if merge_strategy not in MERGE_STRATEGIES:
        raise ValueError(
            f"merge_strategy is {merge_strategy!r}; expected one of {', '.join(MERGE_STRATEGIES)}"
        )
