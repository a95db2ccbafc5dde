"""What a parity check found: a verdict, and every number behind it.

The field names are those of the published JSON document (``inflate.report.documents``). An error of
None is one that is not finite; an SQNR of None is that of equal outputs where ``finite`` is true.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from inflate.vocabulary import ComparedWith, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from inflate.parity.metrics import Tolerance

Learns = Literal["now", "next-step", "never"]
"""From which optimiser step on a tensor learns."""


@dataclass(frozen=True)
class Errors:
    """How far two tensors are apart.

    ``sqnr_db`` is the reference's power over that of the difference, in dB. ``needed`` is the
    smallest value that, as ``atol`` and ``rtol`` alike, would pass.
    """

    max_abs: float | None
    mean_abs: float | None
    p99_abs: float | None
    sqnr_db: float | None
    needed: float | None
    finite: bool


@dataclass(frozen=True)
class Worst:
    """Where the largest error of a probe sits: video, frame, channel, row, column, from 0."""

    video: int
    frame: int
    channel: int
    row: int
    column: int


@dataclass(frozen=True)
class PartResult:
    """A part of a probe's output judged for itself: ``first frame``, ``border``, ..."""

    name: str
    verdict: Verdict
    max_abs_error: float | None


@dataclass(frozen=True)
class ProbeResult:
    """A probe, the shape of its latents, and how far the decoders are apart on it."""

    name: str
    shape: tuple[int, ...]
    frames: int
    verdict: Verdict
    max_abs_error: float | None
    errors: Errors | None = None
    parts: tuple[PartResult, ...] = ()
    worst: Worst | None = None


@dataclass(frozen=True)
class LayerResult:
    """A spatial layer that both decoders have, in the order in which they run: its outputs."""

    name: str
    kind: str
    """The class of its module: ``Conv2d``, ``GroupNorm``, ..."""
    verdict: Verdict
    errors: Errors


@dataclass(frozen=True)
class TemporalResult:
    """How many temporal tensors were compared with what their rules and seed make.

    ``changed`` names those that differ; alone they fail nothing, since training changes them.
    """

    compared: int
    changed: tuple[str, ...]


@dataclass(frozen=True)
class WeightsResult:
    """How many tensors were compared with their source, and which differ."""

    compared: int
    different: tuple[str, ...]
    temporal: TemporalResult | None = None


@dataclass(frozen=True)
class FloorResult:
    """What rounding alone does to the image decoder's output, measured in the same run.

    ``batch_layout`` is how far it is from itself when frames are decoded in another batch layout,
    ``float64`` how far from itself computed in float64. ``multiple`` is the check's largest error
    over the larger of the two; None where that is 0 or not finite.
    """

    batch_layout: float | None
    float64: float | None
    multiple: float | None


@dataclass(frozen=True)
class Suspect:
    """A temporal module, and the largest error that is left with it alone made an identity."""

    name: str
    guilty: bool
    max_abs_error: float | None


@dataclass(frozen=True)
class BisectResult:
    """The temporal modules, each set to identity in turn."""

    suspects: tuple[Suspect, ...]

    @property
    def guilty(self) -> tuple[str, ...]:
        """The modules without which the error is smaller."""
        return tuple(suspect.name for suspect in self.suspects if suspect.guilty)


@dataclass(frozen=True)
class TensorLearning:
    """When a temporal tensor learns, why, and what to change where it never does."""

    name: str
    learns: Learns
    reason: str
    change: str | None = None


@dataclass(frozen=True)
class TrainabilityResult:
    """When each temporal tensor learns."""

    tensors: tuple[TensorLearning, ...]


@dataclass(frozen=True)
class Damage:
    """A way in which the candidate was spoilt in memory, and what caught it; None: nothing did."""

    name: str
    what: str
    caught_by: str | None


@dataclass(frozen=True)
class SelfTestResult:
    """The damages that the check was tried on."""

    damages: tuple[Damage, ...]

    @property
    def passed(self) -> bool:
        """Whether every damage was caught."""
        return all(damage.caught_by is not None for damage in self.damages)


