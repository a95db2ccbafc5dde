"""The plan of a conversion, made before any tensor is read or written.

It is total: every tensor of the target has one origin, and every tensor of the source is used,
passed through, or dropped for a reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from inflate.config.schema import Config
from inflate.display import Displayed, bytes_text
from inflate.errors import FamilyError, PlanError
from inflate.formats.layouts import DECODER, PASSED_THROUGH, STATISTICS, is_inflated
from inflate.formats.locate import Located
from inflate.formats.shapes import image_problems, mismatches
from inflate.formats.spec import TensorSpec, decoder_spec
from inflate.inflation.initializers import Rule, start_rule
from inflate.io.index import FLOATS, WIDTHS, TensorInfo

Part = Literal["spatial", "temporal", "passed-through"]


@dataclass(frozen=True)
class Copy:
    """A tensor that is copied from the source: its key, and its name in the source file."""

    key: str
    source: str


@dataclass(frozen=True)
class Make:
    """A tensor that a rule makes."""

    rule: Rule


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the target: its key, its shape and stored type, its part and its origin.

    ``name`` is its name in the target file, if the layout gives it another than its key.
    """

    key: str
    shape: tuple[int, ...]
    dtype: str
    part: Part
    origin: Copy | Make
    name: str = ""

    @property
    def parameters(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)

    @property
    def info(self) -> TensorInfo:
        """How the target file stores it."""
        nbytes = self.parameters * WIDTHS[self.dtype]
        return TensorInfo(self.name or self.key, self.shape, self.dtype, nbytes)


@dataclass(frozen=True)
class Dropped:
    """A tensor of the source that is not copied, and why."""

    source: str
    reason: str
    nbytes: int


@dataclass(frozen=True, repr=False)
class InflationPlan(Displayed):
    """All tensors of the target, in the order of the file, and those dropped from the source."""

    config: Config
    tensors: tuple[PlannedTensor, ...]
    dropped: tuple[Dropped, ...]

    def _facts(self) -> dict[str, object]:
        temporal = self.config.temporal
        made = len(self.initialised)
        return {
            "copied": f"{len(self.tensors) - made} tensors copied",
            "initialised": f"{made} initialised",
            "size": bytes_text(self.nbytes),
            "dropped": len(self.dropped),
            "temporal": f"{temporal.time_mode}, {temporal.merge_strategy}",
        }

    def of(self, part: Part) -> tuple[PlannedTensor, ...]:
        """The target's tensors of a part."""
        return tuple(tensor for tensor in self.tensors if tensor.part == part)

    @property
    def initialised(self) -> tuple[PlannedTensor, ...]:
        """The temporal tensors that rules make; none in a copy of a video checkpoint."""
        return tuple(t for t in self.of("temporal") if isinstance(t.origin, Make))

    @property
    def nbytes(self) -> int:
        """The size of all tensors of the target, in bytes."""
        return sum(tensor.info.nbytes for tensor in self.tensors)


def make_plan(located: Located, config: Config, path: object) -> InflationPlan:
    """Plan the inflation of an image autoencoder; ``path`` names it in messages.

    Raises:
        FamilyError: the source is already a video decoder.
        PlanError: missing and extra keys, wrong shapes and types, reported together.
    """
    if located.inflated:
        raise FamilyError(
            f"{path} is inflated already: its decoder has temporal layers; expected an image "
            "autoencoder. 'inflate verify' checks it as it is, and --layout writes it in another "
            "layout"
        )
    _check(image_problems(located, config.architecture), path)
    made = config.dtype or located.tensors[f"{DECODER}conv_in.weight"].dtype
    tensors = []
    for tensor in decoder_spec(config.architecture, config.temporal):
        if tensor.part is None:
            tensors.append(_copied(located, tensor.key, "spatial", config.dtype))
        else:
            dtype = "float32" if _stays_wide(tensor, config) else made
            origin = Make(start_rule(tensor, config.temporal))
            tensors.append(PlannedTensor(tensor.key, tensor.shape, dtype, "temporal", origin))
    return _plan(config, tensors, located)


def make_copy_plan(located: Located, config: Config, path: object) -> InflationPlan:
    """Plan the copy of a video checkpoint into another layout or stored type.

    Raises:
        PlanError: missing and extra keys, wrong shapes and types, reported together.
    """
    spec = decoder_spec(config.architecture, config.temporal)
    expected = {tensor.key: tensor.shape for tensor in spec if tensor.part is not None}
    present = [key for key in located.part(DECODER) if is_inflated([key])]
    problems = image_problems(located, config.architecture, present)
    _check(problems + mismatches(located, expected, present), path)
    tensors = []
    for tensor in spec:
        part: Part = "spatial" if tensor.part is None else "temporal"
        dtype = "float32" if _stays_wide(tensor, config) else config.dtype
        tensors.append(_copied(located, tensor.key, part, dtype))
    return _plan(config, tensors, located)


def widest_first(tensors: Iterable[PlannedTensor]) -> list[PlannedTensor]:
    """Tensors in an order in which each starts at a multiple of its type's width."""
    return sorted(tensors, key=lambda tensor: -WIDTHS[tensor.dtype])


def _stays_wide(tensor: TensorSpec, config: Config) -> bool:
    """Whether a tensor is stored in float32 in any case: a temporal norm, if requested."""
    return config.float32_norms and tensor.part is not None and tensor.role == "norm"


def _plan(config: Config, decoder: list[PlannedTensor], located: Located) -> InflationPlan:
    passed = [
        # Statistics are not weights: they keep their type.
        _copied(located, k, "passed-through", None if k.startswith(STATISTICS) else config.dtype)
        for part in PASSED_THROUGH
        for k in located.part(part)
    ]
    dropped = tuple(Dropped(d.info.name, d.reason, d.info.nbytes) for d in located.dropped)
    return InflationPlan(config, tuple(widest_first([*decoder, *passed])), dropped)


def _copied(located: Located, key: str, part: Part, dtype: str | None) -> PlannedTensor:
    info = located.tensors[key]
    # Counters of a quantiser stay integers whatever type the weights are stored in.
    stored = (dtype or info.dtype) if info.dtype in FLOATS else info.dtype
    return PlannedTensor(key, info.shape, stored, part, Copy(key, info.name))


def _check(problems: list[str], path: object) -> None:
    if problems:
        raise PlanError(f"{path} does not fit its architecture:", problems)
