"""The plan of a conversion, made before any tensor is read or written.

It is complete: every tensor of the target has one origin, and every tensor of the source is used,
passed through, or dropped with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from inflate.config.schema import Config, Temporal
from inflate.errors import FamilyError, PlanError
from inflate.formats.architecture import image_problems, mismatches
from inflate.formats.layouts import DECODER, PASSED_THROUGH, STATISTICS
from inflate.formats.locate import Dropped, Located
from inflate.formats.spec import decoder_spec
from inflate.inflation.initializers import Rule, start_rule
from inflate.io.index import FLOATS, WIDTHS, TensorInfo

Part = Literal["spatial", "temporal", "passed-through"]

_LEAST_SHARE = 2.0**-23
"""With a smaller share of the blend, float32 rounds away the contribution of a branch."""

MIX_FACTOR = ".mix_factor"


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the target: its key, shape, stored type, part and origin.

    ``origin`` is the rule that makes it or, for a copied tensor, its name in the source file;
    ``name`` is its name in the target file, if that differs from its key.
    """

    key: str
    shape: tuple[int, ...]
    dtype: str
    part: Part
    origin: str | Rule
    name: str = ""

    @property
    def info(self) -> TensorInfo:
        """The entry of the tensor in the target file."""
        nbytes = math.prod(self.shape) * WIDTHS[self.dtype]
        return TensorInfo(self.name or self.key, self.shape, self.dtype, nbytes)


@dataclass(frozen=True, repr=False)
class InflationPlan:
    """All tensors of the target in file order, and the tensors dropped from the source.

    ``notes`` are for the user; ``folder_config`` is the ``config.json`` if the layout is a
    folder.
    """

    config: Config
    tensors: tuple[PlannedTensor, ...]
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...] = ()
    folder_config: Mapping[str, Any] | None = None

    def of(self, part: Part) -> tuple[PlannedTensor, ...]:
        """The target's tensors of a part."""
        return tuple(tensor for tensor in self.tensors if tensor.part == part)

    @property
    def initialised(self) -> tuple[PlannedTensor, ...]:
        """The temporal tensors that rules make; empty for a copy of a video checkpoint."""
        return tuple(t for t in self.of("temporal") if isinstance(t.origin, Rule))

    @property
    def nbytes(self) -> int:
        """The size of all tensors of the target, in bytes."""
        return sum(tensor.info.nbytes for tensor in self.tensors)


def make_plan(
    located: Located, config: Config, path: object, *, copying: bool = False
) -> InflationPlan:
    """Plan the inflation of an image autoencoder, or the copy of a video checkpoint.

    Raises:
        FamilyError: the source is a video decoder, but the call is not for a copy.
        PlanError: missing and extra keys, wrong shapes and types, reported together.
    """
    if located.inflated and not copying:
        raise FamilyError(
            f"{path} is inflated already: its decoder has temporal layers; expected an image "
            "autoencoder. 'inflate verify' checks it, and --layout writes it in another "
            "layout"
        )
    spec = decoder_spec(config.architecture, config.temporal)
    problems = image_problems(located, config.architecture)
    if copying:
        expected = {tensor.key: tensor.shape for tensor in spec if tensor.part is not None}
        problems += mismatches(located, expected, located.temporal)
    if problems:
        raise PlanError(f"{path} does not fit its architecture:", problems)
    own = located.tensors[f"{DECODER}conv_in.weight"].dtype
    tensors = []
    for tensor in spec:
        part: Part = "spatial" if tensor.part is None else "temporal"
        wide = config.float32_norms and part == "temporal" and tensor.role == "norm"
        stored = "float32" if wide else config.dtype
        if part == "spatial" or copying:
            tensors.append(_copied(located, tensor.key, part, stored))
        else:
            rule = start_rule(tensor, config.temporal)
            tensors.append(PlannedTensor(tensor.key, tensor.shape, stored or own, part, rule))
    for key in (key for part in PASSED_THROUGH for key in located.part(part)):
        # Statistics are not weights and keep their type.
        stored = None if key.startswith(STATISTICS) else config.dtype
        tensors.append(_copied(located, key, "passed-through", stored))
    notes = () if copying else _dead_weight(config.temporal)
    return InflationPlan(config, tuple(widest_first(tensors)), located.dropped, notes)


def blocked(alpha: float, merge_strategy: str, *, mix_factor: bool) -> tuple[str, str] | None:
    """Why the blend passes no gradient to a tensor, and what to change; None if it does.

    Args:
        alpha: the alpha of the tensor's block.
        merge_strategy: ``fixed`` or ``learned``.
        mix_factor: whether the tensor is the block's ``mix_factor`` or belongs to its branch.
    """
    sigmoid = 1.0 / (1.0 + math.exp(-max(alpha, -700.0)))  # Below, exp overflows.
    share = alpha if merge_strategy == "fixed" else sigmoid
    if (min(share, 1.0 - share) if mix_factor else share) >= _LEAST_SHARE:
        return None
    if merge_strategy == "fixed":
        more = "a larger alpha" if share else "an alpha above 0"
        return (
            f"a fixed blend with alpha {share:g} passes no gradient to the temporal branches",
            f"choose --merge-strategy learned, or {more}",
        )
    what = "the slope of their share" if mix_factor else "the share of the temporal branches"
    return (
        f"a saturated sigmoid: at alpha {alpha:g} {what} is below {_LEAST_SHARE:.1g}",
        "choose an alpha between -15 and 15",
    )


def _dead_weight(temporal: Temporal) -> tuple[str, ...]:
    """Notes on new temporal tensors that can never learn, because of their blend."""
    learned = temporal.merge_strategy == "learned"
    why = blocked(temporal.alpha, temporal.merge_strategy, mix_factor=learned)
    if why is None:
        return ()
    return (f"{why[0]}: such tensors never learn. To let them learn, {why[1]}",)


def widest_first(tensors: Iterable[PlannedTensor]) -> list[PlannedTensor]:
    """Sort tensors so that each starts at a multiple of its type's width."""
    return sorted(tensors, key=lambda tensor: -WIDTHS[tensor.dtype])


def _copied(located: Located, key: str, part: Part, dtype: str | None) -> PlannedTensor:
    info = located.tensors[key]
    # Counters of a quantiser stay integers in every stored type.
    stored = (dtype or info.dtype) if info.dtype in FLOATS else info.dtype
    return PlannedTensor(key, info.shape, stored, part, info.name)