@dataclass(frozen=True)
class OverflowResult:
    """The image decoder itself is not finite: the type, its first such layer, the type to use."""

    dtype: str
    layer: str
    use: str


@dataclass(frozen=True)
class PlanRow:
    """A tensor of the candidate: where it came from, and what it is."""

    name: str
    origin: Literal["copied", "initialised", "passed-through"]
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    rule: str | None = None


@dataclass(frozen=True)
class CastResult:
    """What rounding the source to the stored type changes in the image decoder's output."""

    source_dtype: str
    stored_dtype: str
    max_abs_error: float | None


@dataclass(frozen=True)
class FoldResult:
    """What folding ``post_quant_conv`` into ``conv_in`` changes: largest absolute errors.

    ``border`` and ``inside`` are those of the output of ``conv_in``, on the frame's border of one
    latent pixel and inside it; ``output`` is that of the decoded images.
    """

    border: float | None
    inside: float | None
    output: float | None


def compared_with(fold: FoldResult | None) -> ComparedWith:
    """What a verdict is of, where this was measured of a fold of the reference."""
    return "reference" if fold is None else "folded-reference"


@dataclass(frozen=True)
class RecordedSource:
    """The source that the candidate's header names; ``given`` if the reference is that file."""

    name: str
    sha256: str
    given: bool


@dataclass(frozen=True)
class Environment:
    """Where and how the outputs were computed.

    ``cudnn`` is the library's version where it computed, else None; ``fallback`` is true where the
    CPU computed because no GPU was found.
    """

    device: str
    dtype: str
    torch: str
    tf32: bool
    cudnn: str | None = None
    fallback: bool = False


@dataclass(frozen=True)
class Picture:
    """A frame of a probe as both decoders made it; images ``C H W`` in -1..1."""

    probe: str
    frame: int
    source: Tensor | None
    """The image that was encoded, where the latents came from one."""
    reference: Tensor
    candidate: Tensor


@dataclass(frozen=True)
class ParityReport:
    """A verdict, and every number behind it.

    ``reference`` and ``candidate`` are the names and SHA-256 of the files; ``notes`` say in words
    what a reader of the numbers needs to know. What was not asked for is None or empty.
    """

    verdict: Verdict
    max_abs_error: float | None
    reference: tuple[str, str]
    candidate: tuple[str, str]
    environment: Environment
    tolerance: Tolerance
    weights: WeightsResult
    probes: tuple[ProbeResult, ...]
    cast: CastResult | None
    notes: tuple[str, ...]
    fold: FoldResult | None = None
    recorded_source: RecordedSource | None = None
    layers: tuple[LayerResult, ...] = ()
    first_divergence: str | None = None
    """The first layer whose outputs are out of tolerance."""
    floor: FloorResult | None = None
    bisect: BisectResult | None = None
    trainability: TrainabilityResult | None = None
    self_test: SelfTestResult | None = None
    overflow: OverflowResult | None = None
    plan: tuple[PlanRow, ...] = ()
    not_finite: tuple[str, ...] = ()
    """The candidate's tensors that hold NaN or infinity, where its outputs are not finite."""
    pictures: tuple[Picture, ...] = field(default=(), repr=False, compare=False)
    """For pages only; documents leave them out."""

    def of_candidate(self, path: str, sha256: str) -> ParityReport:
        """The same report of the candidate under the name and hash it was published with."""
        return replace(self, candidate=(path, sha256))

    @property
    def compared_with(self) -> ComparedWith:
        """What the verdict is of: the reference as it is, or with its ``post_quant_conv`` folded.

        A folded reference gives other images than the reference does; ``fold`` says by how much.
        """
        return compared_with(self.fold)

    @property
    def passed(self) -> bool:
        """Whether the candidate may be used as the reference's equal."""
        return self.verdict != "fail"
