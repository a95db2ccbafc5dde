"""The making of one output: planned in its layout, staged, checked, published."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import safe_open

from inflate.formats.fingerprint import fingerprint, fingerprint_of
from inflate.formats.recorded import (
    FINGERPRINT_KEY,
    SOURCE_FINGERPRINT_KEY,
    SOURCE_HASH_KEY,
)
from inflate.formats.source import Source
from inflate.formats.targets import LAYOUTS, container_of
from inflate.inflation.apply import Digests, carry_out, copy_as_is
from inflate.inflation.dead_weight import dead_weight
from inflate.inflation.plan import InflationPlan, make_copy_plan, make_plan
from inflate.inflation.targets import Fitted, fit, learned_alpha
from inflate.io.files import hash_files
from inflate.io.ranges import partial_of
from inflate.io.staging import Staged, saying_why, stage
from inflate.io.torch_writer import open_writer
from inflate.options import ConvertOptions
from inflate.parity.result import FoldResult, ParityReport, compared_with
from inflate.progress import Progress
from inflate.vocabulary import COMPARED_WITH_KEY, VERDICT_KEY, Target
from inflate.workflow.header import header_of
from inflate.workflow.identity import temporal_attention_is_identity
from inflate.workflow.joining import WholeModel


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
    whole: WholeModel | None = None
    """The model whose first stage is replaced, if the result is a copy of one."""

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
            *dead_weight(self.plan),
            *self.fitted.notes,
            *self._taken_over(),
        )

    def _taken_over(self) -> Iterator[str]:
        if self.whole is not None:
            kept, path = len(self.whole.kept), self.whole.checkpoint.path
            yield f"{kept} other tensors are taken over from {path.name} as they are"


@dataclass(frozen=True)
class Fingerprints:
    """The fingerprints of a source and of the output made from it."""

    source: str
    output: str


@dataclass(frozen=True)
class Made:
    """The outcome of a job.

    ``written`` and ``checked`` are times of ``time.perf_counter``.
    """

    parity: ParityReport | None
    fingerprints: Fingerprints
    source_sha256: str | None
    written: float
    checked: float

    @property
    def published(self) -> bool:
        """Whether the output has its name: it has not if parity failed."""
        return self.parity is None or self.parity.passed


Check = Callable[[Job, Staged, Fingerprints, Progress], ParityReport]
"""Compares a staged result with its source; see ``checking``."""


def prepare(
    original: Source,
    target: Target,
    options: ConvertOptions,
    *,
    copying: bool,
    whole_model: WholeModel | None = None,
) -> Job:
    """Plan what becomes of a source.

    Args:
        original: the autoencoder of the source.
        target: the layout to write.
        options: whether post_quant_conv is folded and may change the border, and the device on
            which that is measured.
        copying: whether the source is a video checkpoint, to be copied as it is.
        whole_model: the model whose first stage is replaced.

    Raises:
        PlanError: the source does not fit its architecture, or the layout cannot hold it.
    """
    asked = options.post_quant == "fold"
    quant = original.located.part("post_quant_conv.") or original.located.part("quant_conv.")
    whole = original
    if quant and (asked or LAYOUTS[target].folds):
        from inflate.workflow.folding import folded, folds_encoder

        whole = folded(original, target, encoder=folds_encoder(target))
    if asked and whole.checkpoint is original.checkpoint:
        note = "nothing is folded: the source has no post_quant_conv"
        located = replace(original.located, notes=(*original.located.notes, note))
        whole = replace(original, located=located)
    seen = _blended_for(whole, target, copying=copying)
    path = original.checkpoint.path
    plan = (make_copy_plan if copying else make_plan)(seen.located, seen.config, path)
    identity = not copying or temporal_attention_is_identity(seen)
    fitted = fit(plan, target, attention_is_identity=identity, copying=copying)
    if whole_model is not None:
        whole_model.check(fitted.plan)
    is_folded = whole.checkpoint is not original.checkpoint
    fold = None
    if is_folded:  # Measured last, since it loads torch: misfits are reported at once.
        from inflate.workflow.folding import measured

        fold = measured(original, whole, options)
    return Job(original, seen, target, fitted, is_folded, fold, whole_model)


def produce(
    job: Job,
    source_name: str,
    destination: Path,
    *,
    load_check: Callable[[], Check] | None,
    source_sha256: bool,
    overwrite: bool,
    progress: Progress,
    announce: Callable[[Made, Path], None],
) -> Made:
    """Write under a hidden name, check, announce, and publish.

    ``load_check`` returns the check; None publishes without one. It loads torch, and is called on
    a thread during the writing. ``source_sha256`` also records the SHA-256 of the source's files.

    Raises:
        InflateError: the source cannot be read, has changed meanwhile, or the destination cannot be
            written.
    """
    config = job.fitted.folder_config
    blend = job.source.blend
    copied = job.original.checkpoint.metadata if blend is not None else None
    header = header_of(
        job.plan, source_name, job.target, folded=job.folded, blend=blend, copied=copied
    )
    container = container_of(job.target, destination)
    infos, nbytes = [tensor.info for tensor in job.plan.tensors], job.plan.nbytes
    read, whole = job.source.checkpoint.files.read, job.whole
    if whole is not None:
        header = {**whole.metadata, **header}
        infos += [whole.checkpoint.tensors[name] for name in whole.kept]
        nbytes = sum(info.nbytes for info in infos)
        read = read.joined(whole.checkpoint.files.read)
    files = job.source.checkpoint.files
    with (
        stage(destination, read, overwrite=overwrite, folder_config=config) as staged,
        ThreadPoolExecutor(3) as pool,
    ):
        # The Hub and other stores publish the hash of a file, which costs nothing.
        hashed = source_sha256 or all(partial_of(path) is not None for path in files.all)
        file_hash = pool.submit(hash_files, files) if hashed else None
        loading = None if load_check is None else pool.submit(load_check)
        with saying_why(destination, nbytes):
            writer = open_writer(container, staged.file, infos, header)
            digests = carry_out(job.plan, job.source.checkpoint, writer, progress)
            if whole is not None:
                copy_as_is(whole.checkpoint, whole.kept, writer)
        synced = pool.submit(writer.sync)
        prints = _fingerprints(job, digests)
        written = time.perf_counter()
        parity = None
        if loading is not None:
            if not loading.done():
                progress("loading torch…", 0, 0)
            parity = loading.result()(job, staged, prints, progress)
        checked = time.perf_counter()
        sha256 = None if file_hash is None else file_hash.result() or None
        made = Made(parity, prints, sha256, written, checked)
        if not made.published:
            return made
        with saying_why(destination):
            known = _known(job, made)
            writer.set_metadata({**header, **known})
            synced.result()
        if container == "safetensors":
            # The library reads what is published: its header at least, and at once.
            with safe_open(staged.file.name, framework="numpy"):
                pass
        announce(made, staged.path)
        staged.publish()
    return made


def _fingerprints(job: Job, digests: Digests) -> Fingerprints:
    """Both fingerprints; most tensors were hashed while they were written."""
    seen, stored = job.source.checkpoint, job.original.checkpoint
    known = {
        key: digest
        for key, digest in digests.source.items()
        if seen.tensors[key] == stored.tensors.get(key)  # Else it was computed.
    }
    output = {tensor.key: tensor.info for tensor in job.plan.tensors}
    return Fingerprints(fingerprint_of(stored, known), fingerprint(output, digests.written))


def _known(job: Job, made: Made) -> dict[str, str]:
    """The entries of the header that are known after the writing, and after the check if any."""
    prints, parity = made.fingerprints, made.parity
    known = {FINGERPRINT_KEY: prints.output, SOURCE_FINGERPRINT_KEY: prints.source}
    if made.source_sha256 is not None:
        known[SOURCE_HASH_KEY] = made.source_sha256
    if parity is not None:
        known[VERDICT_KEY] = parity.verdict
        known[COMPARED_WITH_KEY] = compared_with(job.fold)
        known["inflate.parity.device"] = parity.environment.device
    return known


def _blended_for(seen: Source, target: Target, *, copying: bool) -> Source:
    """The source with its fixed blend as the learned one that its reader knows, to start from."""
    temporal = seen.config.temporal
    if not LAYOUTS[target].learned or temporal.merge_strategy == "learned":
        return seen
    if not 0.0 < temporal.alpha < 1.0:
        return seen  # No sigmoid reaches it: fit() reports that with the other problems.
    learned = replace(temporal, merge_strategy="learned", alpha=learned_alpha(temporal.alpha))
    config = replace(seen.config, temporal=learned)
    if copying:
        return seen.with_learned_blend(config)
    return replace(seen, config=config)
