"""Fetching from a web server that breaks off and gives wrong sizes."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from inflate.errors import CheckpointError, OutputError
from inflate.io.location import parse
from inflate.io.remote import check_destination, fetch
from inflate.io.stores import open_store

from .conftest import ProgressRecord, parts, whole_files
from .web import Page, Web

BODY = bytes(range(256)) * 1024


def test_a_file_is_fetched_once_until_it_changes(web: Web, progress: ProgressRecord) -> None:
    url = web.put("/a/vae.ckpt", BODY)
    copy = fetch(url, progress)
    assert progress.last == ("downloading", len(BODY), len(BODY))
    assert fetch(url, progress) == copy
    assert web.count("GET") == 1
    web.put("/a/vae.ckpt", BODY[::-1])
    assert fetch(url).read_bytes() == BODY[::-1]
    assert web.count("GET") == 2
    assert copy.read_bytes() == BODY, "a run that reads the old one can continue"


@pytest.mark.parametrize("name", ["/vae.ckpt", "/vae.safetensors"])
def test_a_file_without_a_version_is_always_fetched_whole(web: Web, name: str) -> None:
    for body in (BODY, BODY[::-1]):
        url = web.put(name, body, etag="")
        assert fetch(url).read_bytes() == body
    assert web.count("GET") == 2


@pytest.mark.parametrize(
    "page",
    [
        {"breaks_at": len(BODY) // 2},
        {"claims": len(BODY) - 1},
        {"claims": len(BODY) + 1},
        # Its end is where the connection breaks off; HEAD alone gives the size.
        {"on_get": Page(BODY, sized=False, breaks_at=1000)},
        {"sized": False},
    ],
)
def test_what_does_not_arrive_whole_is_not_used(
    web: Web, cache: Path, page: dict[str, Any]
) -> None:
    url = web.put("/vae.ckpt", BODY, **page)
    with pytest.raises(CheckpointError):
        fetch(url)
    assert whole_files(cache) == parts(cache) == []
    web.put("/vae.ckpt", BODY)
    assert fetch(url).read_bytes() == BODY


def test_redirects_and_queries(web: Web) -> None:
    web.put("/real.bin", BODY)
    url = web.put("/vae x.ckpt", redirect="/real.bin")
    copy = fetch(url.replace(" ", "%20") + "?token=x")
    assert (copy.name, copy.read_bytes()) == ("vae x.ckpt", BODY)


def test_a_server_that_refuses_or_is_not_there_is_reported(web: Web) -> None:
    for status in (404, 403, 500):
        with pytest.raises(CheckpointError, match=r"\(500\)" if status == 500 else None):
            fetch(web.put("/a.ckpt", BODY, status=status))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        # An empty label in a name: the resolver refuses it without a request.
        for host in (f"127.0.0.1:{port}", "no..host"):
            with pytest.raises(CheckpointError):
                fetch(f"http://{host}/a.ckpt")


def test_a_download_may_last_and_goes_by_way_of_proxies() -> None:
    pytest.importorskip("aiohttp", reason="the extra remote is not installed")
    options = open_store(parse("https://host/a", CheckpointError)).fs.client_kwargs
    assert options["timeout"].total is None
    assert options["timeout"].sock_read is not None
    assert options["trust_env"] is True


@pytest.mark.parametrize("place", ["https://host", "hf://owner/repo"])
def test_what_can_only_be_read_is_not_a_destination(place: str) -> None:
    with pytest.raises(OutputError):
        check_destination(f"{place}/a.safetensors", overwrite=False)


def test_a_process_waits_for_the_download_of_another(web: Web, progress: ProgressRecord) -> None:
    filelock = pytest.importorskip("filelock", reason="the extra remote is not installed")
    url = web.put("/vae.ckpt", BODY)
    copy = fetch(url)
    copy.unlink()
    lock = filelock.FileLock(copy.with_name(".lock"))
    lock.acquire()

    def finish(phase: str, done: int, total: int) -> None:
        progress(phase, done, total)
        copy.write_bytes(BODY)
        lock.release()

    assert fetch(url, finish) == copy
    assert progress.calls == [("waiting for another download", 0, 0)]
    assert web.count("GET") == 1
