"""Fetching from a web server that breaks off and lies about sizes."""

from __future__ import annotations

import base64
import hashlib
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from inflate.io.location import parse
from inflate.io.stores import open_store

from inflate.errors import CheckpointError, OutputError
from inflate.io.remote import check_destination, fetch

from .conftest import Told, parts, whole_files
from .web import Page, Web

BODY = bytes(range(256)) * 1024
FETCH = "import sys; from inflate.io.remote import fetch; print(fetch(sys.argv[1]))"


def process(url: str, **options: Any) -> subprocess.Popen[str]:
    """Another process that fetches the same URL into the same cache."""
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, url], stdout=subprocess.PIPE, text=True, **options
    )


def test_a_file_is_fetched_once(web: Web, told: Told) -> None:
    url = web.put("/a/vae.ckpt", BODY)
    copy = fetch(url, told)
    assert (copy.name, copy.read_bytes()) == ("vae.ckpt", BODY)
    assert told.last == ("downloading", len(BODY), len(BODY))
    assert fetch(url, told) == copy
    assert web.count("GET") == 1


def test_a_changed_file_is_fetched_anew(web: Web) -> None:
    url = web.put("/vae.ckpt", BODY)
    fetch(url)
    web.put("/vae.ckpt", BODY[::-1])
    assert fetch(url).read_bytes() == BODY[::-1]
    assert web.count("GET") == 2


def test_the_time_of_a_change_does_where_there_is_no_etag(web: Web) -> None:
    old, new = "Mon, 02 Nov 2026 08:00:00 GMT", "Tue, 03 Nov 2026 08:00:00 GMT"
    url = web.put("/vae.ckpt", BODY, etag="", headers={"Last-Modified": old})
    assert fetch(url) == fetch(url)
    assert web.count("GET") == 1
    web.put("/vae.ckpt", BODY[::-1], etag="", headers={"Last-Modified": new})
    assert fetch(url).read_bytes() == BODY[::-1]


def test_a_file_that_cannot_be_told_from_the_next_is_always_fetched(web: Web) -> None:
    url = web.put("/vae.ckpt", BODY, etag="")
    fetch(url)
    web.put("/vae.ckpt", BODY[::-1], etag="")
    assert fetch(url).read_bytes() == BODY[::-1]
    assert web.count("GET") == 2


