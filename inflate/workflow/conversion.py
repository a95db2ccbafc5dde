"""``convert``: make a video checkpoint from an image checkpoint, or copy a video checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from inflate.config.loading import config_files
from inflate.errors import OutputError
from inflate.formats.targets import container_of
from inflate.io.caching import scratch_folder
from inflate.io.location import is_remote, shown
from inflate.io.protected import check_written
from inflate.io.reader import Checkpoint, open_checkpoint
from inflate.io.remote import check_destination as check_remote
from inflate.io.remote import publish
from inflate.io.staging import check_destination, outputs_of, saying_why
from inflate.options import ConvertOptions, check_location, options_of
from inflate.progress import Progress, silent
from inflate.vocabulary import (
    AttnType,
    MergeStrategy,
    PostQuant,
    StoredType,
    Target,
    TimeMode,
    Weights,
)
from inflate.workflow.planning import find_joined, find_source, prepare, settings_of, target_of
from inflate.workflow.production import BeforePublish, ConversionResult, produce
from inflate.workflow.sources import default_output, files_of, local_source, name_of

if TYPE_CHECKING:
    import torch


def convert(
    source: str | Path,
    output: str | Path | None = None,
    *,
    config: str | Path | None = None,
    time_mode: TimeMode | None = None,
    merge_strategy: MergeStrategy | None = None,
    alpha: float | None = None,
    video_kernel_size: int | tuple[int, ...] | None = None,
    attn_type: AttnType | None = None,
    set_: Iterable[str] | None = None,
    seed: int | None = None,
    dtype: StoredType | None = None,
    float32_norms: bool | None = None,
    prefix: str | None = None,
    weights: Weights = "plain",
    ignore: tuple[str, ...] | None = None,
    layout: Target | None = None,
    into: str | Path | None = None,
    base: str | Path | None = None,
    post_quant: PostQuant = "keep",
    allow_inexact: bool = False,
    device: str | torch.device = "auto",
    skip_parity: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
    source_sha256: bool = False,
    reports: Iterable[str | Path] = (),
    progress: Progress = silent,
    before_publish: BeforePublish | None = None,
) -> ConversionResult:
    """Convert an image autoencoder to a video checkpoint, and publish it if parity holds.

    Args:
        source: the image checkpoint: a file, an index of shards, a diffusers folder, or a URL. With
            ``layout`` it may also be a video checkpoint, which is copied.
        output: a path or URL; by default ``STEM.video.safetensors`` next to the source.
        config: the name of a preset or a YAML file; by default inferred from the checkpoint.
        time_mode: which parts become temporal.
        merge_strategy: how spatial and temporal branch blend.
        alpha: initial share of the temporal branch; before the sigmoid if ``learned``.
        video_kernel_size: kernel size of the temporal convolutions, one or three odd numbers.
        attn_type: the kind of attention blocks.
        set_: further settings, ``key=value``; the arguments above override them.
        seed: seed of the random temporal weights.
        dtype: the type to store; the source's by default.
        float32_norms: keep the norms of the temporal branches in float32 with any ``dtype``.
        prefix: selects the autoencoder if the source holds several.
        weights: ``plain``, or ``ema`` for their moving averages.
        ignore: patterns of names to leave out, such as ``*.total_ops``.
        layout: names and files to write; ``autoencoder`` by default.
        into: a whole model to copy with its first stage replaced; the layout is then ``sgm``.
        base: the image checkpoint for a source with only temporal layers.
        post_quant: ``keep`` the quant convs, or ``fold`` them into decoder and encoder.
        allow_inexact: fold even if it changes the images.
        device: the device for the check: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        skip_parity: publish without a check; the file records this.
        dry_run: only make the plan.
        overwrite: replace an existing output.
        source_sha256: also record the SHA-256 of the source's files; reads them completely.
        reports: files that the caller writes later; an error if one is the output or is read.
        progress: called with the phase, the steps done and the number of steps.
        before_publish: called with a passed result before the file gets its name. A record made
        then identifies the file after a crash. If it raises, nothing is published.

    Raises:
        InflateError: the input, configuration, device or destination cannot be used.
    """
    options = options_of(ConvertOptions, locals())
    started = time.perf_counter()
    check_location("source", source)
    target = target_of(options)
    is_folder, dry_run, overwrite = target == "diffusers", options.dry_run, options.overwrite
    if output is not None:
        check_location("output", output)
        container = container_of(target, output)
        if options.into is not None and container != "safetensors":
            raise OutputError(f"{output}: with --into, the name ends in .safetensors")
    settings = settings_of(options)
    if not (options.skip_parity or dry_run):
        _check_device(options, target)
    remote = is_remote(str(output))
    if remote:  # Check before any download.
        connect = not dry_run
        check_remote(str(output), overwrite=overwrite, folder=is_folder, connect=connect)
    with ExitStack() as stack:
        read: list[str | Path] = [*config_files(options.config)]

        def opened(location: str | Path) -> Checkpoint:
            local = local_source(location, progress)
            checkpoint = stack.enter_context(open_checkpoint(local))
            read.extend(files_of(location, checkpoint.files))
            return checkpoint

        checkpoint = opened(source)
        whole = None if options.into is None else opened(options.into)
        if options.base is None:
            original = find_source(checkpoint, options, settings)
        else:
            original = find_joined(checkpoint, opened(options.base), options, settings, progress)
        if output is None:
            inflated = original.inflated and options.base is None and whole is None
            output = default_output(options.into or source, target, inflated=inflated)
        if not dry_run:
            check_written([*outputs_of(output, folder=is_folder), *reports], read)
            if not remote:
                output = Path(output)
                with saying_why(output):  # A name may be too long, or a folder unreadable.
                    check_destination(output, overwrite=overwrite, folder=is_folder)
        job = prepare(original, options, whole)
        seconds = {"plan": time.perf_counter() - started}
        result = ConversionResult(
            job.plan, target, None, None, seconds, job.notes, shown(str(output))
        )
        if dry_run:
            return result
        local = Path(output)
        if remote:
            local = stack.enter_context(scratch_folder()) / local.name
        result = produce(
            job,
            result,
            output,
            local,
            options,
            source_name=name_of(source),
            progress=progress,
            before_publish=before_publish,
        )
        if remote and result.output is not None:
            publish(local, str(output), overwrite=overwrite, progress=progress)
        total = time.perf_counter() - started
        rest = {"publish": total - sum(result.seconds.values()), "total": total}
        return replace(result, seconds={**result.seconds, **rest})


def _check_device(options: ConvertOptions, target: Target) -> None:
    """Check before any work that the device is available; loads torch only if in doubt."""
    if options.device not in ("auto", "cpu"):
        from inflate.parity.device import resolve_device

        resolve_device(options.device)
    if target == "diffusers":
        from inflate.parity.diffusers import require_diffusers

        require_diffusers()
