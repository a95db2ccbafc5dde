"""The making of one output: planned in its layout, staged, checked, published."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from inflate.checkpoint.files import find_files, hash_file, hash_files
from inflate.checkpoint.following import Mark, hash_behind, sync_behind
from inflate.checkpoint.reader import open_checkpoint
from inflate.checkpoint.recorded import SOURCE_HASH_KEY
from inflate.checkpoint.staging import Staged, saying_why, stage
from inflate.checkpoint.writer import SafetensorsWriter
from inflate.inflation.apply import planned_tensors
from inflate.inflation.plan import InflationPlan, make_copy_plan, make_plan
from inflate.inflation.targets import Fitted, fit, learned_alpha
from inflate.loading import Source, describe
from inflate.options import ConvertOptions
from inflate.parity import learning
from inflate.parity.comparands import against_source, against_video
from inflate.parity.device import device_name
from inflate.parity.diffusers import against_export
from inflate.parity.metrics import TOLERANCES, Tolerance
from inflate.parity.result import FoldResult, ParityReport, TrainabilityResult, compared_with
from inflate.parity.trainability import predict_from_plan
from inflate.parity.verify import run_check
from inflate.progress import Progress
from inflate.vocabulary import COMPARED_WITH_KEY, VERDICT_KEY, Target
from inflate.workflow.ahead import hash_source
from inflate.workflow.folding import fold_as_asked
from inflate.workflow.header import header_of
from inflate.workflow.identity import temporal_attention_is_identity


@dataclass(frozen=True)
class Job:
    """What is to be made of what: the source as it is seen, and its plan in the target's layout."""

    source: Source
    target: Target
    fitted: Fitted
    folded: bool
    fold: FoldResult | None

    @property
    def plan(self) -> InflationPlan:
        """The plan, in the target's layout."""
        return self.fitted.plan

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever uses the result should know, in words."""
        return (
            *self.source.located.notes,
            *self.source.blend_notes,
            *learning.notes(self.trainability),
            *self.fitted.notes,
        )

    @cached_property
    def trainability(self) -> TrainabilityResult | None:
        """When each temporal tensor will learn; None for the copy of a video checkpoint."""
        return predict_from_plan(self.plan)


@dataclass(frozen=True)
class Made:
    """What came of a job; the hash is None where parity did not hold and nothing was published."""

    parity: ParityReport | None
    sha256: str | None
    written: float
    checked: float
    source_sha256: str


def prepare(
    original: Source,
    target: Target,
    device: torch.device,
    options: ConvertOptions,
    *,
    copying: bool,
) -> Job:
    """Plan what becomes of a source.

    Args:
        original: the autoencoder of the source.
        target: the layout to write.
        device: where the fold is measured.
        options: whether post_quant_conv is folded, and whether the border may change by it.
        copying: whether the source is a video checkpoint, to be copied as it is.

    Raises:
        PlanError: the source does not fit its architecture, or the layout cannot hold it.
    """
    seen, fold = original, None
    folded = options.post_quant == "fold"
    if folded:
        seen, fold = fold_as_asked(original, target, device, allow_inexact=options.allow_inexact)
    seen = _blended_for(seen, target, copying=copying)
    path = original.checkpoint.path
    plan = (make_copy_plan if copying else make_plan)(seen.located, seen.config, path)
    identity = not copying or temporal_attention_is_identity(seen)
    fitted = fit(plan, target, attention_is_identity=identity)
    return Job(seen, target, fitted, folded, fold)


def produce(
    job: Job,
    source_name: str,
    destination: Path,
    device: torch.device | None,
    *,
    overwrite: bool,
    progress: Progress,
    announce: Callable[[Made, Path], None],
    fallback: bool = False,
) -> Made:
    """Write under a hidden name, check on ``device`` unless it is None, announce, and publish.

    ``fallback`` says that the CPU checks for want of a GPU.

    Raises:
        InflateError: the source cannot be read, has changed meanwhile, or the destination cannot be
            written.
    """
    config = job.fitted.folder_config
    blend = job.source.blend
    header = header_of(job.plan, source_name, job.target, folded=job.folded, blend=blend)
    files = job.source.checkpoint.files
    with (
        stage(destination, files.read, overwrite=overwrite, folder_config=config) as staged,
        ThreadPoolExecutor(3) as pool,
        closing(Mark()) as mark,
    ):
        source_hash = pool.submit(copy_context().run, hash_source, files)
        writer = SafetensorsWriter(staged.file)

        def head() -> bytes:
            return writer.header(_verified(job, header, source_hash.result(), "bitwise", device))

        weights = Path(staged.file.name)
        staged_hash = pool.submit(hash_behind, mark, weights, head)
        synced = pool.submit(sync_behind, mark, staged.file.fileno())
        with saying_why(destination, job.plan.nbytes):
            tensors = planned_tensors(job.plan, job.source.checkpoint, progress)
            infos = [tensor.info for tensor in job.plan.tensors]
            writer.write(infos, tensors, header, mark.reach)
            mark.end()
        written = time.perf_counter()
        parity = None
        if device is not None:
            parity = _check(job, staged, source_hash.result(), device, progress, fallback=fallback)
        checked = time.perf_counter()
        if parity is not None and not parity.passed:
            return Made(parity, None, written, checked, source_hash.result())
        verdict = "unverified" if parity is None else parity.verdict
        with saying_why(destination):
            writer.set_metadata(_verified(job, header, source_hash.result(), verdict, device))
            synced.result()
        known = {weights: staged_hash.result()} if verdict in ("unverified", "bitwise") else {}
        sha256 = hash_files(
            find_files(staged.path), lambda path: known.get(path) or hash_file(path)
        )
        made = Made(parity, sha256, written, checked, source_hash.result())
        announce(made, staged.path)
        staged.publish()
    return made


def _verified(
    job: Job,
    header: Mapping[str, str],
    source_hash: str,
    verdict: str,
    device: torch.device | None,
) -> dict[str, str]:
    """A header with what is known after the check, if there is one."""
    known = {SOURCE_HASH_KEY: source_hash}
    if device is not None:
        known[VERDICT_KEY] = verdict
        known[COMPARED_WITH_KEY] = compared_with(job.fold)
        known["inflate.parity.device"] = device_name(device)
    return {**header, **known}


def _blended_for(seen: Source, target: Target, *, copying: bool) -> Source:
    """The source with its fixed blend as the learned one that diffusers reads, to start from."""
    temporal = seen.config.temporal
    if target != "diffusers" or temporal.merge_strategy == "learned":
        return seen
    if not 0.0 < temporal.alpha < 1.0:
        return seen  # No sigmoid reaches it, which is told with whatever else is in the way.
    learned = replace(temporal, merge_strategy="learned", alpha=learned_alpha(temporal.alpha))
    config = replace(seen.config, temporal=learned)
    if copying:
        return seen.with_learned_blend(config)
    return replace(seen, config=config)


def _check(
    job: Job,
    staged: Staged,
    source_hash: str,
    device: torch.device,
    progress: Progress,
    *,
    fallback: bool,
) -> ParityReport:
    """Read what was staged back and compare it with its source, in float32."""
    tolerance = TOLERANCES["float32"]
    reference = job.source
    with open_checkpoint(staged.path) as checkpoint:
        candidate = describe(checkpoint)
        if job.target == "diffusers":
            comparands = against_export(reference, candidate, staged.path, device)
        elif reference.inflated:
            comparands = against_video(reference, candidate, torch.float32, device)
        else:
            comparands = against_source(reference, candidate, torch.float32, device)
        return run_check(
            comparands,
            reference=(str(reference.checkpoint.path), source_hash),
            candidate=(str(staged.destination), ""),
            dtype=torch.float32,
            device=device,
            tolerance=Tolerance(tolerance, tolerance),
            seed=job.plan.config.seed,
            fold=job.fold,
            fallback=fallback,
            progress=progress,
        )
