"""What the tests of remote locations share: an empty cache, and servers on the loopback."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .web import Web, serve

_ELSEWHERE = re.compile(r"^(AWS|HF|HUGGING|FSSPEC|GOOGLE|STORAGE|(http|https|all|no)_proxy$)", re.I)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and an environment that points nowhere."""
    for name in list(os.environ):
        if _ELSEWHERE.match(name):
            monkeypatch.delenv(name)
    folder = tmp_path / "cache"
    monkeypatch.setenv("INFLATE_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _empty(memory: Any) -> None:
    """Every test begins with an empty store."""


@pytest.fixture
def web() -> Iterator[Web]:
    """A web server whose pages the test chooses."""
    pytest.importorskip("aiohttp", reason="the extra remote is not installed")
    with serve() as running:
        yield running


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server, moto's."""
    pytest.importorskip("s3fs", reason="the extra remote is not installed")
    moto = pytest.importorskip("moto.server", reason="moto's server is not installed")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of boto3's for the server, which holds one empty bucket, ``weights``."""
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    client = boto3.session.Session().client("s3")
    client.create_bucket(Bucket="weights")
    yield client
    for entry in client.list_objects_v2(Bucket="weights").get("Contents", ()):
        client.delete_object(Bucket="weights", Key=entry["Key"])
    client.delete_bucket(Bucket="weights")
    client.close()


class ProgressRecord:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Remember a call."""
        self.calls.append((phase, done, total))

    @property
    def last(self) -> tuple[str, int, int]:
        """The last report."""
        return self.calls[-1]


@pytest.fixture
def progress() -> ProgressRecord:
    """A progress that records its calls."""
    return ProgressRecord()


def raising(error: type[BaseException]) -> Callable[[str, int, int], None]:
    """A progress that fails once something was transferred."""

    def progress(phase: str, done: int, total: int) -> None:
        if done:
            raise error

    return progress


def whole_files(cache: Path) -> list[str]:
    """The names of the files that the cache gave a name."""
    return sorted(path.name for path in cache.glob("*/[!.]*"))


def parts(cache: Path) -> list[str]:
    """What downloads left behind."""
    return [path.name for path in cache.glob("*/.unfinished*")]
