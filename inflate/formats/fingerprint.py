"""One hash for the weights of an autoencoder, independent of the file format.

The same weights have the same fingerprint in every container, file type and layout, and under
every prefix: it covers LDM's names and shapes, the types, and the bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from inflate.formats.locate import in_ldm_shapes
from inflate.io.arrays import aligned_zeros, bytes_of
from inflate.io.index import TensorInfo
from inflate.io.reader import Checkpoint

_WORKERS = 2
_PIECE = 1 << 20


def fingerprint(tensors: Mapping[str, TensorInfo], digests: Mapping[str, str]) -> str:
    """The fingerprint of tensors by LDM's keys, from the SHA-256 of each tensor's bytes."""
    lines = sorted(
        [key, info.dtype, list(info.shape), digests[key]]
        for key, info in in_ldm_shapes(tensors).items()
    )
    return hashlib.sha256(json.dumps(lines, separators=(",", ":")).encode()).hexdigest()


def fingerprint_of(autoencoder: Checkpoint, known: Mapping[str, str] | None = None) -> str:
    """The fingerprint of an autoencoder under LDM's keys; reads all its tensors.

    ``known`` has digests by key that need not be computed again.

    Raises:
        CheckpointError: a tensor cannot be read.
    """
    digests = dict(known or {})
    missing = [key for key in autoencoder.tensors if key not in digests]
    with ThreadPoolExecutor(_WORKERS) as pool:
        digests.update(zip(missing, pool.map(partial(_digest, autoencoder), missing), strict=True))
    return fingerprint(autoencoder.tensors, digests)


def _digest(checkpoint: Checkpoint, key: str) -> str:
    digest = hashlib.sha256()
    for piece in checkpoint.pieces(key, aligned_zeros(_PIECE)):
        digest.update(bytes_of(piece))
    return digest.hexdigest()
