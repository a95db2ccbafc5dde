"""Run a parity check: both decoders on every probe, the verdict, and what explains it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inflate.parity.bisect import bisect
from inflate.parity.device import environment, exact_float32
from inflate.parity.floor import find_overflow, measure_floor
from inflate.parity.lockstep import Lockstep
from inflate.parity.memory import MemoryBudget, available_bytes, memory_errors
from inflate.parity.metrics import Tolerance, is_finite, max_abs_error, worst_error, worst_verdict
from inflate.parity.pair import DecoderPair
from inflate.parity.probes import GivenProbe, Probe, clip_for, probes_for
from inflate.parity.quality import RealFrames, measure_quality
from inflate.parity.result import (
    CastResult,
    FoldResult,
    OverflowResult,
    ParityReport,
    Picture,
    RecordedSource,
    SelfTestResult,
)
from inflate.parity.running import ProbeRun, pictures_of, run_frames, run_probe
from inflate.parity.selftest import self_test
from inflate.progress import Progress, silent

Keep = Callable[[Probe, Tensor, Tensor, Tensor], None]
"""Receives a probe, its latents, and the images of reference and candidate."""


@dataclass(frozen=True)
class Scope:
    """What a check does in addition to running every probe.

    ``frames`` probes a permutation of the frames, and ``skip_video``. ``layers`` compares layer by
    layer; a check that fails always does. ``quality`` compares real frames with what the decoders
    made of them.
    """

    layers: bool = False
    frames: bool = False
    floor: bool = False
    bisect: bool = False
    self_test: bool = False
    quality: bool = False
    pictures: bool = False


def run_check(
    pair: DecoderPair,
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
        pair: the two ways to decode.
        reference: path and SHA-256 of the reference's file, for the report.
        candidate: the same of the candidate's.
        dtype: the type to compute in.
        device: where to compute.
        tolerance: what ``within-tolerance`` means.
        seed: of the probes' latents.
        probes: by default those of ``convert`` on the device.
        fold: what a fold of the reference changed, for the report.
        recorded_source: the source that the candidate's header names, for the report.
        changed: whether the candidate's tensors changed since its header was written.
        scope: what else to do.
        fallback: whether the CPU computes because no GPU was found, for the report.
        keep: called for every probe.
        progress: called for every probe.

    Raises:
        DeviceError: the device runs out of memory.
    """
    probes = probes_for(device) if probes is None else probes
    if scope.pictures:
        probes = (*probes, clip_for(device))
    lockstep = None if pair.modules is None else Lockstep(pair.modules, tolerance)
    budget = MemoryBudget(pair.architecture, dtype, available_bytes(device))
    pair = budget.limited(pair)

    def run(probe: Probe) -> tuple[Probe, ProbeRun]:
        z = probe.latents(pair.channels, seed).to(device, dtype)
        watch = lockstep if scope.layers else None
        return probe, run_probe(pair, probe.name, z, probe.frames, tolerance, watch)

    runs: list[ProbeRun] = []
    pictures: list[Picture] = []
    real: list[RealFrames] = []
    with exact_float32(), torch.inference_mode(), memory_errors(device, "parity was checked"):
        where = environment(device, dtype, fallback=fallback)
        for done, probe in enumerate(probes):
            progress("checking parity", done, len(probes))
            small, one = budget.run(probe, run, device)
            runs.append(one)
            if scope.pictures and (isinstance(small, GivenProbe) or done == len(probes) - 1):
                pictures += pictures_of(one, small.sources)
            if scope.quality and small.sources is not None:
                real.append(RealFrames(small.name, small.sources, one.expected, one.found))
            if keep is not None:
                keep(small, one.z, one.expected, one.found)
        progress("checking parity", len(probes), len(probes))
        cast = _cast(pair, runs)
        more = run_frames(pair, runs, tolerance) if scope.frames and runs else ()
        results = tuple(one.result for one in (*runs, *more))
        verdict = worst_verdict([result.verdict for result in results])
        error = worst_error([result.max_abs_error for result in results])
        if verdict == "fail" and not scope.layers and lockstep is not None:
            for one in runs:
                if one.result.verdict == "fail":
                    run_probe(pair, one.result.name, one.z, one.frames, tolerance, lockstep)
        overflow = _overflow(pair, runs, lockstep)
        guilty = None
        if scope.bisect and runs:
            guilty = bisect(pair, max(runs, key=_error_and_frames), tolerance, progress)
        quality, left_out = measure_quality(real)
        tested, notes = _self_tested(pair, runs, tolerance, scope, failed=verdict == "fail")
        report = ParityReport(
            verdict="fail" if pair.weights.different else verdict,
            max_abs_error=error,
            reference=reference,
            candidate=candidate,
            environment=where,
            tolerance=tolerance,
            weights=pair.weights,
            probes=results,
            cast=cast,
            fold=fold,
            recorded_source=recorded_source,
            changed=changed,
            notes=(),
            layers=() if lockstep is None else lockstep.layers,
            first_divergence=_first_divergence(lockstep, overflow),
            floor=measure_floor(pair, runs, error) if scope.floor and runs else None,
            bisect=guilty,
            self_test=tested,
            overflow=overflow,
            quality=quality,
            pictures=tuple(pictures),
        )
    return replace(report, notes=(*pair.notes, *budget.notes, *_notes(report), *left_out, *notes))


