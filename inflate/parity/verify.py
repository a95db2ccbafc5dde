"""The parity check: every copied tensor against its source, then both decoders on the probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inflate.parity.bisect import bisect
from inflate.parity.comparands import Comparands
from inflate.parity.device import environment, exact_float32
from inflate.parity.floor import find_overflow, measure_floor
from inflate.parity.given import GivenProbe
from inflate.parity.lockstep import Lockstep
from inflate.parity.memory import (
    Pieces,
    available_bytes,
    fitting,
    saying_memory,
    sparing,
    within_memory,
)
from inflate.parity.metrics import (
    Tolerance,
    is_finite,
    max_abs_error,
    worst_error,
    worst_verdict,
)
from inflate.parity.probes import Probe, clip_for, probes_for
from inflate.parity.result import (
    BisectResult,
    CastResult,
    FloorResult,
    FoldResult,
    OverflowResult,
    ParityReport,
    Picture,
    RecordedSource,
    SelfTestResult,
)
from inflate.parity.running import Ran, pictures_of, run_frames, run_probe
from inflate.parity.selftest import self_test
from inflate.progress import Progress, silent

Keep = Callable[[Probe, Tensor, Tensor, Tensor], None]
"""What is told of a probe: its latents, and the images of reference and candidate."""


@dataclass(frozen=True)
class Scope:
    """What a check does beside running every probe.

    ``frames`` probes a permutation of the frames, and ``skip_video``; ``layers`` compares layer by
    layer, which a check that fails does whatever this says.
    """

    layers: bool = False
    frames: bool = False
    floor: bool = False
    bisect: bool = False
    self_test: bool = False
    pictures: bool = False


def run_check(
    comparands: Comparands,
    *,
    reference: tuple[str, str],
    candidate: tuple[str, str],
    dtype: torch.dtype,
    device: torch.device,
    tolerance: Tolerance,
    seed: int = 0,
    probes: Sequence[Probe] | None = None,
    fold: FoldResult | None = None,
    recorded_source: RecordedSource | None = None,
    changed: bool | None = None,
    scope: Scope = Scope(),
    fallback: bool = False,
    keep: Keep | None = None,
    progress: Progress = silent,
) -> ParityReport:
    """Run both decoders on every probe and judge.

    Args:
        comparands: what to run.
        reference: name and SHA-256 of the reference's file, for the report.
        candidate: the same of the candidate's.
        dtype: the type to compute in.
        device: where to compute.
        tolerance: what ``within-tolerance`` means.
        seed: of the probes' latents.
        probes: which; those of the device by default.
        fold: what a fold changed before, for the report.
        recorded_source: the source that the candidate's header names, for the report.
        changed: whether the candidate's tensors changed since its header was written.
        scope: what else to find out.
        fallback: whether the CPU computes for want of a GPU, for the report.
        keep: given every probe, its latents, and what both decoders made of them.
        progress: told of every probe.

    Raises:
        DeviceError: the device runs out of memory.
    """
    probes = probes_for(device) if probes is None else probes
    if scope.pictures:
        probes = (*probes, clip_for(device))
    lockstep = None
    if comparands.modules is not None:
        lockstep = Lockstep(comparands.modules, tolerance)
    pieces, available = Pieces(), available_bytes(device)
    comparands = sparing(comparands, pieces, dtype, available)
    probes, shrunk = fitting(probes, comparands.architecture, dtype, available)

    def run(probe: Probe) -> tuple[Probe, Ran]:
        z = probe.latents(comparands.channels, seed).to(device, dtype)
        watch = lockstep if scope.layers else None
        return probe, run_probe(comparands, probe.name, z, probe.frames, tolerance, watch)

    ran: list[Ran] = []
    pictures: list[Picture] = []
    with exact_float32(), torch.inference_mode(), saying_memory(device, "parity was checked"):
        where = environment(device, dtype, fallback=fallback)
        for done, probe in enumerate(probes):
            progress("checking parity", done, len(probes))
            small, one = within_memory(probe, run, pieces, device)
            ran.append(one)
            if scope.pictures and (isinstance(small, GivenProbe) or done == len(probes) - 1):
                pictures += pictures_of(one, small.sources)
            if keep is not None:
                keep(small, one.z, one.expected, one.found)
        progress("checking parity", len(probes), len(probes))
        cast = _cast(comparands, ran)
        judged = [*ran, *(run_frames(comparands, ran, tolerance) if scope.frames and ran else ())]
        results = tuple(one.result for one in judged)
        verdict = worst_verdict([result.verdict for result in results])
        error = worst_error([result.max_abs_error for result in results])
        if verdict == "fail" and not scope.layers and lockstep is not None:
            for one in ran:
                if one.result.verdict == "fail":
                    run_probe(comparands, one.result.name, one.z, one.frames, tolerance, lockstep)
        overflow = _overflow(comparands, ran, lockstep)
        floor = _floor(comparands, ran, error) if scope.floor and ran else None
        guilt = _bisected(comparands, ran, tolerance, progress) if scope.bisect and ran else None
        tested, told = _self_tested(comparands, ran, tolerance, scope, failed=verdict == "fail")
    if comparands.weights.different:
        verdict = "fail"
    report = ParityReport(
        verdict=verdict,
        max_abs_error=error,
        reference=reference,
        candidate=candidate,
        environment=where,
        tolerance=tolerance,
        weights=comparands.weights,
        probes=results,
        cast=cast,
        fold=fold,
        recorded_source=recorded_source,
        changed=changed,
        notes=comparands.notes,
        layers=() if lockstep is None else lockstep.layers,
        first_divergence=_culprit(lockstep, overflow),
        floor=floor,
        bisect=guilt,
        self_test=tested,
        overflow=overflow,
        pictures=tuple(pictures),
    )
    return replace(report, notes=(*report.notes, *shrunk, *pieces.told, *_words(report), *told))


def _cast(comparands: Comparands, ran: Sequence[Ran]) -> CastResult | None:
    if comparands.cast_types is None:
        return None
    errors = [
        max_abs_error(comparands.original(one.z, one.frames), one.expected)
        for one in ran
        if comparands.original is not None
    ]
    return CastResult(*comparands.cast_types, worst_error(errors))


def _overflow(
    comparands: Comparands, ran: Sequence[Ran], lockstep: Lockstep | None
) -> OverflowResult | None:
    layer = None if lockstep is None else lockstep.not_finite
    if layer is None:
        return None
    worst = next(one for one in ran if not is_finite(one.expected))
    return find_overflow(comparands, worst.z, worst.frames, layer)


def _culprit(lockstep: Lockstep | None, overflow: OverflowResult | None) -> str | None:
    """The first layer that diverges; one that overflows on both sides does not."""
    found = None if lockstep is None else lockstep.culprit()
    return None if overflow is not None and found == overflow.layer else found


def _floor(comparands: Comparands, ran: Sequence[Ran], error: float | None) -> FloorResult:
    several = [one for one in ran if len(one.z) > 1] or ran
    batch = min(several, key=lambda one: one.z.numel())
    smallest = min(ran, key=lambda one: one.z.numel())
    return measure_floor(comparands, batch.z, smallest.z, error)


def _bisected(
    comparands: Comparands, ran: Sequence[Ran], tolerance: Tolerance, progress: Progress
) -> BisectResult | None:
    """The bisection of the probe that shows most: not finite, else the largest error."""

    def shows(one: Ran) -> tuple[float, int]:
        error = one.result.max_abs_error
        return (float("inf") if error is None else error), one.frames

    worst = max(ran, key=shows)
    return bisect(
        comparands,
        worst.z,
        worst.frames,
        worst.expected,
        failed=worst.result.verdict == "fail",
        tolerance=tolerance,
        progress=progress,
    )


def _self_tested(
    comparands: Comparands,
    ran: Sequence[Ran],
    tolerance: Tolerance,
    scope: Scope,
    *,
    failed: bool,
) -> tuple[SelfTestResult | None, tuple[str, ...]]:
    if not scope.self_test:
        return None, ()
    if failed:
        return None, ("the self-test needs a candidate that passes, and was left out",)
    shown = [(one.result.name, one.z, one.frames, one.expected) for one in ran]
    return self_test(comparands, shown, tolerance)


def _words(report: ParityReport) -> tuple[str, ...]:
    """What a reader of the numbers needs to know."""
    words = []
    overflow, culprit, environment = report.overflow, report.first_divergence, report.environment
    if environment.fallback:
        words.append("no GPU was found: the CPU computed (--device cpu says that it should)")
    source = report.recorded_source
    if source is not None and not source.given:
        words.append(
            f"the candidate was made from another checkpoint: {source.name} "
            f"(fingerprint {source.fingerprint})"
        )
    if report.changed:
        words.append(
            "the candidate's tensors changed after it was written; the verdict in its header does "
            "not apply to them"
        )
    if overflow is not None:
        words.append(
            f"the image decoder itself overflows in {overflow.dtype}, first at {overflow.layer}: "
            f"no number can be compared from there on; compute in {overflow.use}"
        )
    differs = next((layer.name for layer in report.layers if layer.verdict != "bitwise"), None)
    names = [layer.name for layer in report.layers]
    if (
        culprit is not None
        and differs is not None
        and names.index(differs) < _start(culprit, names)
    ):
        words.append(f"the layers differ from {differs} on, within tolerance until {culprit}")
    if report.floor is not None and report.floor.float64 is None and environment.device == "mps":
        words.append("the noise floor is not measured against float64, which MPS does not have")
    if report.bisect is not None and not report.passed and not report.bisect.guilty:
        words.append("no temporal module is to blame: each is an identity on the reference's input")
    return tuple(words)


def _start(name: str, names: Sequence[str]) -> int:
    """Where the first layer stands that belongs to a block, or is the layer itself."""
    return next(i for i, other in enumerate(names) if f"{other}.".startswith(f"{name}."))
