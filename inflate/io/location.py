"""Local and remote locations, and the parts of a remote one."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import quote, unquote

from inflate.errors import InflateError

# At least two characters before the colon: C:\x and C://x are paths.
_URL = re.compile(r"([A-Za-z][\w+.-]+)(?:::[\w+.:-]*)?://")
_PASSWORD = re.compile(r"^([\w+.-]+://[^/@:]*):[^/@]*@")
_OTHER_NAMES = {"s3a": "s3", "gcs": "gs", "abfss": "abfs", "az": "abfs", "http": "https"}


@dataclass(frozen=True)
class Location:
    """The URL of a file or folder; the ``name`` of a folder is empty.

    ``store`` is the main scheme of its kind of store. ``folder`` ends with a slash. ``tail`` is
    the name as written, and ``query`` the query string of a web address.
    """

    store: str
    folder: str
    name: str
    tail: str
    query: str = ""

    def url(self, name: str) -> str:
        """The URL of a file in the same folder."""
        return self.folder + self._written(name) + self.query

    def shown(self, name: str = "") -> str:
        """The URL for messages, without passwords and without signatures in a query."""
        return without_password(self.folder + (name or self.tail))

    def inside(self, name: str) -> Any:
        """A subfolder of the same folder."""
        return replace(self, folder=f"{self.folder}{self._written(name)}/", name="", tail="")

    def _written(self, name: str) -> str:
        if name == self.name:
            return self.tail
        return quote(name) if self.store == "https" else name


def is_remote(location: str | Path) -> bool:
    """Whether a location is a URL such as ``s3://bucket/file``, and not a path of a local file."""
    return _URL.match(str(location)) is not None


def store_of(location: str) -> tuple[str, str]:
    """The kind of store of a URL, and the part after ``://``."""
    scheme, _, rest = location.partition("://")
    return _OTHER_NAMES.get(scheme.lower(), scheme.lower()), rest


def shown(location: str) -> str:
    """A location for messages and records, without a password or query."""
    if not is_remote(location):
        return location
    on_web = store_of(location)[0] == "https"
    return without_password(location.partition("?")[0] if on_web else location)


def without_password(url: str) -> str:
    """A URL that is safe to print."""
    return _PASSWORD.sub(r"\1:***@", url)


def parse(location: str, error: type[InflateError]) -> Location:
    """The parts of a remote location; raises ``error`` if it is a chain or cannot name a file."""
    scheme = location.partition("://")[0].lower()
    (store, rest), shown = store_of(location), without_password(location)
    if "::" in scheme or "::" in rest:
        raise error(f"{shown} is a chain of locations; expected one, such as s3://bucket/file")
    query = ""
    if store == "https":
        rest, mark, query = rest.partition("#")[0].partition("?")
        query = mark + query
    # A host or bucket comes before the first slash, except for memory://.
    if "/" not in rest and store != "memory":
        rest += "/"
    above, slash, tail = rest.rpartition("/")
    if not above and store != "memory":
        raise error(f"{shown} lacks a host or bucket; expected {scheme}://BUCKET-OR-HOST/PATH")
    name = unquote(tail) if store == "https" else tail
    if name and not is_plain(name):
        raise error(
            f"{shown} ends in {name!r}; expected a plain name that does not begin with a dot"
        )
    return Location(store, f"{scheme}://{above}{slash}", name, tail, query)


def is_plain(name: str) -> bool:
    """Whether a name can only refer, on any system, to a visible file in the same folder."""
    return (
        PurePosixPath(name).name == name
        and PureWindowsPath(name).name == name
        and name.isprintable()
        and not name.startswith(".")  # Hidden files belong to the cache.
        and name != ""
    )
