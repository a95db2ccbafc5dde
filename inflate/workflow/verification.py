"""``verify``, and the check of a conversion: a video checkpoint against its source or itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from inflate.errors import FamilyError
from inflate.formats import recorded
from inflate.formats.fingerprint import fingerprint_of
from inflate.formats.layouts import is_inflated
from inflate.formats.source import Source, describe, given_blend
from inflate.io.folder import shown as shown_name
from inflate.io.location import shown
from inflate.io.protected import check_written
from inflate.io.reader import open_checkpoint
from inflate.io.staging import Staged
from inflate.loading import load_video
from inflate.options import VerifyOptions, check_location, options_of
from inflate.parity.device import fell_back, memory_errors, resolve_device
from inflate.parity.diffusers import against_export
from inflate.parity.metrics import TOLERANCES
from inflate.parity.pair import against_itself, against_source
from inflate.parity.probes import probes_for
from inflate.parity.result import ParityReport, RecordedSource, Tolerance
from inflate.parity.trainability import learn_once
from inflate.parity.verify import run_check
from inflate.parity.weights import compare_temporal, not_finite, plan_rows
from inflate.progress import Progress, silent
from inflate.vocabulary import STORED_TYPES, ComputeType, MergeStrategy, Weights
from inflate.workflow.given import check_given, given_files, given_probes, keep_outputs
from inflate.workflow.planning import Job
from inflate.workflow.sources import files_of, local_source
from inflate.workflow.trained import check_trained, hint, with_training
from inflate.workflow.views import as_recorded, folded_alike, with_base


def verify(
    reference: str | Path,
    candidate: str | Path | None = None,
    *,
    atol: float | None = None,
    rtol: float | None = None,
    device: str | torch.device = "auto",
    dtype: ComputeType = "float32",
    seed: int = 0,
    merge_strategy: MergeStrategy | None = None,
    prefix: str | None = None,
    weights: Weights = "plain",
    trained: bool = False,
    ignore: tuple[str, ...] | None = None,
    trainability: bool = False,
    images: str | Path | None = None,
    video: str | Path | None = None,
    latents: str | Path | None = None,
    scaled_latents: bool = False,
    max_side: int | None = None,
    max_frames: int | None = None,
    save_outputs: str | Path | None = None,
    bisect: bool = False,
    self_test: bool = False,
    pictures: bool = False,
    reports: Iterable[str | Path] = (),
    progress: Progress = silent,
) -> ParityReport:
    """Compare a video checkpoint with the image checkpoint that it was made from.

    Args:
        reference: the image checkpoint; without ``candidate``, a video checkpoint to compare with
            its own image layers.
        candidate: the video checkpoint.
        atol: absolute tolerance; the default depends on ``dtype``.
        rtol: relative tolerance; the default depends on ``dtype``.
        device: the compute device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: the type to compute in.
        seed: seed of the probes' latents.
        merge_strategy: how the candidate blends, if its file does not record it.
        prefix: selects the autoencoder if the reference holds several.
        weights: ``plain``, or ``ema`` for the reference's moving averages.
        trained: check a trained candidate: its spatial tensors and its ``skip_video`` path must
            equal the reference; the report has how far temporal layers and outputs moved.
        ignore: patterns of names in the reference to leave out.
        trainability: also measure when each temporal tensor of the candidate learns.
        images: a folder of images, decoded as the frames of one video.
        video: a video; its first frames are decoded.
        latents: stored latents, ``T C h w`` or ``B T C h w``.
        scaled_latents: whether latents are scaled, as in diffusion models.
        max_side: longest side of images in pixels; by default 128 on a CPU, else 512.
        max_frames: maximum number of images and frames; by default 4 on a CPU, else 16.
        save_outputs: a new or empty folder for the latents and outputs of every probe.
        bisect: disable the temporal modules one at a time to find the faulty one.
        self_test: inject known faults in memory; each must be detected.
        pictures: keep frames of both decoders for the report's page.
        reports: files that the caller writes later; an error if one of them is read.
        progress: called with the phase, the steps done and the number of steps.

    Raises:
        InflateError: the input, configuration, device or destination cannot be used.
    """
    options = options_of(VerifyOptions, locals())
    check_location("reference", reference)
    if candidate is not None:
        check_location("candidate", candidate)
    check_given(options)
    if options.trained:
        check_trained(options, candidate)
    default = TOLERANCES[options.dtype]
    atol, rtol = (default if each is None else each for each in (options.atol, options.rtol))
    where, compute = resolve_device(options.device), getattr(torch, options.dtype)
    locations = [reference] if candidate is None else [candidate, reference]
    paths = [local_source(location, progress) for location in locations]
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        checkpoints = [stack.enter_context(open_checkpoint(path)) for path in paths]
        read: list[str | Path] = [*given_files(options)]
        for location, checkpoint in zip(locations, checkpoints, strict=True):
            read += files_of(location, checkpoint.files)
        check_written([*filter(None, [options.save_outputs]), *reports], read)
        metadata = checkpoints[0].metadata
        own_prefix = options.prefix if candidate is None else None
        source = describe(checkpoints[0], given_blend(options.merge_strategy), prefix=own_prefix)
        if not source.inflated:
            swapped = len(checkpoints) > 1 and is_inflated(checkpoints[1].tensors)
            order = f"{candidate} {reference}" if swapped else "IMAGE VIDEO"
            raise FamilyError(
                f"{paths[0]} is an image autoencoder: its decoder has no temporal layers; expected "
                f"inflate verify {order}, or one video checkpoint alone"
            )
        source.checkpoint.download(progress)
        video_print = reference_print = pool.submit(fingerprint_of, source.checkpoint)
        fold, sources = None, [source]
        if candidate is None:
            pair = against_itself(source, compute, where)
        else:
            image = describe(
                checkpoints[1],
                _stored_type(source),
                prefix=options.prefix,
                ema=options.weights == "ema",
                image=True,
                ignore=options.ignore or (),
            )
            if image.inflated:
                raise FamilyError(
                    f"{reference} is a video checkpoint; expected the image checkpoint first: "
                    "inflate verify IMAGE VIDEO"
                )
            image.checkpoint.download(progress)
            reference_print = pool.submit(fingerprint_of, image.checkpoint)
            image = as_recorded(image, source, scaled=options.scaled_latents)
            sources = [image, source]
            image, fold = folded_alike(image, source, where, options.seed)
            pair = against_source(image, source, compute, where)
        temporal = compare_temporal(source)
        unknown = "temporal tensors were not compared with their start: the file does not record it"
        extra, notes = given_probes(options, sources, pair.channels, where, progress)
        pair = replace(
            pair,
            weights=replace(pair.weights, temporal=temporal),
            notes=(*pair.notes, *notes, *([] if temporal else [unknown])),
        )
        prints = reference_print.result(), video_print.result()
        kernel = source.config.temporal.kernel
        probes = (*probes_for(where, kernel, thorough=True), *extra)
        compared, keep, trained = pair, None, options.trained
        if trained:
            assert pair.skip_video is not None
            compared = replace(pair, candidate=pair.skip_video, modules=None)
        if options.save_outputs is not None:
            keep = partial(keep_outputs, options.save_outputs)
        report = run_check(
            compared,
            reference=(shown(str(reference)), prints[0]),
            candidate=(shown(str(reference if candidate is None else candidate)), prints[1]),
            dtype=compute,
            device=where,
            tolerance=Tolerance(atol, rtol),
            seed=options.seed,
            probes=probes,
            fold=fold,
            recorded_source=None if candidate is None else _recorded_source(metadata, prints[0]),
            changed=recorded.changed_since(metadata, prints[1]),
            thorough=not trained,
            find_faulty=options.bisect,
            test_itself=options.self_test,
            pictures=pictures,
            fallback=fell_back(options.device, where),
            keep=keep,
            progress=progress,
        )
        if trained:
            report = with_training(report, pair, source, probes, where, compute, options.seed)
        elif candidate is not None:
            report = replace(report, notes=(*report.notes, *hint(report, source)))
        learned = None
        if options.trainability:
            with memory_errors(torch.device("cpu"), "two backward passes were made"):
                learned = learn_once(load_video(source, torch.float64))
        bad = not_finite(source) if report.max_abs_error is None else ()
        return replace(report, plan=plan_rows(source), trainability=learned, not_finite=bad)


def check(
    job: Job,
    staged: Staged,
    device: str,
    *,
    fingerprints: tuple[str, str],
    destination: str,
    progress: Progress,
) -> ParityReport:
    """Read the staged file back and compare it with its source, in float32.

    ``fingerprints`` has the fingerprints of the source and of the staged file.

    Raises:
        DeviceError: there is no such device, or it runs out of memory.
    """
    where = resolve_device(device)
    tolerance = TOLERANCES["float32"]
    reference = job.source
    with open_checkpoint(staged.path) as opened:
        temporal_alone = job.target == "temporal"
        candidate = describe(with_base(opened, reference) if temporal_alone else opened)
        if job.target == "diffusers":
            pair = against_export(reference, candidate, staged.path, where)
        else:
            pair = against_source(reference, candidate, torch.float32, where)
        return run_check(
            pair,
            reference=(str(reference.checkpoint.path), fingerprints[0]),
            candidate=(destination, fingerprints[1]),
            dtype=torch.float32,
            device=where,
            tolerance=Tolerance(tolerance, tolerance),
            seed=job.plan.config.seed,
            probes=probes_for(where, candidate.config.temporal.kernel),
            fold=job.fold,
            fallback=fell_back(device, where),
            progress=progress,
        )


def _stored_type(video: Source) -> Mapping[str, object]:
    """The type to which float8 weights of the reference are widened: the candidate's."""
    info = video.info("decoder.conv_in.weight")
    return {} if info is None or info.dtype not in STORED_TYPES else {"dtype": info.dtype}


def _recorded_source(metadata: Mapping[str, str], reference: str) -> RecordedSource | None:
    """Compare the source or origin in a candidate's header with the reference's fingerprint."""
    pairs = (
        (recorded.SOURCE_NAME_KEY, recorded.SOURCE_FINGERPRINT_KEY),
        (recorded.ORIGIN_NAME_KEY, recorded.ORIGIN_FINGERPRINT_KEY),
    )
    found = [
        RecordedSource(
            shown_name(metadata.get(name, "")),
            shown_name(metadata[key]),
            metadata[key] == reference,
        )
        for name, key in pairs
        if key in metadata
    ]
    # A copy comes from a video checkpoint, which comes from the image: either may be given.
    return next((source for source in found if source.given), found[-1] if found else None)
