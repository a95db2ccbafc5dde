"""The making of one output: planned in its layout, staged, checked, published."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open

from inflate.checkpoint.files import find_files, hash_files
from inflate.checkpoint.fingerprint import fingerprint, fingerprint_of
from inflate.checkpoint.reader import open_checkpoint
from inflate.checkpoint.recorded import SOURCE_HASH_KEY
from inflate.checkpoint.source import Source, describe
from inflate.checkpoint.staging import Staged, saying_why, stage
from inflate.checkpoint.writer import SafetensorsWriter
from inflate.inflation.apply import Digests, carry_out
from inflate.inflation.plan import InflationPlan, make_copy_plan, make_plan
from inflate.inflation.targets import Fitted, fit, learned_alpha
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
    """What is to be made of what: the source as it is seen, and its plan in the target's layout.

    ``original`` is the source as its file holds it, ``source`` as it is converted: folded, say.
    """

    original: Source
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
        """Notes for the user of the result."""
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
    """The outcome of a job.

    ``sha256`` is None where parity did not hold and nothing was published; the fingerprints are
    those of the output and of the source.
    """

    parity: ParityReport | None
    sha256: str | None
    written: float
    checked: float
    source_sha256: str
    fingerprint: str
    source_fingerprint: str


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
    return Job(original, seen, target, fitted, folded, fold)


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
        ThreadPoolExecutor(2) as pool,
    ):
        source_hash = pool.submit(copy_context().run, hash_source, files)
        with saying_why(destination, job.plan.nbytes):
            infos = [tensor.info for tensor in job.plan.tensors]
            writer = SafetensorsWriter(staged.file, infos, header)
            digests = carry_out(job.plan, job.source.checkpoint, writer, progress)
        synced = pool.submit(writer.sync)
        prints = _fingerprints(job, digests)
        written = time.perf_counter()
        parity = None
        if device is not None:
            parity = _check(job, staged, source_hash.result(), device, progress, fallback=fallback)
        checked = time.perf_counter()
        if parity is not None and not parity.passed:
            return Made(parity, None, written, checked, source_hash.result(), *prints)
        verdict = "unverified" if parity is None else parity.verdict
        with saying_why(destination):
            writer.set_metadata(_verified(job, header, source_hash.result(), verdict, device))
            synced.result()
        # The library reads what is published: its header at least, and at once.
        with safe_open(staged.file.name, framework="numpy"):
            pass
        sha256 = hash_files(find_files(staged.path))
        made = Made(parity, sha256, written, checked, source_hash.result(), *prints)
        announce(made, staged.path)
        staged.publish()
    return made


def _fingerprints(job: Job, digests: Digests) -> tuple[str, str]:
    """The fingerprints of the output and of the source, of which the most is hashed already."""
    seen, stored = job.source.checkpoint, job.original.checkpoint
    known = {
        key: digest
        for key, digest in digests.source.items()
        if seen.tensors[key] == stored.tensors.get(key)  # Else it was computed.
    }
    output = {tensor.key: tensor.info for tensor in job.plan.tensors}
    return fingerprint(output, digests.written), fingerprint_of(stored, known)


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
        return seen  # No sigmoid reaches it: fit() reports that with the other problems.
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
