"""``convert``: an image checkpoint becomes a video checkpoint, or a video checkpoint another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from inflate.config.loading import config_files
from inflate.config.schema import Config
from inflate.display import Displayed, bytes_text
from inflate.errors import OutputError
from inflate.formats.targets import container_of
from inflate.inflation.plan import InflationPlan
from inflate.io.protected import check_written
from inflate.io.reader import open_checkpoint
from inflate.io.remote import check_destination as check_remote
from inflate.io.remote import is_remote, publish, scratch_folder, shown
from inflate.io.staging import check_destination, outputs_of
from inflate.options import ConvertOptions, check_location, checked
from inflate.parity.result import ParityReport
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
from inflate.workflow.joining import WholeModel, onto_base
from inflate.workflow.planning import (
    find_base,
    find_joined,
    find_source,
    prepare,
    settings_of,
    target_of,
)
from inflate.workflow.production import Check, Made, produce
from inflate.workflow.sources import default_output, files_of, local_source, name_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, repr=False)
class ConversionResult(Displayed):
    """What a conversion did.

    ``output`` is None where nothing was published: after a dry run, or where parity failed;
    ``destination`` is where it would be. ``parity`` is None where it was not checked. The
    fingerprints are None after a dry run, ``source_sha256`` unless it was requested;
    ``source_config`` is the configuration of the source before it was planned.
    """

    plan: InflationPlan
    layout: Target
    parity: ParityReport | None
    output: Path | str | None
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()
    destination: str = ""
    fingerprint: str | None = None
    source_fingerprint: str | None = None
    source_sha256: str | None = None
    source_config: Config | None = None

    def _facts(self) -> dict[str, object]:
        location = self.destination if self.output is None else self.output
        return {
            "parity": "unverified" if self.parity is None else self.parity.verdict,
            "output": Path(location).name + ("" if self.output else " (not written)"),
            "size": bytes_text(self.plan.nbytes),
            "layout": self.layout,
            "tensors": len(self.plan.tensors),
            "initialised": len(self.plan.initialised),
            **{f"note {number}": note for number, note in enumerate(self.notes, 1)},
        }

    @property
    def passed(self) -> bool:
        """Whether parity held, or was not asked for."""
        return self.parity is None or self.parity.passed


BeforePublish = Callable[[ConversionResult, Path], None]
"""Called with a result that is about to be published, and the hidden path where it lies whole."""


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
    """Make a video checkpoint of an image autoencoder's, and publish it once parity holds.

    Args:
        source: the image checkpoint: a file, an index of shards, a folder of diffusers, or a URL;
            with ``layout`` also a video checkpoint, which is copied as it is.
        output: where to; next to the source, ``STEM.video.safetensors``, by default.
        config: a preset's name or a YAML file; what it leaves open is read off the checkpoint.
        time_mode: which parts become temporal: ``all``, ``conv-only`` or ``attn-only``.
        merge_strategy: ``learned`` or ``fixed``.
        alpha: share of the temporal branch at the start; before its sigmoid if ``learned``.
        video_kernel_size: kernel of the time convolutions, one odd number or three.
        attn_type: ``vanilla``, ``vanilla-xformers`` or ``none``.
        seed: of the random part of the temporal start.
        dtype: the type to store in; the source's by default.
        float32_norms: keep the norms of the temporal branches in float32 whatever ``dtype``.
        set_: further settings, ``key=value``; the arguments above win over them.
        prefix: which autoencoder to take where the source holds several.
        weights: ``plain``, or ``ema`` for the moving averages next to them.
        ignore: patterns of names to leave out, such as ``*.total_ops``.
        layout: ``autoencoder`` (the default), ``decoder``, ``sgm``, ``diffusers``, ``comfyui``,
            ``cogvideo`` or ``temporal``.
        into: the file of a whole model, which the result is a copy of, with its first stage
            replaced; the layout is then ``sgm``.
        base: the image checkpoint of a source that holds temporal layers alone.
        post_quant: ``keep`` the quant convs, or ``fold`` them into decoder and encoder.
        allow_inexact: fold although it changes the images.
        device: where parity is checked: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        skip_parity: publish without a check, and say so in the file.
        dry_run: make the plan and stop.
        overwrite: replace an existing output.
        source_sha256: also record the SHA-256 of the source's files, all of which is then read.
        reports: files that the caller will write later; refused now where that would lose a file
            of the source, or the output.
        progress: called with the step and how far it is.
        before_publish: called with a result that passed, before the file gets its name; a record
            made then shows after a crash whose file it is. If it raises, nothing is published.

    Raises:
        InflateError: whatever the caller can mend: input, configuration, device or destination.
    """
    options = ConvertOptions(
        config=config,  # type: ignore[arg-type]  # A path becomes a text.
        time_mode=time_mode,
        merge_strategy=merge_strategy,
        alpha=alpha,
        video_kernel_size=video_kernel_size,
        attn_type=attn_type,
        set=set_,  # type: ignore[arg-type]  # Any iterable; it becomes a tuple.
        seed=seed,
        dtype=dtype,
        float32_norms=float32_norms,
        prefix=prefix,
        weights=weights,
        ignore=ignore,
        layout=layout,
        into=into,  # type: ignore[arg-type]
        base=base,  # type: ignore[arg-type]
        post_quant=post_quant,
        allow_inexact=allow_inexact,
        device=str(device),
        skip_parity=skip_parity,
        dry_run=dry_run,
        overwrite=overwrite,
        source_sha256=source_sha256,
    )
    return convert_with(
        source, output, options, reports=reports, progress=progress, before_publish=before_publish
    )


def convert_with(
    source: str | Path,
    output: str | Path | None,
    options: ConvertOptions,
    *,
    reports: Iterable[str | Path] = (),
    progress: Progress = silent,
    before_publish: BeforePublish | None = None,
) -> ConversionResult:
    """:func:`convert` with its options in one value.

    Raises:
        InflateError: as :func:`convert`.
    """
    started = time.perf_counter()
    options = checked(options)
    check_location("source", source)
    target = target_of(options)
    if output is not None:
        check_location("output", output)
        container = container_of(target, output)
        if options.into is not None and container != "safetensors":
            raise OutputError(f"{output}: with --into, the name ends in .safetensors")
    dry_run, skip_parity, overwrite = options.dry_run, options.skip_parity, options.overwrite
    settings = settings_of(options)
    if not (skip_parity or dry_run):
        _check_needs(options, target)
    if is_remote(str(output)) and not dry_run:
        # Before a download: what cannot be written is better known first.
        named = [source, options.into, options.base]
        check_written([str(output)], [each for each in named if each is not None])
        check_remote(str(output), overwrite=overwrite, folder=target == "diffusers")
    path = local_source(source, progress)
    with ExitStack() as stack:
        checkpoint = stack.enter_context(open_checkpoint(path))
        read = [*files_of(source, checkpoint.files), *config_files(options.config)]
        opened = {}
        for location in filter(None, (options.base, options.into)):
            local = local_source(location, progress)
            opened[location] = stack.enter_context(open_checkpoint(local))
            read += files_of(location, opened[location].files)
        whole = None if options.into is None else WholeModel(opened[options.into])
        if options.base is None:
            original = find_source(checkpoint, options, settings)
        else:
            base = find_base(opened[options.base], options)
            base.checkpoint.download(progress)
            checkpoint, notes = onto_base(checkpoint, base, name_of(options.base))
            original = find_joined(checkpoint, options, settings, notes)
        destination = output
        if destination is None:
            inflated = original.inflated and options.base is None and whole is None
            destination = default_output(options.into or source, target, inflated=inflated)
        if not dry_run:
            check_written(
                [*outputs_of(destination, folder=target == "diffusers"), *reports],
                read,
            )
            if not is_remote(str(destination)):
                _check_local(Path(destination), overwrite=overwrite, folder=target == "diffusers")
        job = prepare(original, options, whole)
        planned = time.perf_counter()
        seconds = {"plan": planned - started}
        told = shown(str(destination))
        if dry_run:
            return ConversionResult(job.plan, target, None, None, seconds, job.notes, told)
        original.checkpoint.download(progress)
        if whole is not None:
            whole.checkpoint.download(progress)

        def result_of(made: Made) -> ConversionResult:
            parity, published = made.parity, None
            if made.published:
                published = destination if is_remote(str(destination)) else Path(destination)
                parity = parity and replace(parity, candidate=(told, made.fingerprints.output))
            spent = {
                **seconds,
                "write": made.written - planned,
                "parity": made.checked - made.written,
                "publish": time.perf_counter() - made.checked,
                "total": time.perf_counter() - started,
            }
            return ConversionResult(
                job.plan,
                target,
                parity,
                published,
                spent,
                job.notes,
                told,
                made.fingerprints.output,
                made.fingerprints.source,
                made.source_sha256,
                original.config,
            )

        def announce(made: Made, staged: Path) -> None:
            if before_publish is not None:
                before_publish(result_of(made), staged)

        with _local_destination(destination) as local:
            made = produce(
                job,
                name_of(source),
                local,
                load_check=None if skip_parity else partial(_load_check, options.device),
                source_sha256=options.source_sha256,
                overwrite=overwrite,
                progress=progress,
                announce=announce,
            )
            if made.published and is_remote(str(destination)):
                publish(local, str(destination), overwrite=overwrite, progress=progress)
        return result_of(made)


def _load_check(device: str) -> Check:
    from inflate.workflow.checking import check

    return partial(check, device)


def _check_needs(options: ConvertOptions, target: Target) -> None:
    """Find out before any work whether the check can run; torch is loaded only if it may not."""
    if options.device not in ("auto", "cpu"):
        from inflate.parity.device import resolve_device

        resolve_device(options.device)
    if target == "diffusers":
        from inflate.parity.diffusers import require_diffusers

        require_diffusers()


def _check_local(destination: Path, *, overwrite: bool, folder: bool) -> None:
    try:
        check_destination(destination, overwrite=overwrite, folder=folder)
    except OSError as error:  # A name that is too long, or a folder that may not be looked into.
        raise OutputError(f"{destination} cannot be written: {error.strerror}") from error


@contextmanager
def _local_destination(destination: str | Path) -> Iterator[Path]:
    """Where the result is made: in its place, or in a temporary folder before it is sent off."""
    if not is_remote(str(destination)):
        yield Path(destination)
        return
    with scratch_folder() as folder:
        try:
            yield folder / Path(str(destination).rstrip("/")).name
        except KeyboardInterrupt as stop:  # What it says of the temporary folder does not help.
            raise KeyboardInterrupt from stop
