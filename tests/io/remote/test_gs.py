"""Google's storage, by way of gcsfs, against the part of its JSON interface that is used."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from inflate.errors import CheckpointError, OutputError
from inflate.io.remote import check_destination, fetch, publish

from .conftest import ProgressRecord, whole_files

pytestmark = pytest.mark.slow

BODY = bytes(range(256)) * 1024


class Bucket:
    """The only bucket there is, ``weights``."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.md5: dict[str, str] = {}
        self.downloads = 0

    def describe(self, key: str) -> dict[str, str]:
        """An object as the interface describes it."""
        body = self.objects[key]
        md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
        described = {"name": key, "size": str(len(body)), "etag": md5}
        return {**described, "md5Hash": self.md5.get(key, md5)}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        name, _, key = unquote(parts.path.partition("/b/")[2]).partition("/o/")
        if name.removesuffix("/o") != "weights" or (key and key not in self.bucket.objects):
            self._answer(404, {"error": {"code": 404, "message": "Not Found"}})
        elif name.endswith("/o"):
            prefix = parse_qs(parts.query).get("prefix", [""])[0]
            found = [self.bucket.describe(k) for k in self.bucket.objects if k.startswith(prefix)]
            self._answer(200, {"items": found})
        elif not key:
            self._answer(200, {"name": "weights"})
        elif "alt=media" in parts.query:
            self.bucket.downloads += 1
            self._answer(200, self.bucket.objects[key])
        else:
            self._answer(200, self.bucket.describe(key))

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        _, described, rest = sent.split(b"--==0==", 2)
        key = json.loads(described.partition(b"\n\n")[2])["name"]
        if key in self.bucket.objects and "ifGenerationMatch=0" in self.path:
            self._answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
            return
        self.bucket.objects[key] = rest.partition(b"\n\n")[2].removesuffix(b"\n--==0==--")
        self._answer(200, self.bucket.describe(key))

    def _answer(self, status: int, content: object) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A server with one bucket."""
    gcsfs = pytest.importorskip("gcsfs.core", reason="the extra remote is not installed")
    import fsspec

    # Its other class asks Google itself, not this server, what kind of bucket it has before it.
    usual = fsspec.get_filesystem_class("gs")
    fsspec.register_implementation("gs", gcsfs.GCSFileSystem, clobber=True)
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    held = Bucket()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("H", (_Handler,), {"bucket": held}))
    server.daemon_threads, server.block_on_close = True, False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_address[1]}")
    yield held
    server.shutdown()
    thread.join()
    server.server_close()
    fsspec.register_implementation("gs", usual, clobber=True)


def test_an_object_is_fetched_once_and_verified(bucket: Bucket, cache: Path) -> None:
    url = "gs://weights/a/vae.ckpt"
    bucket.objects["a/vae.ckpt"] = BODY
    copy = fetch(url)
    assert (copy.name, copy.read_bytes()) == ("vae.ckpt", BODY)
    assert fetch(url) == copy
    assert bucket.downloads == 1
    bucket.objects["a/wrong.ckpt"] = BODY
    bucket.md5["a/wrong.ckpt"] = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    for missing in ("gs://weights/a/wrong.ckpt", "gs://weights/a.ckpt"):
        with pytest.raises(CheckpointError):
            fetch(missing)
    assert whole_files(cache) == ["vae.ckpt"]


def test_a_file_is_published(bucket: Bucket, tmp_path: Path, progress: ProgressRecord) -> None:
    ours = tmp_path / "x"
    ours.write_bytes(BODY)
    location = "gs://weights/out/v.safetensors"
    check_destination(location, overwrite=False)
    publish(ours, location, overwrite=False, progress=progress)
    assert bucket.objects == {"out/v.safetensors": BODY}
    assert progress.last == ("uploading", len(BODY), len(BODY))
    for refused in (location, "gs://no-such/a.ckpt"):
        with pytest.raises(OutputError):
            check_destination(refused, overwrite=False)
    ours.write_bytes(BODY[::-1])
    publish(ours, location, overwrite=True)
    assert bucket.objects == {"out/v.safetensors": BODY[::-1]}


def test_a_name_that_is_taken_meanwhile_is_refused(bucket: Bucket, tmp_path: Path) -> None:
    ours = tmp_path / "x"
    ours.write_bytes(BODY)

    def steal(phase: str, done: int, total: int) -> None:
        bucket.objects["v"] = b"theirs"

    with pytest.raises(OutputError):
        publish(ours, "gs://weights/v", overwrite=False, progress=steal)
    assert bucket.objects == {"v": b"theirs"}
