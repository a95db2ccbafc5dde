"""``verify --trained``: check that the image decoder is unchanged; measure what training did."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import torch

from inflate.errors import ConfigError
from inflate.formats.recorded import CONFIG_KEY, SEED_KEY, is_trained
from inflate.formats.source import Source
from inflate.options import VerifyOptions
from inflate.parity.device import exact_float32, memory_errors
from inflate.parity.metrics import judge, worst_error
from inflate.parity.pair import DecoderPair
from inflate.parity.probes import Probe
from inflate.parity.quality import measure_quality
from inflate.parity.result import Movement, ParityReport, TrainedResult
from inflate.parity.weights import not_finite, temporal_starts
from inflate.vocabulary import seems_trained

_INSIDE_TEMPORAL = ("trainability", "bisect", "self_test", "save_outputs")


def check_trained(options: VerifyOptions, candidate: object) -> None:
    """Raise ConfigError for ``--trained`` without a source, or with incompatible options."""
    problems = [
        f"--{name.replace('_', '-')} is for new temporal layers, but these were trained"
        for name in _INSIDE_TEMPORAL
        if getattr(options, name)
    ]
    if candidate is None:
        problems.append("it also needs the image checkpoint: inflate verify IMAGE TRAINED")
    if problems:
        raise ConfigError("--trained cannot run with these arguments:", problems)


def with_training(
    report: ParityReport,
    pair: DecoderPair,
    video: Source,
    probes: Iterable[Probe],
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
) -> ParityReport:
    """Add the temporal layers to a report on the spatial path; they may make it fail."""
    problems = []
    if bad := not_finite(video):
        shown = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
        problems.append(f"tensors hold NaN or infinity: {shown}")
    squares = power = 0.0
    runs = []
    what = "outputs were compared"
    with exact_float32(), torch.inference_mode(), memory_errors(device, what):
        for probe in probes:
            z = probe.latents(pair.channels, seed).to(device, dtype)
            outputs = pair.reference(z, probe.frames), pair.candidate(z, probe.frames)
            runs.append(judge(probe, z, outputs, report.tolerance))
            image, found = (output.double().cpu() for output in outputs)
            squares += _square(found - image)
            power += _square(image)
        quality, left_out = measure_quality(runs)
    largest = worst_error([run.result.max_abs_error for run in runs])
    if largest is None:
        problems.append("the outputs hold NaN or infinity")
    source = report.recorded_source
    if source is not None and not source.given:
        problems.append(f"it was made from another checkpoint, {source.name}")
    trained = TrainedResult(
        problems=tuple(problems),
        max_abs_difference=largest,
        relative_difference=_finite(math.sqrt(squares / power)) if power else None,
        movements=_movements(video),
    )
    verdict = "fail" if problems else report.verdict
    notes = (*report.notes, *left_out)
    return replace(report, verdict=verdict, trained=trained, quality=quality, notes=notes)


def hint(report: ParityReport, video: Source) -> tuple[str, ...]:
    """A note for a failed candidate that may be trained, if only temporal layers changed."""
    temporal = report.weights.temporal
    moved = temporal is not None and seems_trained(len(temporal.changed), temporal.compared)
    changed = moved or is_trained(video.checkpoint.metadata)
    if report.passed or report.weights.different or not changed:
        return ()
    return (
        "only temporal layers of the candidate changed. If it was trained, its outputs need not "
        "equal the image decoder's: check it with inflate verify IMAGE TRAINED --trained",
    )


def _movements(video: Source) -> tuple[Movement, ...]:
    """How far each temporal part moved; empty if the header does not record its initial values."""
    if not {CONFIG_KEY, SEED_KEY} <= video.checkpoint.metadata.keys():
        return ()
    sums: dict[str, list[float]] = {}
    for tensor, now, made in temporal_starts(video):
        part, start = str(tensor.part), made.double()
        difference = now.double() - start
        total = sums.setdefault(part, [0, 0, 0.0, 0.0])
        added = (1, bool(difference.any()), _square(difference), _square(start))
        sums[part] = [a + b for a, b in zip(total, added, strict=True)]
    return tuple(
        Movement(
            part=part,
            tensors=int(count),
            moved=int(moved),
            distance=_finite(math.sqrt(squares)),
            relative=_finite(math.sqrt(squares / start)) if start else None,
        )
        for part, (count, moved, squares, start) in sums.items()
    )


def _square(tensor: torch.Tensor) -> float:
    return float(tensor.square().sum())


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
