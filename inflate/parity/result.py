"""What a parity check found: a verdict, and every number behind it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from inflate.parity.metrics import Tolerance
from inflate.vocabulary import Verdict


@dataclass(frozen=True)
class ProbeResult:
    """A probe, the shape of its latents, and how far the decoders are apart on it."""

    name: str
    shape: tuple[int, ...]
    frames: int
    verdict: Verdict
    max_abs_error: float | None


@dataclass(frozen=True)
class WeightsResult:
    """How many tensors were compared with their source, and which differ."""

    compared: int
    different: tuple[str, ...]


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


@dataclass(frozen=True)
class Environment:
    """Where and how the outputs were computed."""

    device: str
    dtype: str
    torch: str
    tf32: bool


@dataclass(frozen=True)
class ParityReport:
    """A verdict, and every number behind it.

    ``reference`` and ``candidate`` are the names and SHA-256 of the files; ``notes`` say in words
    what a reader of the numbers needs to know.
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

    def of_candidate(self, path: str, sha256: str) -> ParityReport:
        """The same report of the candidate under the name and hash it was published with."""
        return replace(self, candidate=(path, sha256))

    @property
    def passed(self) -> bool:
        """Whether the candidate may be used as the reference's equal."""
        return self.verdict != "fail"
