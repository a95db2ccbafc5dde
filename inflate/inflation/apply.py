"""Carry out a plan: copy or make each tensor, hash it, and write it to its place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from queue import SimpleQueue

from inflate.errors import PlanError
from inflate.inflation.initializers import ZEROS, draw_chunks
from inflate.inflation.plan import InflationPlan, PlannedTensor
from inflate.io.arrays import Array, Bytes, aligned_zeros, bytes_of, cast, is_finite, np
from inflate.io.reader import Checkpoint
from inflate.io.writer import TensorWriter
from inflate.progress import Progress

_WORKERS = 2
_PIECE = 1 << 22
"""Bytes that a worker handles at once: they fit into a CPU cache, but are enough that it seldom
waits for the interpreter, which is busy loading torch."""

_SYNCED = 64 << 20
"""Flush to disk after this many bytes, so that the final flush is short."""


@dataclass(frozen=True)
class Digests:
    """The SHA-256 of each tensor's bytes, by key: as stored in the source, and as written."""

    source: Mapping[str, str]
    written: Mapping[str, str]


@dataclass(frozen=True)
class _Written:
    """The digests of one tensor, and its problem, if any."""

    digest: str
    source_digest: str | None = None
    problem: str | None = None


def carry_out(
    plan: InflationPlan, checkpoint: Checkpoint, writer: TensorWriter, progress: Progress
) -> Digests:
    """Write every tensor of a plan in its stored type.

    Raises:
        CheckpointError: a tensor of the source cannot be read.
        OSError: the file cannot be written.
        PlanError: weights are not finite, or not finite after the cast; raised once for all,
            after the last tensor.
    """
    buffers: SimpleQueue[Bytes] = SimpleQueue()  # Touching new memory costs more than writing.
    for _ in range(_WORKERS):
        buffers.put(aligned_zeros(_PIECE))

    def write(planned: PlannedTensor) -> _Written:
        if planned.origin == ZEROS:  # The reserved space reads as zeros.
            return _Written(_digest_of_zeros(planned.info.nbytes))
        buffer = buffers.get()
        try:
            return _write(planned, checkpoint, plan.config.seed, writer, buffer)
        finally:
            buffers.put(buffer)

    total = len(plan.tensors)
    progress("writing", 0, total)
    found: dict[str, _Written] = {}
    unsynced = 0
    pool = ThreadPoolExecutor(_WORKERS)
    try:
        for planned, written in zip(plan.tensors, pool.map(write, plan.tensors), strict=True):
            found[planned.key] = written
            progress("writing", len(found), total)
            unsynced += planned.info.nbytes
            if unsynced >= _SYNCED:
                writer.sync()
                unsynced = 0
    finally:
        pool.shutdown(cancel_futures=True)
    problems = [written.problem for written in found.values() if written.problem]
    if problems:
        raise PlanError("weights that are not finite cannot be converted:", problems)
    return Digests(
        {key: written.source_digest for key, written in found.items() if written.source_digest},
        {key: written.digest for key, written in found.items()},
    )


def copy_as_is(checkpoint: Checkpoint, writer: TensorWriter) -> None:
    """Copy every tensor of a file byte for byte, in any type.

    Raises:
        CheckpointError: a tensor cannot be read.
        OSError: the file cannot be written.
    """
    buffer = aligned_zeros(_PIECE)
    for name in checkpoint.tensors:
        position = writer.position(name)
        for piece in checkpoint.pieces(name, buffer):
            writer.write(bytes_of(piece), position)
            position += piece.nbytes


def _write(
    planned: PlannedTensor, checkpoint: Checkpoint, seed: int, writer: TensorWriter, buffer: Bytes
) -> _Written:
    """Copy or make a tensor in pieces, each of which is checked, hashed and written at once."""
    copied = isinstance(planned.origin, str)
    recast = copied and checkpoint.tensors[planned.key].dtype != planned.dtype
    read, written, finite = hashlib.sha256(), hashlib.sha256(), True
    position = writer.position(planned.info.name)
    for piece in _pieces(planned, checkpoint, seed, buffer):
        if recast:
            read.update(bytes_of(piece))
        stored = cast(piece, planned.dtype)
        finite = finite and is_finite(stored)
        content = bytes_of(stored)
        written.update(content)
        writer.write(content, position)
        position += content.nbytes
    digest = written.hexdigest()
    source = (read.hexdigest() if recast else digest) if copied else None
    return _Written(digest, source, None if finite else _not_finite(planned, checkpoint))


def _pieces(
    planned: PlannedTensor, checkpoint: Checkpoint, seed: int, buffer: Bytes
) -> Iterator[Array]:
    if isinstance(planned.origin, str):
        return checkpoint.pieces(planned.key, buffer)
    made = draw_chunks(planned.origin, planned.shape, planned.key, seed, _PIECE // 4)
    return map(np.ascontiguousarray, made)  # A constant is stored once.


@cache
def _digest_of_zeros(nbytes: int) -> str:
    """The SHA-256 of ``nbytes`` zeros, cached: most tensors of zeros share a few sizes."""
    piece, digest = bytes(_PIECE), hashlib.sha256()
    for start in range(0, nbytes, _PIECE):
        digest.update(piece[: nbytes - start])
    return digest.hexdigest()


def _not_finite(planned: PlannedTensor, checkpoint: Checkpoint) -> str:
    """The problem of a tensor, with the number of affected values."""
    if not isinstance(planned.origin, str):
        return f"{planned.key}, made as {planned.origin}, overflows in {planned.dtype}"
    numbers = checkpoint.read(planned.key).astype(np.float64)
    bad = int((~np.isfinite(numbers)).sum())
    if bad:
        return f"{planned.origin} holds NaN or infinity ({bad} of {numbers.size} values)"
    stored = cast(numbers, planned.dtype).astype(np.float64)
    lost = int((~np.isfinite(stored)).sum())
    return (
        f"{planned.origin} overflows in {planned.dtype} ({lost} of {numbers.size} values, the "
        f"largest {abs(numbers).max():.4g}); store it in bfloat16 or float32"
    )
