"""A remote file as its store describes it: size, version and hashes."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Stores' names for a content version and for the time of a change; best first.
# fmt: off
_MARKS = (
    "ETag", "etag", "e_tag", "md5Hash", "md5", "sha", "generation", "VersionId",
    "LastModified", "Last-Modified", "last_modified", "mtime", "modified", "modify",
    "modificationTime", "updated", "created",
)
# fmt: on


@dataclass(frozen=True)
class RemoteFile:
    """A file as its store describes it.

    ``version`` changes whenever the content does; it is empty if the store gives no ETag, no hash
    and no time of change. ``digests`` are hexadecimal, by algorithm.
    """

    name: str
    size: int
    version: str
    digests: Mapping[str, str] = field(default_factory=dict)

    def check(self, path: Path) -> str | None:
        """How a copy differs from this file; None if it does not."""
        size = path.stat().st_size
        hashes = hashes_of(path, self.digests) if size == self.size else {}
        return self.compare(size, hashes)

    def compare(self, size: int, hashes: Mapping[str, str]) -> str | None:
        """How the size and hashes of a copy differ from those of this file."""
        if size != self.size:
            return f"{size:,} bytes instead of {self.size:,}"
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
    """A string that differs for each version of a file, independent of its size; or empty."""
    return next((f"{mark}={info[mark]}" for mark in _MARKS if info.get(mark)), "")


def digests_of(fs: Any, store: str, url: str, info: Mapping[str, Any]) -> dict[str, str]:
    """The hashes that a store gives for a file, by algorithm."""
    if store == "gs" and info.get("md5Hash"):
        return {"md5": base64.b64decode(info["md5Hash"]).hex()}
    if store != "s3":
        return {}
    found = {}
    bucket, key, _ = fs.split_path(url)
    head = fs.call_s3("head_object", Bucket=bucket, Key=key)
    # The ETag is the MD5 of an upload in one part that is not encrypted with a KMS or client key.
    # Directory buckets (--x-s3) use other ETags.
    etag = str(head.get("ETag", "")).strip('"').lower()
    plain = head.get("ServerSideEncryption") in (None, "AES256")
    plain = plain and not head.get("SSECustomerAlgorithm") and not bucket.endswith("--x-s3")
    if plain and re.fullmatch("[0-9a-f]{32}", etag):
        found["md5"] = etag
    ours = str(head.get("Metadata", {}).get("sha256", "")).lower()
    if re.fullmatch("[0-9a-f]{64}", ours):
        found["sha256"] = ours
    return found
