"""How a video decoder blends: as its file records, or as the ``mix_factor`` values show.

A ``fixed`` blend stores weights from 0 to 1: of the temporal branch in residual blocks, of the
spatial branch in attention blocks. A ``learned`` blend stores logits, which a sigmoid maps to
weights. Names and shapes do not show which of the two a file holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from inflate.config.schema import is_finite_number
from inflate.errors import ConfigError
from inflate.formats.locate import Located
from inflate.io.index import FLOATS

MERGE_STRATEGY = "temporal.merge_strategy"

_ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Tolerance for the sum of two stored shares, which should be 1; wider types use :data:`_FINE`."""

_FINE = 2.0**-22


@dataclass(frozen=True)
class Blend:
    """How a video decoder blends, and the evidence for it.

    ``strategy`` is None if unknown. ``alpha`` is that of a fixed blend. Of several shares it is
    the one nearest to 0 or 1, which decides whether a sigmoid can produce all of them.
    """

    strategy: str | None
    reason: str
    alpha: float | None = None
    recorded: bool = False


def find_blend(
    located: Located,
    recorded: Mapping[str, Any],
    read: Callable[[str], Any],
    path: object,
    given: object = None,
) -> Blend:
    """Find out how a video decoder blends, from its recorded settings or its tensors.

    ``read`` reads a tensor of the file, here only scalars; ``given`` is the user's merge strategy,
    or None.

    Raises:
        ConfigError: ``given`` is ``fixed``, but the values cannot be shares.
    """
    if MERGE_STRATEGY in recorded:
        alpha = recorded.get("temporal.alpha")
        known = alpha if is_finite_number(alpha) else None
        reason = "the header of the file records it"
        return Blend(str(recorded[MERGE_STRATEGY]), reason, known, recorded=True)
    if located.dialect == "diffusers":
        reason = "AutoencoderKLTemporalDecoder of diffusers always uses it"
        return Blend("learned", reason, recorded=True)
    temporal: list[float] = []
    spatial: list[float] = []
    rounding = 0.0
    for key, info in located.tensors.items():
        if key.endswith(".mix_factor") and info.parameters == 1 and info.dtype in FLOATS:
            (spatial if ".attn" in key else temporal).append(float(read(info.name).item()))
            rounding = max(rounding, _ROUNDING.get(info.dtype, _FINE))
    values = sorted((*temporal, *spatial))
    outside = [value for value in values if not 0.0 <= value <= 1.0]
    shares = [*temporal, *(1.0 - value for value in spatial)]
    fixed_alpha = min(shares, key=lambda share: min(share, 1.0 - share), default=None)
    if given == "fixed" and outside:
        raise ConfigError(
            f"{path} blends by numbers such as {outside[0]:g}, not shares from 0 to 1: its "
            "blend is not fixed; leave --merge-strategy out"
        )
    if given is not None:
        return Blend(str(given), "by option", fixed_alpha if given == "fixed" else None)
    if not values:
        # Every temporal block has one: loading and planning report missing ones.
        return Blend("learned", "it has no mix_factor")
    if outside:
        return Blend("learned", f"a mix_factor of {outside[0]:g} is not a share")
    if temporal and spatial:
        least, most = min(temporal) + min(spatial), max(temporal) + max(spatial)
        if max(abs(least - 1.0), abs(most - 1.0)) <= rounding:
            reason = "the mix_factor values of residual and attention blocks sum to 1"
            return Blend("fixed", reason, fixed_alpha)
        if most == 0.0:
            # A fixed blend would start with 1 in one of the two.
            return Blend("learned", "every mix_factor is 0, a learned start")
    return Blend(
        None,
        f"its mix_factor values, {values[0]:g} to {values[-1]:g}, can be shares (fixed) or go "
        "through a sigmoid first (learned)",
    )
