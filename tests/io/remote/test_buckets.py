"""S3 and Google's storage, each against a server on the loopback."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inflate.errors import CheckpointError, OutputError
from inflate.io.location import parse
from inflate.io.remote import check_destination, fetch, publish
from inflate.io.stores import open_store

from .conftest import ProgressRecord, raising, whole_files
from .google import Bucket, BucketHandler
from .web import listen

pytestmark = pytest.mark.slow

BODY = bytes(range(256)) * 1024


class S3Bucket:
    """The bucket ``weights`` of S3, with the same fields as Google's."""

    def __init__(self, client: Any) -> None:
        self.client = client

    @property
    def objects(self) -> dict[str, bytes]:
        """All objects."""
        listed = self.client.list_objects_v2(Bucket="weights").get("Contents", ())
        get = self.client.get_object
        return {e["Key"]: get(Bucket="weights", Key=e["Key"])["Body"].read() for e in listed}

    def put(self, key: str, body: bytes = BODY, **options: Any) -> str:
        """Store an object, and return its URL."""
        self.client.put_object(Bucket="weights", Key=key, Body=body, **options)
        return f"s3://weights/{key}"

    def put_damaged(self, key: str) -> None:
        """Store an object whose hash is reported wrongly."""
        self.put(key, Metadata={"sha256": "0" * 64})


class GoogleBucket(Bucket):
    """The bucket of Google's storage."""

    def put(self, key: str, body: bytes) -> None:
        """Store an object."""
        self.objects[key] = body

    def put_damaged(self, key: str) -> None:
        """Store an object whose hash is reported wrongly."""
        self.objects[key], self.md5[key] = BODY, "AAAAAAAAAAAAAAAAAAAAAA=="


@pytest.fixture
def gs(monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleBucket]:
    """A server with one bucket."""
    gcsfs = pytest.importorskip("gcsfs.core", reason="the extra remote is not installed")
    import fsspec

    # Its other class asks Google itself, not this server, what kind of bucket it has before it.
    usual = fsspec.get_filesystem_class("gs")
    fsspec.register_implementation("gs", gcsfs.GCSFileSystem, clobber=True)
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    bucket = GoogleBucket()
    with listen(BucketHandler, bucket=bucket) as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        yield bucket
    fsspec.register_implementation("gs", usual, clobber=True)


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> Any:
    found = request.getfixturevalue(request.param)
    return S3Bucket(found) if request.param == "s3" else found


@pytest.fixture
def url(bucket: Any) -> str:
    return "gs://weights" if isinstance(bucket, Bucket) else "s3://weights"


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A finished file."""
    path = tmp_path / "x"
    path.write_bytes(BODY)
    return path


def test_a_file_is_published_verified_and_fetched(
    bucket: Any, url: str, ours: Path, cache: Path, progress: ProgressRecord
) -> None:
    location = f"{url}/out/v.ckpt"
    check_destination(location, overwrite=False)
    publish(ours, location, overwrite=False, progress=progress)
    assert progress.last == ("uploading", len(BODY), len(BODY))
    assert bucket.objects == {"out/v.ckpt": BODY}
    copy = fetch(location)
    assert (copy.name, copy.read_bytes()) == ("v.ckpt", BODY)
    ours.write_bytes(BODY[::-1])
    publish(ours, location, overwrite=True)
    assert bucket.objects == {"out/v.ckpt": BODY[::-1]}
    bucket.put_damaged("w.ckpt")
    for missing in ("w.ckpt", "a.ckpt"):
        with pytest.raises(CheckpointError):
            fetch(f"{url}/{missing}")
    assert whole_files(cache) == ["v.ckpt"]


def test_a_name_that_is_taken_meanwhile_is_refused(bucket: Any, url: str, ours: Path) -> None:
    def steal(phase: str, done: int, total: int) -> None:
        bucket.put("v", b"theirs")

    with pytest.raises(OutputError):
        publish(ours, f"{url}/v", overwrite=False, progress=steal)
    assert bucket.objects == {"v": b"theirs"}


def test_what_cannot_be_written_is_refused_before_the_work(bucket: Any, url: str) -> None:
    bucket.put("dir/x", b"")
    taken, other = f"{url}/dir/x", url.replace("weights", "no-such")
    for location in (taken, f"{other}/a", url, f"{url}/", f"{url}/dir"):
        with pytest.raises(OutputError):
            check_destination(location, overwrite=location != taken)


# S3: large uploads go in parts, whose ETag is not an MD5


@pytest.fixture
def large(ours: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is uploaded in parts."""
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda *_, **__: 5 << 20)
    ours.write_bytes(BODY * 44)
    return ours


def test_a_large_file_goes_in_parts_and_is_verified_by_its_sha256(
    s3: Any, large: Path, progress: ProgressRecord
) -> None:
    publish(large, "s3://weights/v.safetensors", overwrite=False, progress=progress)
    assert len({done for _, done, _ in progress.calls}) > 2
    found = open_store(parse("s3://weights/v.safetensors", CheckpointError)).stat("v.safetensors")
    assert found is not None
    assert "-" in found.version
    assert found.digests == {"sha256": hashlib.sha256(BODY * 44).hexdigest()}
    assert fetch("s3://weights/v.safetensors").read_bytes() == BODY * 44
    assert s3.list_multipart_uploads(Bucket="weights").get("Uploads", []) == []


def test_an_upload_that_fails_half_way_leaves_nothing(s3: Any, large: Path) -> None:
    fail = raising(ConnectionResetError)
    with pytest.raises(OutputError):
        publish(large, "s3://weights/v.safetensors", overwrite=False, progress=fail)
    assert S3Bucket(s3).objects == {}
    assert s3.list_multipart_uploads(Bucket="weights").get("Uploads", []) == []


@pytest.mark.parametrize("options", [{}, {"ServerSideEncryption": "aws:kms"}])
def test_an_etag_is_taken_for_an_md5_only_where_it_is_one(s3: Any, options: dict[str, str]) -> None:
    url = S3Bucket(s3).put("vae.ckpt", **options)
    found = open_store(parse(url, CheckpointError)).stat("vae.ckpt")
    assert found is not None
    assert found.version
    assert found.digests == ({} if options else {"md5": hashlib.md5(BODY).hexdigest()})
    assert fetch(url).read_bytes() == BODY
