"""The making of one output: staged, checked, published."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from inflate.formats.fingerprint import fingerprint, fingerprint_of
from inflate.formats.recorded import (
    FINGERPRINT_KEY,
    SOURCE_FINGERPRINT_KEY,
    SOURCE_HASH_KEY,
)
from inflate.formats.targets import container_of
from inflate.inflation.apply import Digests, carry_out, copy_as_is
from inflate.io.files import hash_files
from inflate.io.ranges import partial_of
from inflate.io.staging import Staged, saying_why, stage
from inflate.io.torch_writer import open_writer
from inflate.parity.result import ParityReport, compared_with
from inflate.progress import Progress
from inflate.vocabulary import COMPARED_WITH_KEY, DEVICE_KEY, VERDICT_KEY
from inflate.workflow.header import header_of
from inflate.workflow.planning import Job


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
        known[DEVICE_KEY] = parity.environment.device
    return known
