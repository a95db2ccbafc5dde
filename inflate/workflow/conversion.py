"""``convert``: an image checkpoint becomes a video checkpoint, or a video checkpoint another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inflate.checkpoint.reader import open_checkpoint
from inflate.checkpoint.staging import check_destination
from inflate.config.loading import parse_set, read_config
from inflate.config.schema import Settings
from inflate.errors import ConfigError, OutputError
from inflate.inflation.plan import InflationPlan
from inflate.loading import Source, describe, given_blend
from inflate.parity.device import fell_back, resolve_device
from inflate.parity.diffusers import require_diffusers
from inflate.parity.result import ParityReport, TrainabilityResult
from inflate.progress import Progress, silent
from inflate.remote import check_destination as check_remote
from inflate.remote import is_remote, publish, scratch_folder, shown
from inflate.vocabulary import POST_QUANTS, TARGETS, WEIGHTS, Target
from inflate.workflow.production import Made, prepare, produce
from inflate.workflow.sources import default_output, local_source, name_of


@dataclass(frozen=True)
class ConversionResult:
    """What a conversion did.

    ``output`` and ``sha256`` are None where nothing was published: after a dry run, or where parity
    did not hold; ``destination`` is where it would be. ``parity`` is None where it was not checked.
    ``notes`` are for whoever uses the result. ``trainability`` is told from the plan alone; None
    for the copy of a video checkpoint. ``source_sha256`` is None after a dry run.
    """

    plan: InflationPlan
    layout: Target
    parity: ParityReport | None
    output: Path | str | None
    sha256: str | None
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()
    destination: str = ""
    trainability: TrainabilityResult | None = None
    source_sha256: str | None = None

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
    config: str | None = None,
    time_mode: str | None = None,
    merge_strategy: str | None = None,
    alpha: float | None = None,
    video_kernel_size: int | tuple[int, ...] | None = None,
    attn_type: str | None = None,
    seed: int | None = None,
    dtype: str | None = None,
    float32_norms: bool | None = None,
    set_: Iterable[str] = (),
    prefix: str | None = None,
    weights: str = "plain",
    layout: str | None = None,
    post_quant: str = "keep",
    allow_inexact: bool = False,
    device: str = "auto",
    skip_parity: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
    before_publish: BeforePublish | None = None,
) -> ConversionResult:
    """Make a video checkpoint of an image autoencoder's, and publish it once parity holds.

    Args:
        source: the image checkpoint: a file, an index of shards, a folder of diffusers, or a URL;
            with ``layout`` also a video checkpoint, which is copied as it is.
        output: where to; beside the source, ``STEM.video.safetensors``, by default.
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
        weights: ``plain``, or ``ema`` for the moving averages beside them.
        layout: ``autoencoder`` (the default), ``decoder``, ``sgm`` or ``diffusers``.
        post_quant: ``keep`` post_quant_conv, or ``fold`` it into the decoder.
        allow_inexact: fold although it changes the border.
        device: where parity is checked: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        skip_parity: publish without a check, and say so in the file.
        dry_run: make the plan and stop.
        overwrite: replace an existing output.
        progress: told where the work stands.
        before_publish: told of a result that passed, before it gets its name; a record made then
            says after a crash whose work the file is. What it raises keeps the file unpublished.

    Raises:
        InflateError: whatever the caller can mend: input, configuration, device or destination.
    """
    started = time.perf_counter()
    target = _one_of("--layout", layout or "autoencoder", TARGETS)
    _one_of("--post-quant", post_quant, POST_QUANTS)
    _one_of("--weights", weights, WEIGHTS)
    chosen = {
        "temporal.time_mode": time_mode,
        "temporal.merge_strategy": merge_strategy,
        "temporal.alpha": alpha,
        "temporal.video_kernel_size": video_kernel_size,
        "architecture.attn_type": attn_type,
        "seed": seed,
        "dtype": dtype,
        "float32_norms": float32_norms,
    }
    layers: list[Settings] = [
        read_config(config) if config is not None else {},
        parse_set(set_),
        {key: value for key, value in chosen.items() if value is not None},
    ]
    where = resolve_device(device)
    if target == "diffusers" and not (skip_parity or dry_run):
        require_diffusers()
    if is_remote(str(output)) and not dry_run:
        # Before a download: what cannot be written is better known first.
        check_remote(str(output), overwrite=overwrite, folder=target == "diffusers")
    path = local_source(source, progress)
    with open_checkpoint(path) as checkpoint:
        which: dict[str, Any] = {"prefix": prefix, "ema": weights == "ema", "image": layout is None}
        original = describe(checkpoint, *layers, **which)
        copying = original.inflated and layout is not None
        if copying:
            blend = given_blend(original.config.temporal.merge_strategy)
            _check_unchanged(original, describe(checkpoint, blend, **which))
        job = prepare(original, target, post_quant, where, copying=copying, inexact=allow_inexact)
        planned = time.perf_counter()
        seconds = {"plan": planned - started}
        destination = output
        if destination is None:
            destination = default_output(source, target, inflated=original.inflated)
        told = shown(str(destination))
        if dry_run:
            return ConversionResult(
                job.plan, target, None, None, None, seconds, job.notes, told, job.trainability
            )

        def result_of(made: Made) -> ConversionResult:
            parity, published = made.parity, None
            if made.sha256 is not None:
                published = destination if is_remote(str(destination)) else Path(destination)
                parity = parity and parity.of_candidate(told, made.sha256)
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
                made.sha256,
                spent,
                job.notes,
                told,
                job.trainability,
                made.source_sha256,
            )

        def announce(made: Made, staged: Path) -> None:
            if before_publish is not None:
                before_publish(result_of(made), staged)

        with _local_destination(path, destination, target, overwrite=overwrite) as local:
            made = produce(
                job,
                name_of(source),
                local,
                None if skip_parity else where,
                overwrite=overwrite,
                progress=progress,
                fallback=fell_back(device, where),
                announce=announce,
            )
            if made.sha256 is not None and is_remote(str(destination)):
                publish(local, str(destination), overwrite=overwrite, progress=progress)
        return result_of(made)


def _check_unchanged(asked: Source, own: Source) -> None:
    """See that a copy keeps the temporal layers of a video checkpoint."""
    if asked.config.temporal != own.config.temporal:
        raise ConfigError(
            f"{own.checkpoint.path} is inflated already, with {own.config.temporal}; its temporal "
            "layers cannot be changed by copying. Convert the image checkpoint instead"
        )


def _one_of(option: str, value: str, known: tuple[str, ...]) -> Target:
    if value not in known:
        raise ConfigError(f"{option} is {value!r}; expected one of {', '.join(known)}")
    return value  # type: ignore[return-value]


@contextmanager
def _local_destination(
    source: Path, destination: str | Path, target: Target, *, overwrite: bool
) -> Iterator[Path]:
    """Where the result is made: in its place, or in a temporary folder before it is sent off."""
    if is_remote(str(destination)):
        with scratch_folder() as folder:
            yield folder / Path(str(destination).rstrip("/")).name
        return
    local = Path(destination)
    try:
        if local.exists() and source.exists() and local.samefile(source):
            raise OutputError(f"{local} is the source itself; choose another name with -o")
        check_destination(local, overwrite=overwrite, folder=target == "diffusers")
    except OSError as error:  # A name that is too long, or a folder that may not be looked into.
        raise OutputError(f"{local} cannot be written: {error.strerror}") from error
    yield local