def test_a_connection_that_breaks_off_leaves_nothing_half(web: Web, cache: Path) -> None:
    url = web.put("/vae.ckpt", BODY, breaks_at=len(BODY) // 2)
    with pytest.raises(CheckpointError, match=r"vae\.ckpt cannot be downloaded: the connection br"):
        fetch(url)
    assert whole_files(cache) == parts(cache) == []
    web.put("/vae.ckpt", BODY)
    assert fetch(url).read_bytes() == BODY


@pytest.mark.parametrize("claims", [len(BODY) - 1, len(BODY) + 1])
def test_a_size_other_than_the_one_told_is_noticed(web: Web, cache: Path, claims: int) -> None:
    url = web.put("/vae.ckpt", BODY, claims=claims)
    with pytest.raises(
        CheckpointError, match=f"{len(BODY):,} bytes instead of {claims:,}; nothing"
    ):
        fetch(url)
    assert whole_files(cache) == parts(cache) == []


def test_a_break_that_looks_like_an_end_is_noticed(web: Web, cache: Path) -> None:
    # HEAD tells the size; GET does not, so that its end is wherever the connection breaks off.
    url = web.put("/vae.ckpt", BODY, on_get=Page(BODY, sized=False, breaks_at=1000))
    with pytest.raises(CheckpointError, match=f"1,000 bytes instead of {len(BODY):,}"):
        fetch(url)
    assert whole_files(cache) == []


def test_a_server_that_tells_no_size_is_refused(web: Web) -> None:
    url = web.put("/vae.ckpt", BODY, sized=False)
    with pytest.raises(
        CheckpointError, match=r"does not tell its size.*download it by other means"
    ):
        fetch(url)


@pytest.mark.parametrize(("field", "algorithm"), [("Content-MD5", "md5"), ("Digest", "sha256")])
def test_a_hash_that_the_server_gives_is_verified(
    web: Web, cache: Path, field: str, algorithm: str
) -> None:
    def header(content: bytes) -> dict[str, str]:
        value = base64.b64encode(hashlib.new(algorithm, content).digest()).decode()
        return {field: value if field == "Content-MD5" else f"unixsum=1, SHA-256={value}"}

    url = web.put("/vae.ckpt", BODY, headers=header(BODY[::-1]))
    with pytest.raises(CheckpointError, match=f"arrived with {algorithm} .* instead of"):
        fetch(url)
    assert whole_files(cache) == []
    web.put("/vae.ckpt", BODY, headers=header(BODY))
    assert fetch(url).read_bytes() == BODY


def test_a_field_that_holds_no_hash_is_left_alone(web: Web) -> None:
    url = web.put("/vae.ckpt", BODY, headers={"Content-MD5": "none!", "Digest": "sha-256=AAAA"})
    assert fetch(url).read_bytes() == BODY


def test_redirects_and_queries(web: Web) -> None:
    web.put("/real.bin", BODY)
    url = web.put("/vae%20x.ckpt".replace("%20", " "), redirect="/real.bin")
    copy = fetch(url.replace(" ", "%20") + "?token=x")
    assert (copy.name, copy.read_bytes()) == ("vae x.ckpt", BODY)


def test_a_listing_is_no_file(web: Web) -> None:
    web.put("/vae", redirect="/vae/")
    web.put("/vae/", b"<a href='config.json'>")
    web.put("/vae/config.json", b"{}")
    web.put("/vae/diffusion_pytorch_model.bin", BODY)
    folder = fetch(web.url + "/vae")
    assert sorted(p.name for p in folder.glob("[!.]*")) == [
        "config.json", "diffusion_pytorch_model.bin"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, r"a\.ckpt does not exist"),
        (401, "access is denied.*user and password"),
        (403, "access is denied"),
        (500, "the server answered 500, its own fault"),
        (503, "the server answered 503, its own fault"),
    ],
)
def test_what_a_server_refuses_is_said(web: Web, status: int, message: str) -> None:
    url = web.put("/a.ckpt", BODY, status=status)
    with pytest.raises(CheckpointError, match=message):
        fetch(url)


def test_a_server_that_is_not_there_is_said() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(
            CheckpointError, match=r"a\.ckpt cannot be looked up: the server cannot"
        ):
            fetch(f"http://127.0.0.1:{port}/a.ckpt")


def test_a_host_that_is_not_there_is_said() -> None:
    # An empty label in a name: the resolver refuses it without asking anybody.
    with pytest.raises(CheckpointError, match="cannot be looked up"):
        fetch("http://no..host/a.ckpt")


def test_passwords_are_not_said(web: Web) -> None:
    url = web.url.replace("//", "//user:secret@")
    with pytest.raises(CheckpointError) as raised:
        fetch(f"{url}/a.ckpt?signature=secret")
    assert "secret" not in str(raised.value)


def test_a_download_may_last_and_goes_by_way_of_proxies() -> None:
    pytest.importorskip("aiohttp", reason="the extra remote is not installed")
    options = open_store(parse("https://host/a", CheckpointError)).fs.client_kwargs
    assert options["timeout"].total is None
    assert options["timeout"].sock_read is not None
    assert options["trust_env"] is True


def test_the_web_is_no_destination() -> None:
    with pytest.raises(OutputError, match="https:// can be read only; expected a path, s3://"):
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


def test_waiting_for_another_download_is_told(web: Web, told: Told) -> None:
    filelock = pytest.importorskip("filelock", reason="the extra remote is not installed")
    url = web.put("/vae.ckpt", BODY)
    folder = fetch(url).parent
    (folder / "vae.ckpt").unlink()
    lock = filelock.FileLock(folder / ".lock")
    lock.acquire()

    def release(phase: str, done: int, total: int) -> None:
        told(phase, done, total)
        if phase == "waiting for another download":
            lock.release()

    assert fetch(url, release).read_bytes() == BODY
    assert told.calls[0] == ("waiting for another download", 0, 0)
