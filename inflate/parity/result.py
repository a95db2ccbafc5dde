"""The result of a parity check: a verdict, and every number behind it.

Field names are those of the published JSON document (``inflate.report.documents``). An error of
None is not finite; an SQNR of None means equal outputs if ``finite`` is true.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from inflate.display import Displayed, counted, error_text
from inflate.vocabulary import ComparedWith, Verdict

if TYPE_CHECKING:
    from torch import Tensor


Learns = Literal["now", "next-step", "never"]
"""When an optimiser step first changes a tensor."""


@dataclass(frozen=True)
class Tolerance:
    """Two values agree if their difference is at most ``atol + rtol * abs(reference)``."""

    atol: float
    rtol: float


@dataclass(frozen=True)
class Errors:
    """The errors between two tensors: absolute errors, and the signal-to-error ratio in dB.

    ``needed`` is the smallest value that passes as both ``atol`` and ``rtol``.
    """

    max_abs: float | None
    mean_abs: float | None
    p99_abs: float | None
    sqnr_db: float | None
    needed: float | None
    finite: bool


@dataclass(frozen=True)
class Worst:
    """The place of a probe's largest error; indices start at 0."""

    video: int
    frame: int
    channel: int
    row: int
    column: int


@dataclass(frozen=True)
class PartResult:
    """The verdict on a part of a probe's output: ``first frame``, ``border``, ..."""

    name: str
    verdict: Verdict
    max_abs_error: float | None


@dataclass(frozen=True)
class ProbeResult:
    """A probe, the shape of its latents, and the decoders' errors on it."""

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
    """The comparison of a spatial layer of both decoders, and the class of its module."""

    name: str
    kind: str
    verdict: Verdict
    errors: Errors


@dataclass(frozen=True)
class TemporalResult:
    """How many temporal tensors were compared with their initial values, and which changed."""

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
    """How much rounding alone changes the image decoder's output.

    Measured by decoding frames one by one and together, and in float64. ``multiple`` is the check's
    largest error divided by the larger of the two; None if that is 0 or not finite.
    """

    batch_layout: float | None
    float64: float | None
    multiple: float | None


@dataclass(frozen=True)
class Suspect:
    """A temporal module of a bisection, and the largest error with that module disabled."""

    name: str
    guilty: bool
    max_abs_error: float | None


@dataclass(frozen=True)
class TensorLearning:
    """When a temporal tensor learns, why, and what to change if it never does."""

    name: str
    learns: Learns
    reason: str
    change: str | None = None


@dataclass(frozen=True)
class Movement:
    """How far training moved the tensors of a temporal part from their initial values.

    ``distance`` is the norm of the difference, ``relative`` is ``distance`` divided by the norm of
    the initial values; None if not finite, or if the initial values are zero.
    """

    part: str
    tensors: int
    moved: int
    distance: float | None
    relative: float | None


@dataclass(frozen=True)
class TrainedResult:
    """Changes by training of a video decoder, after a check of its spatial layers.

    The differences are those of its outputs from the image decoder's: the largest, and the root
    mean square relative to the image decoder's. ``problems`` make the check fail. ``movements``
    is empty if the file does not record its initial values.
    """

    problems: tuple[str, ...]
    max_abs_difference: float | None
    relative_difference: float | None
    movements: tuple[Movement, ...]


@dataclass(frozen=True)
class FrameNumbers:
    """A measure of a decoder per frame, and its mean; a PSNR of None is infinite.

    Flicker is None for the first frame, which has no previous frame.
    """

    mean: float | None
    frames: tuple[float | None, ...]


@dataclass(frozen=True)
class QualityMeasure:
    """A measure of both decoders against the real frames.

    ``name`` is ``psnr`` (dB), ``ssim``, ``lpips``, ``flicker`` or ``warped_flicker`` (both in grey
    levels of 0..255).
    """

    name: str
    reference: FrameNumbers
    candidate: FrameNumbers


@dataclass(frozen=True)
class ProbeQuality:
    """What was measured on a probe of real frames."""

    probe: str
    measures: tuple[QualityMeasure, ...]


