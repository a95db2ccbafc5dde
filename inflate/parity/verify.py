"""Run a parity check: both decoders on every probe, the verdict, and its explanation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from inflate.parity.device import (
    available_bytes,
    environment,
    exact_float32,
    is_out_of_memory,
    memory_errors,
)
from inflate.parity.faults import bisect, self_test
from inflate.parity.floor import find_overflow, measure_floor
from inflate.parity.lockstep import Lockstep
from inflate.parity.metrics import ProbeRun, judge, max_abs_error, worst_error, worst_verdict
from inflate.parity.pair import DecoderPair
from inflate.parity.probes import Probe, clip_for, probes_for
from inflate.parity.quality import measure_quality
from inflate.parity.result import (
    CastResult,
    FoldResult,
    ParityReport,
    Picture,
    RecordedSource,
    Tolerance,
)
from inflate.progress import Progress, silent

_PICTURES = 8
"""Frames of a probe that are kept for the report."""


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
    thorough: bool = False,
    find_faulty: bool = False,
    test_itself: bool = False,
    pictures: bool = False,
    fallback: bool = False,
    keep: Callable[[ProbeRun], None] | None = None,
    progress: Progress = silent,
) -> ParityReport:
    """Run both decoders on every probe and judge.

    ``reference`` and ``candidate`` are paths and fingerprints; ``probes`` are by default those of
    ``convert``. A ``thorough`` check also compares layer by layer (one that fails always does),
    permutes frames, runs ``skip_video``, measures the noise floor, and compares both decoders with
    real frames. ``find_faulty`` disables the temporal modules one at a time; ``test_itself``
    injects faults; ``pictures`` keeps frames of a clip and of given probes. ``keep`` is called for
    each probe. The other arguments go into the report, see :class:`ParityReport`.

    Raises:
        DeviceError: the device runs out of memory.
    """
    probes = probes_for(device) if probes is None else probes
    if pictures:
        probes = (*probes, clip_for(device))
    lockstep = None if pair.modules is None else Lockstep(pair, tolerance)
    available = available_bytes(device)

    def fits(probe: Probe) -> bool:
        shape = pair.architecture
        return shape is None or probe.estimated_bytes(shape, dtype) <= available

    def run(probe: Probe) -> ProbeRun:
        z = probe.latents(pair.channels, seed).to(device, dtype)
        if thorough and lockstep is not None:
            images = lockstep.decode(z, probe.frames)
        else:
            images = pair.reference(z, probe.frames), pair.candidate(z, probe.frames)
        return judge(probe, z, images, tolerance)

    notes, runs = [*pair.notes], []
    frames: list[Picture] = []
    with exact_float32(), torch.inference_mode(), memory_errors(device, "parity was checked"):
        where = environment(device, dtype, fallback=fallback)
        for done, probe in enumerate(probes):
            progress("checking parity", done, len(probes))
            one = _run_smaller(probe, run, fits)
            runs.append(one)
            if one.probe is not probe:
                notes.append(f"memory is short: {one.probe} was decoded instead of {probe}")
            if pictures and (probe.z is not None or done == len(probes) - 1):
                frames += _pictures_of(one)
            if keep is not None:
                keep(one)
        progress("checking parity", len(probes), len(probes))
        more = _frame_runs(pair, runs, tolerance) if thorough else ()
        results = tuple(one.result for one in (*runs, *more))
        verdict = worst_verdict([result.verdict for result in results])
        error = worst_error([result.max_abs_error for result in results])
        if verdict == "fail" and not thorough and lockstep is not None:
            for one in runs:
                if one.result.verdict == "fail":
                    lockstep.decode(one.z, one.probe.frames)
        overflow = culprit = tested = None
        if lockstep is not None:
            overflow, culprit = find_overflow(pair, runs, lockstep.not_finite), lockstep.culprit()
        if overflow is not None and overflow.layer == culprit:
            culprit = None  # Both sides overflow.
        guilty = None
        if find_faulty:
            guilty = bisect(pair, max(runs, key=_error_and_frames), tolerance, progress)
        quality, left_out = measure_quality(runs if thorough else ())
        if test_itself and verdict == "fail":
            left_out += ("the self-test was left out: it needs a candidate that passes",)
        elif test_itself:
            tested, missing = self_test(pair, runs, tolerance)
            left_out += missing
        report = ParityReport(
            verdict="fail" if pair.weights.different else verdict,
            max_abs_error=error,
            reference=reference,
            candidate=candidate,
            environment=where,
            tolerance=tolerance,
            weights=pair.weights,
            probes=results,
            cast=_cast(pair, runs),
            fold=fold,
            recorded_source=recorded_source,
            changed=changed,
            notes=(),
            layers=() if lockstep is None else lockstep.layers,
            first_divergence=culprit,
            floor=measure_floor(pair, runs, error) if thorough else None,
            bisect=guilty,
            self_test=tested,
            overflow=overflow,
            quality=quality,
            pictures=tuple(frames),
        )
    return replace(report, notes=(*notes, *_notes(report), *left_out))


def _run_smaller(
    probe: Probe, run: Callable[[Probe], ProbeRun], fits: Callable[[Probe], bool]
) -> ProbeRun:
    """Run a probe, reduced until it fits into memory.

    Raises:
        torch.OutOfMemoryError: even the smallest does not fit.
    """
    smaller = probe.smaller()
    if smaller is None or fits(probe):
        try:
            return run(probe)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or smaller is None:
                raise
    # Outside of the except block, since its traceback keeps the failed run's tensors alive.
    torch.cuda.empty_cache()
    return _run_smaller(smaller, run, fits)


def _frame_runs(
    pair: DecoderPair, runs: Sequence[ProbeRun], tolerance: Tolerance
) -> Iterator[ProbeRun]:
    """Probe a permutation of the frames, and ``skip_video``, on the longest probe.

    Before training, each frame is decoded independently: permuted frames give permuted images.
    """
    longest = max(runs, key=lambda run: run.probe.frames)
    frames = longest.probe.frames
    # Every frame moves, within its video.
    order = torch.arange(len(longest.z)).reshape(-1, frames).roll(1, dims=1).flatten()
    z = longest.z[order]
    images = (longest.expected[order], pair.candidate(z, frames))
    yield judge(replace(longest.probe, name="frame-permutation"), z, images, tolerance)
    if pair.skip_video is not None:
        images = (longest.expected, pair.skip_video(longest.z, frames))
        yield judge(replace(longest.probe, name="skip-video"), longest.z, images, tolerance)


def _pictures_of(run: ProbeRun) -> Iterator[Picture]:
    """Frames spread over the first video of a probe, and the encoded images."""
    frames, sources = run.probe.frames, run.probe.sources
    for t in torch.linspace(0, frames - 1, min(frames, _PICTURES)).round().int().tolist():
        source = None if sources is None else sources[t]
        images = (run.expected[t].float().cpu(), run.found[t].float().cpu())
        yield Picture(run.probe.name, t, source, *images)


def _cast(pair: DecoderPair, runs: Sequence[ProbeRun]) -> CastResult | None:
    if pair.cast_types is None:
        return None
    original = pair.original
    errors = [max_abs_error(original(r.z, r.probe.frames), r.expected) for r in runs if original]
    return CastResult(*pair.cast_types, worst_error(errors))


def _error_and_frames(run: ProbeRun) -> tuple[float, int]:
    """Sort key for the worst probe last: not finite, else the largest error."""
    error = run.result.max_abs_error
    return (float("inf") if error is None else error), run.probe.frames


def _notes(report: ParityReport) -> Iterator[str]:
    """Notes that a reader of the numbers needs."""
    source = report.recorded_source
    if source is not None and not source.given:
        yield (
            f"the candidate was made from another checkpoint: {source.name} "
            f"(fingerprint {source.fingerprint})"
        )
    if report.changed and report.passed:  # A failure lists the tensors.
        yield (
            "the candidate's tensors changed after it was written; the verdict in its header does "
            "not apply to them"
        )
    floor = report.floor
    if floor is not None and floor.float64 is None and report.environment.device == "mps":
        yield "the noise floor has no float64 part, since MPS has no float64"
