"""The parity check: every copied tensor against its source, then both decoders on the probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inflate.checkpoint.reader import dtype_name
from inflate.config.schema import Architecture
from inflate.errors import PlanError
from inflate.loading import (
    CONFIG_KEY,
    Source,
    load_image_decoder,
    load_post_quant_conv,
    load_video,
)
from inflate.parity.device import exact_float32, tf32_enabled
from inflate.parity.given import pictures_of
from inflate.parity.memory import (
    Decode,
    available_bytes,
    fitting,
    frame_bytes,
    saying_memory,
    sparing,
    within_memory,
)
from inflate.parity.metrics import (
    Comparison,
    Tolerance,
    compare,
    worst_error,
    worst_verdict,
)
from inflate.parity.probes import Probe, probes_for
from inflate.parity.result import (
    CastResult,
    Environment,
    FoldResult,
    ParityReport,
    Picture,
    ProbeResult,
    WeightsResult,
)
from inflate.parity.weights import compare_weights, narrowed
from inflate.progress import Progress, silent

Keep = Callable[[Probe, Tensor, Tensor, Tensor], None]
"""What is told of a probe: its latents, and the images of reference and candidate."""


@dataclass(frozen=True)
class Comparands:
    """What a check runs: two ways to decode, and what is known of their files."""

    reference: Decode
    candidate: Decode
    original: Decode | None
    """The reference before it was rounded to the stored type, where that was narrower."""
    channels: int
    weights: WeightsResult
    cast_types: tuple[str, str] | None
    notes: tuple[str, ...]
    architecture: Architecture | None = None
    framewise: bool = False
    """Whether the reference decodes each frame for itself."""


def against_source(
    reference: Source, candidate: Source, dtype: torch.dtype, device: torch.device
) -> Comparands:
    """Set a video checkpoint against the image checkpoint that it comes from.

    Where the candidate is stored in a narrower type, the reference is rounded to it first.

    Raises:
        PlanError: their decoders are not of one architecture.
    """
    _check_same_architecture(reference, candidate)
    notes = list(_notes(candidate))
    image = load_image_decoder(reference, dtype, stored_as=candidate).to(device)
    video = load_video(candidate, dtype).to(device)
    before_image = load_post_quant_conv(reference, dtype, stored_as=candidate)
    before_video = load_post_quant_conv(candidate, dtype)
    if (before_image is None) != (before_video is None):
        missing = "reference" if before_image is None else "candidate"
        notes.append(
            f"the {missing} has no post_quant_conv: it was given latents that went through the "
            "other's"
        )
        before_image = before_video = before_image or before_video
    original = None
    cast_types = narrowed(reference, candidate)
    if cast_types is not None:
        wide = load_image_decoder(reference, dtype).to(device)
        before_wide = load_post_quant_conv(reference, dtype) or before_image
        original = _image_decode(wide, _to(before_wide, device))
    return Comparands(
        reference=_image_decode(image, _to(before_image, device)),
        candidate=_video_decode(video, _to(before_video, device), skip_video=False),
        original=original,
        channels=_latent_channels(before_image, reference),
        weights=compare_weights(reference, candidate),
        cast_types=cast_types,
        notes=tuple(notes),
        architecture=reference.config.architecture,
        framewise=True,
    )


def against_video(
    reference: Source, candidate: Source, dtype: torch.dtype, device: torch.device
) -> Comparands:
    """Set a video checkpoint against the one that it was copied from."""
    _check_same_architecture(reference, candidate)
    before_reference = _to(load_post_quant_conv(reference, dtype, stored_as=candidate), device)
    before_candidate = _to(load_post_quant_conv(candidate, dtype), device)
    first = load_video(reference, dtype, stored_as=candidate).to(device)
    second = load_video(candidate, dtype).to(device)
    return Comparands(
        reference=_video_decode(first, before_reference, skip_video=False),
        candidate=_video_decode(second, before_candidate or before_reference, skip_video=False),
        original=None,
        channels=_latent_channels(before_reference, reference),
        weights=compare_weights(reference, candidate),
        cast_types=None,
        notes=_notes(candidate),
        architecture=reference.config.architecture,
    )


def against_itself(candidate: Source, dtype: torch.dtype, device: torch.device) -> Comparands:
    """Set a video checkpoint against its own image layers, its ``skip_video`` path."""
    video = load_video(candidate, dtype).to(device)
    post_quant = _to(load_post_quant_conv(candidate, dtype), device)
    return Comparands(
        reference=_video_decode(video, post_quant, skip_video=True),
        candidate=_video_decode(video, post_quant, skip_video=False),
        original=None,
        channels=_latent_channels(post_quant, candidate),
        weights=WeightsResult(0, ()),
        cast_types=None,
        notes=(
            *_notes(candidate),
            "no reference was given: the candidate was compared with its own image layers",
        ),
        architecture=candidate.config.architecture,
        framewise=True,
    )


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
    extra: Sequence[Probe] = (),
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
        extra: further probes, after those.
        keep: given every probe and what both decoders made of it.
        progress: told of every probe.

    Raises:
        DeviceError: the device runs out of memory.
    """
    results: list[ProbeResult] = []
    cast_errors: list[float | None] = []
    pictures: list[Picture] = []
    told: list[str] = []
    probes = [*(probes_for(device) if probes is None else probes), *extra]
    comparands, probes = _within(comparands, probes, dtype, device, told)

    def check(probe: Probe) -> None:
        z = probe.latents(comparands.channels, seed).to(device, dtype)
        expected = comparands.reference(z, probe.frames)
        images = comparands.candidate(z, probe.frames)
        found = compare(expected, images, tolerance)
        if comparands.original is not None:
            cast_errors.append(_error(comparands.original(z, probe.frames), expected))
        results.append(
            ProbeResult(
                probe.name, tuple(z.shape), probe.frames, found.verdict, found.max_abs_error
            )
        )
        pictures.extend(pictures_of(probe, expected, images))
        if keep is not None:
            keep(probe, z, expected, images)

    with exact_float32(), torch.inference_mode(), saying_memory(device, "parity was checked"):
        tf32 = tf32_enabled(device)
        for done, probe in enumerate(probes):
            progress("checking parity", done, len(probes))
            within_memory(probe, check, told, device)
        progress("checking parity", len(probes), len(probes))
    verdict = worst_verdict([result.verdict for result in results])
    if comparands.weights.different:
        verdict = "fail"
    cast = None
    if comparands.cast_types is not None:
        cast = CastResult(*comparands.cast_types, worst_error(cast_errors))
    return ParityReport(
        verdict=verdict,
        max_abs_error=worst_error([result.max_abs_error for result in results]),
        reference=reference,
        candidate=candidate,
        environment=Environment(_device_name(device), dtype_name(dtype), torch.__version__, tf32),
        tolerance=tolerance,
        weights=comparands.weights,
        probes=tuple(results),
        cast=cast,
        fold=fold,
        notes=(*comparands.notes, *told),
        pictures=tuple(pictures),
    )


