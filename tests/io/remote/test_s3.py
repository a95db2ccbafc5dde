"""Fetching from and publishing to S3: moto's server, a process of its own on the loopback."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

import inflate
from inflate.errors import CheckpointError, OutputError
from inflate.io.location import parse
from inflate.io.remote import check_destination, fetch, publish
from inflate.io.stores import open_store

from ...checkpoints import autoencoder, prefixed, write_safetensors
from .conftest import ProgressRecord, whole_files

pytestmark = pytest.mark.slow

BODY = bytes(range(256)) * 1024


def put(s3: Any, key: str, body: bytes = BODY, **options: Any) -> str:
    """Store an object, and give its URL."""
    s3.put_object(Bucket="weights", Key=key, Body=body, **options)
    return f"s3://weights/{key}"


def keys(s3: Any) -> list[str]:
    """All objects."""
    return [e["Key"] for e in s3.list_objects_v2(Bucket="weights").get("Contents", ())]


def test_parts_of_a_file_are_read(s3: Any, tmp_path: Path) -> None:
    foreign = {"model.diffusion_model.weight": torch.zeros(1_500_000)}
    local = write_safetensors(tmp_path / "m.safetensors", prefixed(autoencoder()) | foreign)
    publish(local, "s3://weights/m.safetensors", overwrite=False)
    result = inflate.convert("s3://weights/m.safetensors", tmp_path / "a", skip_parity=True)
    inflate.convert(local, tmp_path / "b", skip_parity=True, source_sha256=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert result.source_sha256 == hashlib.sha256(local.read_bytes()).hexdigest()


def test_a_file_is_published_and_verified(
    s3: Any, tmp_path: Path, progress: ProgressRecord
) -> None:
    ours = tmp_path / "x"
    ours.write_bytes(BODY)
    check_destination("s3://weights/out/v.safetensors", overwrite=False)
    publish(ours, "s3://weights/out/v.safetensors", overwrite=False, progress=progress)
    assert progress.last == ("uploading", len(BODY), len(BODY))
    assert keys(s3) == ["out/v.safetensors"]
    head = s3.head_object(Bucket="weights", Key="out/v.safetensors")
    assert head["Metadata"] == {"sha256": hashlib.sha256(BODY).hexdigest()}
    assert fetch("s3://weights/out/v.safetensors").read_bytes() == BODY


def test_a_key_that_is_taken_meanwhile_is_refused(s3: Any, tmp_path: Path) -> None:
    ours = tmp_path / "x"
    ours.write_bytes(BODY)

    def steal(phase: str, done: int, total: int) -> None:
        put(s3, "v.safetensors", b"theirs")

    with pytest.raises(OutputError):
        publish(ours, "s3://weights/v.safetensors", overwrite=False, progress=steal)
    assert s3.get_object(Bucket="weights", Key="v.safetensors")["Body"].read() == b"theirs"


def test_a_large_file_goes_in_parts_and_is_verified_by_its_sha256(
    s3: Any, tmp_path: Path, progress: ProgressRecord, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda *_, **__: 5 << 20)
    ours, body = tmp_path / "x", BODY * 44
    ours.write_bytes(body)
    publish(ours, "s3://weights/v.safetensors", overwrite=False, progress=progress)
    assert len({done for _, done, _ in progress.calls}) > 2
    store = open_store(parse("s3://weights/v.safetensors", CheckpointError))
    found = store.stat("v.safetensors")
    assert found is not None
    assert "-" in found.version, "an upload in parts has no MD5"
    assert found.digests == {"sha256": hashlib.sha256(body).hexdigest()}
    assert fetch("s3://weights/v.safetensors").read_bytes() == body
    assert s3.list_multipart_uploads(Bucket="weights").get("Uploads", []) == []
    put(s3, "w.safetensors", body, Metadata={"sha256": "0" * 64})
    with pytest.raises(CheckpointError):
        fetch("s3://weights/w.safetensors")
    assert whole_files(cache) == ["v.safetensors"]


def test_an_upload_that_fails_half_way_leaves_nothing(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda *_, **__: 5 << 20)
    ours = tmp_path / "x"
    ours.write_bytes(BODY * 44)

    def fail(phase: str, done: int, total: int) -> None:
        if done:
            raise ConnectionResetError

    with pytest.raises(OutputError):
        publish(ours, "s3://weights/v.safetensors", overwrite=False, progress=fail)
    assert keys(s3) == []
    assert s3.list_multipart_uploads(Bucket="weights").get("Uploads", []) == []


def test_an_object_with_a_wrong_md5_is_not_used(
    s3: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3fs import S3FileSystem

    url = put(s3, "vae.ckpt")
    original = S3FileSystem.get_file

    def harm(self: Any, remote: str, local: str, **options: Any) -> None:
        original(self, remote, local, **options)
        Path(local).write_bytes(BODY[::-1])

    monkeypatch.setattr(S3FileSystem, "get_file", harm)
    with pytest.raises(CheckpointError):
        fetch(url)
    assert whole_files(cache) == []


def test_an_etag_that_is_not_an_md5_is_not_taken_for_one(s3: Any) -> None:
    url = put(s3, "vae.ckpt", ServerSideEncryption="aws:kms")
    found = open_store(parse(url, CheckpointError)).stat("vae.ckpt")
    assert found is not None
    assert found.version
    assert found.digests == {}
    assert fetch(url).read_bytes() == BODY


def test_what_is_not_there_is_reported(s3: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        fetch("s3://weights/a.ckpt")
    with pytest.raises(CheckpointError):
        fetch("s3://no-such/a.ckpt")
    with pytest.raises(OutputError):
        check_destination("s3://no-such/a.ckpt", overwrite=False)
    for location in ("s3://weights", "s3://weights/"):
        with pytest.raises(OutputError):
            check_destination(location, overwrite=False)
    put(s3, "dir/x")
    with pytest.raises(OutputError):
        check_destination("s3://weights/dir", overwrite=True)
    with pytest.raises(OutputError):
        check_destination("s3://NO_bucket!/a.ckpt", overwrite=False)
