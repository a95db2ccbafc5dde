"""The two jobs, convert and verify: values in, values out; nothing is printed here."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from inflate._version import __version__
from inflate.checkpoint.files import hash_file, hash_files
from inflate.checkpoint.reader import open_checkpoint
from inflate.checkpoint.writer import StagedFile, check_destination, stage
from inflate.config.loading import parse_set, read_config
from inflate.config.schema import Config, Settings
from inflate.errors import ConfigError, FamilyError, OutputError
from inflate.inflation.apply import planned_tensors
from inflate.inflation.plan import InflationPlan, make_plan
from inflate.loading import CONFIG_KEY, Source, describe
from inflate.parity.device import resolve_device
from inflate.parity.metrics import TOLERANCES, Tolerance
from inflate.parity.result import ParityReport
from inflate.parity.verify import against_itself, against_source, run_check
from inflate.progress import Progress, silent

COMPUTE_TYPES = ("float32", "float16", "bfloat16", "float64")
"""The types that verify can compute in."""


@dataclass(frozen=True)
class ConversionResult:
    """What a conversion did.

    ``output`` and ``sha256`` are None where nothing was published: after a dry run, or where parity
    did not hold. ``parity`` is None where it was not checked.
    """

    plan: InflationPlan
    parity: ParityReport | None
    output: Path | None
    sha256: str | None
    seconds: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether parity held, or was not asked for."""
        return self.parity is None or self.parity.passed


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
    set_: Iterable[str] = (),
    device: str = "auto",
    skip_parity: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> ConversionResult:
    """Make a video checkpoint of an image autoencoder's, and publish it once parity holds.

    Args:
        source: the image checkpoint.
        output: the video checkpoint; beside the source, ``STEM.video.safetensors``, by default.
        config: a preset's name or a YAML file; what it leaves open is read off the checkpoint.
        time_mode: which parts become temporal: ``all``, ``conv-only`` or ``attn-only``.
        merge_strategy: ``learned`` or ``fixed``.
        alpha: share of the temporal branch at the start; before its sigmoid if ``learned``.
        video_kernel_size: kernel of the time convolutions, one odd number or three.
        attn_type: ``vanilla``, ``vanilla-xformers`` or ``none``.
        seed: of the random part of the temporal start.
        dtype: the type to store in; the source's by default.
        set_: further settings, ``key=value``; the arguments above win over them.
        device: where parity is checked: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        skip_parity: publish without a check, and say so in the file.
        dry_run: make the plan and stop.
        overwrite: replace an existing output.
        progress: told where the work stands.

    Raises:
        InflateError: whatever the caller can mend: input, configuration, device or destination.
    """
    started = time.perf_counter()
    source = Path(source)
    destination = default_output(source) if output is None else Path(output)
    chosen = {
        "temporal.time_mode": time_mode,
        "temporal.merge_strategy": merge_strategy,
        "temporal.alpha": alpha,
        "temporal.video_kernel_size": video_kernel_size,
        "architecture.attn_type": attn_type,
        "seed": seed,
        "dtype": dtype,
    }
    layers: list[Settings] = [
        read_config(config) if config is not None else {},
        parse_set(set_),
        {key: value for key, value in chosen.items() if value is not None},
    ]
    where = resolve_device(device)
    with open_checkpoint(source) as checkpoint:
        image = describe(checkpoint, *layers)
        plan = make_plan(image.located, image.config, source)
        planned = time.perf_counter()
        if dry_run:
            return ConversionResult(plan, None, None, None, {"plan": planned - started})
        _check_paths(source, destination, overwrite=overwrite)
        with stage(destination, overwrite=overwrite) as staged, ThreadPoolExecutor(1) as hasher:
            source_hash = hasher.submit(hash_files, checkpoint.files)
            tensors = planned_tensors(plan, image.checkpoint, progress)
            metadata = _metadata(plan.config, source.name)
            staged.write([t.info for t in plan.tensors], tensors, metadata)
            written = time.perf_counter()
            parity, metadata = None, metadata | {"inflate.source.sha256": source_hash.result()}
            if not skip_parity:
                parity = _check_staged(
                    image, staged, source_hash.result(), plan.config, where, progress
                )
                metadata["inflate.parity.verdict"] = parity.verdict
                metadata["inflate.parity.device"] = parity.environment.device
            checked = time.perf_counter()
            sha256 = None
            if parity is None or parity.passed:
                staged.set_metadata(metadata)
                sha256 = hash_file(staged.path)
                staged.publish()
        if parity is not None and sha256 is not None:
            parity = parity.of_candidate(str(destination), sha256)
    seconds = {
        "plan": planned - started,
        "write": written - planned,
        "parity": checked - written,
        "publish": time.perf_counter() - checked,
        "total": time.perf_counter() - started,
    }
    return ConversionResult(plan, parity, destination if sha256 else None, sha256, seconds)