def _within(
    comparands: Comparands,
    probes: Sequence[Probe],
    dtype: torch.dtype,
    device: torch.device,
    told: list[str],
) -> tuple[Comparands, tuple[Probe, ...]]:
    """The same check, within the memory that there is: in pieces, and of smaller probes."""
    architecture, available = comparands.architecture, available_bytes(device)
    fitted, notes = fitting(probes, architecture, dtype, available)
    told += notes

    def room(z: Tensor) -> int:
        if architecture is None or available is None:
            return z.shape[0]
        return available // frame_bytes(architecture, z.shape[2], z.shape[3], dtype)

    def spared(decode: Decode, what: str, *, framewise: bool) -> Decode:
        return sparing(decode, what, framewise=framewise, told=told, room=room)

    framewise, original = comparands.framewise, comparands.original
    spare = replace(
        comparands,
        reference=spared(comparands.reference, "the reference", framewise=framewise),
        candidate=spared(comparands.candidate, "the candidate", framewise=False),
        original=original and spared(original, "the unrounded reference", framewise=framewise),
    )
    return spare, fitted


def _error(reference: Tensor, candidate: Tensor) -> float | None:
    comparison: Comparison = compare(reference, candidate, Tolerance(0.0, 0.0))
    return comparison.max_abs_error


def _image_decode(decoder: nn.Module, post_quant: nn.Module | None) -> Decode:
    def decode(z: Tensor, _frames: int) -> Tensor:
        images: Tensor = decoder(z if post_quant is None else post_quant(z))
        return images

    return decode


def _video_decode(decoder: nn.Module, post_quant: nn.Module | None, *, skip_video: bool) -> Decode:
    def decode(z: Tensor, frames: int) -> Tensor:
        z = z if post_quant is None else post_quant(z)
        images: Tensor = decoder(z, timesteps=frames, skip_video=skip_video)
        return images

    return decode


def _latent_channels(post_quant: nn.Module | None, source: Source) -> int:
    if isinstance(post_quant, nn.Conv2d):
        return post_quant.in_channels
    return source.config.architecture.z_channels


def _check_same_architecture(reference: Source, candidate: Source) -> None:
    problems = []
    ours, theirs = reference.config.architecture, candidate.config.architecture
    names = ("level_channels", "num_res_blocks", "z_channels", "out_ch", "attention_levels")
    pairs = {name: (getattr(ours, name), getattr(theirs, name)) for name in names}
    pairs["attention"] = (ours.attn_type != "none", theirs.attn_type != "none")
    for name, (want, have) in pairs.items():
        if want != have:
            problems.append(f"{name}: the reference has {want}, the candidate {have}")
    if problems:
        raise PlanError(
            f"{candidate.checkpoint.path} cannot come from {reference.checkpoint.path}, since "
            "their decoders differ:",
            problems,
        )


def _notes(candidate: Source) -> tuple[str, ...]:
    if CONFIG_KEY in candidate.checkpoint.metadata:
        return ()
    strategy = candidate.config.temporal.merge_strategy
    return (
        f"the candidate's file does not say how it blends: merge_strategy {strategy!r} was taken",
    )


def _to(module: nn.Module | None, device: torch.device) -> nn.Module | None:
    return None if module is None else module.to(device)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)
