"""Carry out a plan: copy or make each tensor, hash it, and write it to its place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from queue import SimpleQueue

from inflate.errors import PlanError
from inflate.inflation.initializers import ZEROS, Rule, draw_chunks
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
        buffer = buffers.get()
        try:
            output = _Output(writer, planned, buffer)
            if isinstance(planned.origin, str):
                return _copy(planned, checkpoint, output)
            return _make(planned, planned.origin, plan.config.seed, output)
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


def copy_as_is(checkpoint: Checkpoint, names: Iterable[str], writer: TensorWriter) -> None:
    """Copy tensors of a file byte for byte, in any type.

    Raises:
        CheckpointError: a tensor cannot be read.
        OSError: the file cannot be written.
    """
    buffer = aligned_zeros(_PIECE)
    for name in names:
        position, extent = writer.position(name), checkpoint.extent(name)
        if extent is None:
            writer.write(bytes_of(checkpoint.read(name).reshape(-1)), position)
            continue
        for start in range(0, extent.nbytes, _PIECE):
            piece = buffer[: extent.nbytes - start]
            extent.file.read_into(piece.data, extent.offset + start)
            writer.write(piece.data, position + start)


class _Output:
    """One tensor that is hashed and written in pieces."""

    def __init__(self, writer: TensorWriter, planned: PlannedTensor, buffer: Bytes) -> None:
        self.buffer = buffer
        self._writer = writer
        self._position = writer.position(planned.info.name)
        self._digest = hashlib.sha256()

    def add(self, numbers: Array) -> None:
        """Add the next elements."""
        content = bytes_of(numbers)
        self._digest.update(content)
        self._writer.write(content, self._position)
        self._position += content.nbytes

    @property
    def digest(self) -> str:
        """The SHA-256 of what was added."""
        return self._digest.hexdigest()


def _copy(planned: PlannedTensor, checkpoint: Checkpoint, output: _Output) -> _Written:
    same = checkpoint.tensors[planned.key].dtype == planned.dtype
    read = hashlib.sha256()
    finite = True
    for piece in checkpoint.pieces(planned.key, output.buffer):
        if not same:
            read.update(bytes_of(piece))
        stored = cast(piece, planned.dtype)
        finite = finite and is_finite(stored)
        output.add(stored)
    source_digest = output.digest if same else read.hexdigest()
    problem = None if finite else _not_finite(planned, checkpoint)
    return _Written(output.digest, source_digest, problem)


def _make(planned: PlannedTensor, rule: Rule, seed: int, output: _Output) -> _Written:
    if rule == ZEROS:  # The reserved space reads as zeros.
        return _Written(_digest_of_zeros(planned.info.nbytes))
    for piece in draw_chunks(rule, planned.shape, planned.key, seed, _PIECE // 4):
        # A constant is stored once.
        output.add(cast(np.ascontiguousarray(piece), planned.dtype))
    # All elements lie between the bounds: if the bounds are finite, so are the elements.
    bound = cast(np.array([rule.value]), planned.dtype)
    if is_finite(bound):
        return _Written(output.digest)
    problem = f"{planned.key}, made as {rule}, overflows in {planned.dtype}"
    return _Written(output.digest, problem=problem)


@cache
def _digest_of_zeros(nbytes: int) -> str:
    """The SHA-256 of ``nbytes`` zeros, cached: most tensors of zeros share a few sizes."""
    piece, digest = bytes(_PIECE), hashlib.sha256()
    for start in range(0, nbytes, _PIECE):
        digest.update(piece[: nbytes - start])
    return digest.hexdigest()


def _not_finite(planned: PlannedTensor, checkpoint: Checkpoint) -> str:
    """The problem of a tensor, with the number of affected values."""
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