@dataclass(frozen=True)
class Damage:
    """A fault that was injected into the candidate in memory, and the probe that detected it."""

    name: str
    what: str
    caught_by: str | None


@dataclass(frozen=True)
class OverflowResult:
    """The image decoder overflows in a type: the first such layer, and the type to use instead."""

    dtype: str
    layer: str
    use: str


@dataclass(frozen=True)
class PlanRow:
    """A tensor of the candidate, and its origin."""

    name: str
    origin: Literal["copied", "initialised", "passed-through"]
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    rule: str | None = None


@dataclass(frozen=True)
class CastResult:
    """How much rounding to the stored type changes the image decoder's output."""

    source_dtype: str
    stored_dtype: str
    max_abs_error: float | None


@dataclass(frozen=True)
class FoldResult:
    """The largest absolute errors due to folding ``post_quant_conv`` into ``conv_in``.

    ``border`` and ``inside`` are errors of the output of ``conv_in``, on the border of one latent
    pixel and inside it; ``output`` is the error of the decoded images.
    """

    border: float | None
    inside: float | None
    output: float | None


@dataclass(frozen=True)
class RecordedSource:
    """The source that the candidate's header names; ``given`` if it is the reference."""

    name: str
    fingerprint: str
    given: bool


@dataclass(frozen=True)
class Environment:
    """Where and how outputs were computed; ``fallback``: on the CPU, since no GPU was found."""

    device: str
    dtype: str
    torch: str
    tf32: bool
    cudnn: str | None = None
    fallback: bool = False


@dataclass(frozen=True)
class Picture:
    """A frame of a probe from both decoders, and the encoded source image, if any.

    Images are ``C H W`` in -1..1.
    """

    probe: str
    frame: int
    source: Tensor | None
    reference: Tensor
    candidate: Tensor


@dataclass(frozen=True, repr=False)
class ParityReport(Displayed):
    """A verdict, and every number behind it.

    ``reference`` and ``candidate`` are the paths and fingerprints of the files. ``changed`` says
    whether the candidate's tensors changed since its header was written; None if unknown.
    ``first_divergence`` is the first layer out of tolerance. If outputs are not finite,
    ``not_finite`` lists the candidate's tensors with NaN or infinity. ``self_test`` lists the
    injected faults. ``pictures`` are for pages only; documents leave them out. Fields that were
    not requested are None or empty.
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
    changed: bool | None = None
    layers: tuple[LayerResult, ...] = ()
    first_divergence: str | None = None
    floor: FloorResult | None = None
    bisect: tuple[Suspect, ...] | None = None
    trainability: tuple[TensorLearning, ...] | None = None
    trained: TrainedResult | None = None
    self_test: tuple[Damage, ...] | None = None
    overflow: OverflowResult | None = None
    quality: tuple[ProbeQuality, ...] | None = None
    plan: tuple[PlanRow, ...] = ()
    not_finite: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = field(default=(), repr=False, compare=False)

    def _facts(self) -> dict[str, object]:
        checked = [counted(len(self.probes), "probe")]
        checked += [counted(len(self.layers), "layer")] if self.layers else []
        return {
            "verdict": self.verdict,
            "error": f"largest error {error_text(self.max_abs_error)}",
            "checked": ", ".join(checked),
            "compared with": self.compared_with,
            "first layer out of tolerance": self.first_divergence or "none",
            "tensors that differ": f"{len(self.weights.different)} of {self.weights.compared}",
            "tolerance": f"atol {self.tolerance.atol:g}, rtol {self.tolerance.rtol:g}",
            "device": self.environment.device,
            "reference": self.reference[0],
            "candidate": self.candidate[0],
        }

    @property
    def compared_with(self) -> ComparedWith:
        """The reference unchanged, or with its ``post_quant_conv`` folded."""
        return "reference" if self.fold is None else "folded-reference"

    @property
    def passed(self) -> bool:
        """Whether the candidate equals the reference within tolerance."""
        return self.verdict != "fail"