def _cast(pair: DecoderPair, runs: Sequence[ProbeRun]) -> CastResult | None:
    if pair.cast_types is None:
        return None
    original = pair.original
    errors = []
    if original is not None:
        errors = [max_abs_error(original(run.z, run.frames), run.expected) for run in runs]
    return CastResult(*pair.cast_types, worst_error(errors))


def _overflow(
    pair: DecoderPair, runs: Sequence[ProbeRun], lockstep: Lockstep | None
) -> OverflowResult | None:
    layer = None if lockstep is None else lockstep.not_finite
    if layer is None:
        return None
    run = next(run for run in runs if not is_finite(run.expected))
    return find_overflow(pair, run.z, run.frames, layer)


def _first_divergence(lockstep: Lockstep | None, overflow: OverflowResult | None) -> str | None:
    """The first layer that diverges, unless it overflows on both sides."""
    found = None if lockstep is None else lockstep.culprit()
    return None if overflow is not None and found == overflow.layer else found


def _error_and_frames(run: ProbeRun) -> tuple[float, int]:
    """Sorts the probe that shows most last: not finite, else the largest error."""
    error = run.result.max_abs_error
    return (float("inf") if error is None else error), run.frames


def _self_tested(
    pair: DecoderPair,
    runs: Sequence[ProbeRun],
    tolerance: Tolerance,
    scope: Scope,
    *,
    failed: bool,
) -> tuple[SelfTestResult | None, tuple[str, ...]]:
    if not scope.self_test:
        return None, ()
    if failed:
        return None, ("the self-test was left out: it needs a candidate that passes",)
    return self_test(pair, runs, tolerance)


def _notes(report: ParityReport) -> list[str]:
    """What a reader of the numbers needs to know."""
    notes = []
    source = report.recorded_source
    if source is not None and not source.given:
        notes.append(
            f"the candidate was made from another checkpoint: {source.name} "
            f"(fingerprint {source.fingerprint})"
        )
    if report.changed and report.passed:  # Of a failure, the tensors are named.
        notes.append(
            "the candidate's tensors changed after it was written; the verdict in its header does "
            "not apply to them"
        )
    overflow, culprit = report.overflow, report.first_divergence
    if overflow is not None:
        notes.append(
            f"the image decoder itself overflows in {overflow.dtype}, first in {overflow.layer}; "
            f"later layers cannot be compared. Compute in {overflow.use}"
        )
    before = []  # The layers before the first one out of tolerance, or before its block.
    for layer in report.layers:
        if culprit is None or f"{layer.name}.".startswith(f"{culprit}."):
            break
        before.append(layer)
    differs = next((layer.name for layer in before if layer.verdict != "bitwise"), None)
    if differs is not None:
        notes.append(f"the layers differ from {differs} on, within tolerance until {culprit}")
    floor = report.floor
    if floor is not None and floor.float64 is None and report.environment.device == "mps":
        notes.append("the noise floor has no float64 part, since MPS has no float64")
    if report.bisect is not None and not report.passed and not report.bisect.guilty:
        notes.append("no temporal module is faulty: each is an identity on the reference's input")
    return notes
