"""A web server on the loopback interface whose answers a test chooses, faulty ones too."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


@dataclass
class Page:
    """What the server holds under a path, and how it misbehaves."""

    body: bytes = b""
    etag: str | None = None  # That of the content by default; empty for none.
    breaks_at: int | None = None  # The byte after which the connection is cut off.
    claims: int | None = None  # The size that HEAD reports, where it is false.
    sized: bool = True  # Else the end of the connection is the end.
    status: int = 200
    redirect: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    on_get: Page | None = None  # The answer to GET, where that is another than HEAD reports.
    ranges: bool = True  # Whether a request for a part is answered with that part.


class Web:
    """A running server: its pages, and the requests that it got."""

    def __init__(self) -> None:
        self.url = ""
        self.pages: dict[str, Page] = {}
        self.requests: list[tuple[str, str]] = []

    def put(self, path: str, body: bytes = b"", **options: Any) -> str:
        """Hold a page, and give its URL."""
        self.pages[path] = Page(body, **options)
        return self.url + path

    def count(self, method: str, path: str | None = None) -> int:
        """How often something was asked for."""
        return sum(m == method and path in (None, p) for m, p in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.web.requests.append((self.command, path))
        page = self.web.pages.get(path, Page(status=404))
        if page.on_get is not None and self.command == "GET":
            page = page.on_get
        if page.redirect is not None:
            self.send_response(302)
            self.send_header("Location", page.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body, status = page.body, page.status
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and page.ranges and status == 200:
            first, last = int(asked[1]), min(int(asked[2]), len(body) - 1)
            headers = {"Content-Range": f"bytes {first}-{last}/{len(body)}"}
            body, status = body[first : last + 1], 206
        else:
            headers = {}
        self.send_response(status)
        size = page.claims if page.claims is not None and self.command == "HEAD" else len(body)
        if page.sized:
            self.send_header("Content-Length", str(size))
        else:
            self.send_header("Connection", "close")
        etag = hashlib.sha1(page.body).hexdigest() if page.etag is None else page.etag
        if etag and page.status == 200:
            self.send_header("ETag", f'"{etag}"')
        for name, value in (headers | page.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: page.breaks_at])
            if page.breaks_at is not None:
                self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that go away are part of the tests."""


@contextmanager
def listen(handler: type[BaseHTTPRequestHandler], **attributes: object) -> Iterator[str]:
    """Serve a free port of the loopback interface by a handler with these attributes."""
    server = _Server(("127.0.0.1", 0), type("Handler", (handler,), attributes))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serve() -> Iterator[Web]:
    """Serve pages."""
    web = Web()
    with listen(_Handler, web=web) as web.url:
        yield web
