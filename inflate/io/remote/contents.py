"""What is known of a remote file, and whether a copy of it is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Digest:
    """A hash that a store gives for a file: ``md5`` or ``sha256``, in lower-case hexadecimal."""

    algorithm: str
    value: str


@dataclass(frozen=True)
class RemoteFile:
    """A file as its store describes it.

    ``version`` changes whenever the content does, and is empty where the store tells nothing to go
    by: neither an ETag or a hash, nor a time of change.
    """

    name: str
    size: int
    version: str
    digests: tuple[Digest, ...] = ()


def hashes_of(path: Path, algorithms: Iterable[str]) -> dict[str, str]:
    """Several hashes of a file, which is read once."""
    running = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            for hashing in running.values():
                hashing.update(block)
    return {name: hashing.hexdigest() for name, hashing in running.items()}


def algorithms_for(file: RemoteFile) -> set[str]:
    """The hashes to take of a copy: those that its store gives, and the one kept beside it."""
    return {"sha256", *(digest.algorithm for digest in file.digests)}


def difference(size: int, hashes: Mapping[str, str], file: RemoteFile) -> str | None:
    """How a copy differs from what its store describes, in words; None where it does not."""
    if size != file.size:
        return f"{size:,} bytes instead of {file.size:,}"
    for digest in file.digests:
        ours = hashes.get(digest.algorithm)
        if ours is not None and ours != digest.value:
            return f"{digest.algorithm} {ours} instead of {digest.value}"
    return None
