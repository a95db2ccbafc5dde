"""The part of Google's JSON interface that is used, for one bucket, ``weights``."""

from __future__ import annotations

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit


class Bucket:
    """Its objects; ``md5`` has those that it reports wrongly."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.md5: dict[str, str] = {}

    def describe(self, key: str) -> dict[str, str]:
        """An object as the interface describes it."""
        body = self.objects[key]
        md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
        described = {"name": key, "size": str(len(body)), "etag": md5}
        return {**described, "md5Hash": self.md5.get(key, md5)}


class BucketHandler(BaseHTTPRequestHandler):
    """Answers requests for the objects of ``bucket``."""

    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def do_GET(self) -> None:  # noqa: D102
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
            self._answer(200, self.bucket.objects[key])
        else:
            self._answer(200, self.bucket.describe(key))

    def do_POST(self) -> None:  # noqa: D102
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
