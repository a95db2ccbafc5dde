"""By what marks a store lets one tell contents apart: versions, and hashes to verify copies by."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any

from inflate.io.remote.contents import Digest

# What stores call a mark that changes with the content, and the time of a change; best first.
# fmt: off
_CONTENT_MARKS = ("ETag", "etag", "e_tag", "md5Hash", "md5", "sha", "generation", "VersionId")
_TIME_MARKS = (
    "LastModified", "Last-Modified", "last_modified", "mtime", "modified", "modify",
    "modificationTime", "updated", "created",
)
# fmt: on
_HEX_MD5 = re.compile(r"[0-9a-f]{32}")
_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")


def version_of(info: Mapping[str, Any]) -> str:
    """What tells this content of a file from the next; empty where the store gives nothing.

    A size is no such thing: a checkpoint that was trained further has the size it had before.
    """
    for mark in (*_CONTENT_MARKS, *_TIME_MARKS):
        if info.get(mark):
            return f"{mark}={info[mark]}"
    return ""


def digests_of(fs: Any, scheme: str, url: str, info: Mapping[str, Any]) -> tuple[Digest, ...]:
    """The hashes that a store gives for a file."""
    if scheme in ("s3", "s3a"):
        bucket, key, _ = fs.split_path(url)
        return tuple(_of_s3(bucket, fs.call_s3("head_object", Bucket=bucket, Key=key)))
    if scheme in ("gs", "gcs"):
        return tuple(_decoded("md5", info.get("md5Hash")))
    if scheme in ("http", "https"):
        return tuple(_of_headers(info))
    return ()


def _of_s3(bucket: str, head: Mapping[str, Any]) -> Iterator[Digest]:
    # The ETag is the MD5 of what was sent in one piece and is not encrypted with a key of KMS or of
    # the client's; a directory bucket (--x-s3) makes ETags of its own kind.
    etag = str(head.get("ETag", "")).strip('"').lower()
    plain = head.get("ServerSideEncryption") in (None, "AES256")
    plain = plain and not head.get("SSECustomerAlgorithm") and not bucket.endswith("--x-s3")
    if plain and _HEX_MD5.fullmatch(etag):
        yield Digest("md5", etag)
    ours = str(head.get("Metadata", {}).get("sha256", "")).lower()
    if _HEX_SHA256.fullmatch(ours):
        yield Digest("sha256", ours)


def _of_headers(info: Mapping[str, Any]) -> Iterator[Digest]:
    yield from _decoded("md5", info.get("Content-MD5"))
    for part in str(info.get("Digest", "")).split(","):
        name, _, value = part.strip().partition("=")
        if name.lower() == "sha-256":
            yield from _decoded("sha256", value)


def _decoded(algorithm: str, text: object) -> Iterator[Digest]:
    """A hash given in base64; nothing where the text is not one."""
    if not text:
        return
    try:
        raw = base64.b64decode(str(text), validate=True)
    except binascii.Error:
        return
    if len(raw) == {"md5": 16, "sha256": 32}[algorithm]:
        yield Digest(algorithm, raw.hex())
