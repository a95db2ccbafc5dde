"""What a store says about a remote file: its size, version and hashes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What stores call a mark that changes with the content, and the time of a change; best first.
# fmt: off
_MARKS = (
    "ETag", "etag", "e_tag", "md5Hash", "md5", "sha", "generation", "VersionId",
    "LastModified", "Last-Modified", "last_modified", "mtime", "modified", "modify",
    "modificationTime", "updated", "created",
)
# fmt: on
_LENGTHS = {"md5": 16, "sha256": 32}


@dataclass(frozen=True)
class RemoteFile:
    """A file as its store describes it.

    ``version`` changes whenever the content does; it is empty where the store gives neither an
    ETag or a hash, nor a time of change. ``digests`` are hexadecimal, by algorithm.
    """

    name: str
    size: int
    version: str
    digests: Mapping[str, str] = field(default_factory=dict)

    def check(self, path: Path) -> str | None:
        """How a copy differs from this file; None where it does not."""
        size = path.stat().st_size
        if size != self.size:
            return f"{size:,} bytes instead of {self.size:,}"
        return self.compare(hashes_of(path, self.digests))

    def compare(self, hashes: Mapping[str, str]) -> str | None:
        """Which of the hashes of a copy differs from the store's; None where none does."""
        for name, value in self.digests.items():
            if hashes.get(name, value) != value:
                return f"{name} {hashes[name]} instead of {value}"
        return None


def hashes_of(path: Path, algorithms: Iterable[str]) -> dict[str, str]:
    """Several hashes of a file, in hexadecimal; the file is read once."""
    running = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    if not running:
        return {}
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            for hashing in running.values():
                hashing.update(block)
    return {name: hashing.hexdigest() for name, hashing in running.items()}


def version_of(info: Mapping[str, Any]) -> str:
    """A text that differs for each version of a file; empty if the store provides none.

    A size does not do: a checkpoint that was trained further has the size it had before.
    """
    return next((f"{mark}={info[mark]}" for mark in _MARKS if info.get(mark)), "")


def digests_of(fs: Any, scheme: str, url: str, info: Mapping[str, Any]) -> dict[str, str]:
    """The hashes that a store gives for a file, by algorithm."""
    if scheme in ("s3", "s3a"):
        bucket, key, _ = fs.split_path(url)
        return dict(_of_s3(bucket, fs.call_s3("head_object", Bucket=bucket, Key=key)))
    if scheme in ("gs", "gcs"):
        return _decoded("md5", info.get("md5Hash"))
    if scheme in ("http", "https"):
        found = _decoded("md5", info.get("Content-MD5"))
        for part in str(info.get("Digest", "")).split(","):
            name, _, value = part.strip().partition("=")
            found |= _decoded("sha256", value) if name.lower() == "sha-256" else {}
        return found
    return {}


def _of_s3(bucket: str, head: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    # The ETag is the MD5 of what was sent in one piece and is not encrypted with a key of KMS or of
    # the client's; a directory bucket (--x-s3) makes ETags of its own kind.
    etag = str(head.get("ETag", "")).strip('"').lower()
    plain = head.get("ServerSideEncryption") in (None, "AES256")
    plain = plain and not head.get("SSECustomerAlgorithm") and not bucket.endswith("--x-s3")
    if plain and re.fullmatch("[0-9a-f]{32}", etag):
        yield "md5", etag
    ours = str(head.get("Metadata", {}).get("sha256", "")).lower()
    if re.fullmatch("[0-9a-f]{64}", ours):
        yield "sha256", ours


def _decoded(algorithm: str, text: object) -> dict[str, str]:
    """A hash given in base64; nothing where the text is not one."""
    try:
        raw = base64.b64decode(str(text or ""), validate=True)
    except binascii.Error:
        return {}
    return {algorithm: raw.hex()} if len(raw) == _LENGTHS[algorithm] else {}