def verify(
    reference: str | Path,
    candidate: str | Path | None = None,
    *,
    atol: float | None = None,
    rtol: float | None = None,
    device: str = "auto",
    dtype: str = "float32",
    seed: int = 0,
    merge_strategy: str | None = None,
    progress: Progress = silent,
) -> ParityReport:
    """Compare a video checkpoint with the image checkpoint it comes from.

    Args:
        reference: the image checkpoint; alone, a video checkpoint that is compared with its own
            image layers.
        candidate: the video checkpoint.
        atol: largest absolute error; that of the type computed in by default.
        rtol: largest error relative to the reference, likewise.
        device: where to compute.
        dtype: the type to compute in.
        seed: of the probes' latents.
        merge_strategy: how the candidate blends, where its file does not say.
        progress: told where the work stands.

    Raises:
        InflateError: whatever the caller can mend.
    """
    if dtype not in COMPUTE_TYPES:
        raise ConfigError(f"--dtype is {dtype!r}; expected one of {', '.join(COMPUTE_TYPES)}")
    for name, value in (("--atol", atol), ("--rtol", rtol)):
        if value is not None and not 0.0 <= value < math.inf:
            raise ConfigError(f"{name} is {value}; expected a finite number, 0 or more")
    where = resolve_device(device)
    compute = getattr(torch, dtype)
    default = TOLERANCES[dtype]
    tolerance = Tolerance(
        default if atol is None else atol,
        default if rtol is None else rtol,
    )
    video_path = Path(reference if candidate is None else candidate)
    given = {} if merge_strategy is None else {"temporal.merge_strategy": merge_strategy}
    with ExitStack() as stack, ThreadPoolExecutor(1) as hasher:
        video = describe(stack.enter_context(open_checkpoint(video_path)), given)
        video_hash = hasher.submit(hash_file, video_path)
        if not video.inflated:
            raise FamilyError(
                f"{video_path} is an image autoencoder: its decoder has no temporal layers; "
                "expected a video checkpoint"
                + (" as the candidate" if candidate else ", or two files: REFERENCE CANDIDATE")
            )
        if candidate is None:
            comparands = against_itself(video, compute, where)
            reference_hash = video_hash
        else:
            image_path = Path(reference)
            image = describe(stack.enter_context(open_checkpoint(image_path)))
            if image.inflated:
                raise FamilyError(
                    f"{image_path} is a video checkpoint; expected the image checkpoint first: "
                    "inflate verify REFERENCE CANDIDATE"
                )
            reference_hash = hasher.submit(hash_file, image_path)
            comparands = against_source(image, video, compute, where)
        return run_check(
            comparands,
            reference=(str(reference), reference_hash.result()),
            candidate=(str(video_path), video_hash.result()),
            dtype=compute,
            device=where,
            tolerance=tolerance,
            seed=seed,
            progress=progress,
        )


def default_output(source: Path) -> Path:
    """Where a conversion goes by default: beside its source, ``STEM.video.safetensors``."""
    return source.with_name(f"{source.stem}.video.safetensors")


def _check_paths(source: Path, destination: Path, *, overwrite: bool) -> None:
    try:
        if destination.exists() and source.exists() and destination.samefile(source):
            raise OutputError(f"{destination} is the source itself; choose another name with -o")
        check_destination(destination, overwrite=overwrite)
    except OSError as error:  # A name that is too long, or a folder that may not be looked into.
        raise OutputError(f"{destination} cannot be written: {error.strerror}") from error


def _metadata(config: Config, source_name: str) -> dict[str, str]:
    """The header of a file that is not verified yet; no dates or paths, so equal work is equal."""
    return {
        "format": "pt",
        "inflate.version": __version__,
        "inflate.source.name": source_name,
        "inflate.source.sha256": "",
        CONFIG_KEY: json.dumps(asdict(config), sort_keys=True),
        "inflate.seed": str(config.seed),
        "inflate.parity.verdict": "unverified",
        "inflate.parity.device": "none",
    }


def _check_staged(
    image: Source,
    staged: StagedFile,
    source_hash: str,
    config: Config,
    device: torch.device,
    progress: Progress,
) -> ParityReport:
    """Read the staged file back and compare it with its source, in float32."""
    tolerance = TOLERANCES["float32"]
    with open_checkpoint(staged.path) as written:
        return run_check(
            against_source(image, describe(written), torch.float32, device),
            reference=(str(image.checkpoint.path), source_hash),
            candidate=(str(staged.destination), ""),
            dtype=torch.float32,
            device=device,
            tolerance=Tolerance(tolerance, tolerance),
            seed=config.seed,
            progress=progress,
        )
