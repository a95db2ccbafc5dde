"""Fetching from a web server that breaks off and gives wrong sizes."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
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
FETCH = "import sys; from inflate.io.remote import fetch; print(fetch(sys.argv[1]))"


def process(url: str, **options: Any) -> subprocess.Popen[str]:
    """Another process that fetches the same URL into the same cache."""
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, url], stdout=subprocess.PIPE, text=True, **options
    )


def test_a_file_is_fetched_once_until_it_changes(web: Web, progress: ProgressRecord) -> None:
    url = web.put("/a/vae.ckpt", BODY)
    copy = fetch(url, progress)
    assert (copy.name, copy.read_bytes()) == ("vae.ckpt", BODY)
    assert progress.last == ("downloading", len(BODY), len(BODY))
    assert fetch(url, progress) == copy
    assert web.count("GET") == 1
    web.put("/a/vae.ckpt", BODY[::-1])
    assert fetch(url).read_bytes() == BODY[::-1]
    assert web.count("GET") == 2


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


@pytest.mark.parametrize("status", [404, 401, 403, 500, 503])
def test_what_a_server_refuses_is_reported(web: Web, status: int) -> None:
    with pytest.raises(CheckpointError):
        fetch(web.put("/a.ckpt", BODY, status=status))


def test_a_server_or_host_that_is_not_there_is_reported() -> None:
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


def test_the_web_is_not_a_destination() -> None:
    with pytest.raises(OutputError):
        check_destination("https://host/a.safetensors", overwrite=False)


def test_two_processes_download_once(web: Web, cache: Path) -> None:
    url = web.put("/vae.ckpt", BODY, before=lambda: web.wait_for("HEAD", "/vae.ckpt", 2))
    both = [process(url), process(url)]
    answers = [p.communicate(timeout=60)[0].strip() for p in both]
    assert [p.returncode for p in both] == [0, 0]
    assert answers[0] == answers[1]
    assert Path(answers[0]).read_bytes() == BODY
    assert web.count("GET") == 1
    assert parts(cache) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_stopped_half_way_leaves_nothing_that_counts(
    web: Web, cache: Path, how: signal.Signals
) -> None:
    url = web.put("/vae.ckpt", BODY, on_get=Page(BODY, before=lambda: web.wait_for("HEAD", "/", 1)))
    stopped = process(url, stderr=subprocess.DEVNULL)
    web.wait_for("GET", "/vae.ckpt", 1)
    stopped.send_signal(how)
    stopped.communicate(timeout=60)
    assert stopped.returncode != 0
    assert whole_files(cache) == []
    if how == signal.SIGINT:
        assert parts(cache) == []
    with web.changed:
        web.requests.append(("HEAD", "/"))
        web.changed.notify_all()
    web.put("/vae.ckpt", BODY)
    assert fetch(url).read_bytes() == BODY
    assert parts(cache) == []


def test_waiting_for_another_download_is_reported(web: Web, progress: ProgressRecord) -> None:
    filelock = pytest.importorskip("filelock", reason="the extra remote is not installed")
    url = web.put("/vae.ckpt", BODY)
    folder = fetch(url).parent
    (folder / "vae.ckpt").unlink()
    lock = filelock.FileLock(folder / ".lock")
    lock.acquire()

    def release(phase: str, done: int, total: int) -> None:
        progress(phase, done, total)
        if phase == "waiting for another download":
            lock.release()

    assert fetch(url, release).read_bytes() == BODY
    assert progress.calls[0] == ("waiting for another download", 0, 0)
