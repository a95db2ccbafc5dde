"""Folders of the stores that fsspec knows: ``s3://``, ``gs://``, ``https://`` and so on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from inflate.errors import CheckpointError, InflateError, nearest
from inflate.io.caching import fetch_whole
from inflate.io.contents import RemoteFile, digests_of, version_of
from inflate.io.faults import in_words, needs_driver, reason, status_of
from inflate.io.folder import LARGEST_JSON
from inflate.io.location import Location
from inflate.progress import Progress, silent

# fmt: off
# These wrap other file systems, or do not store files.
_WRAPPERS = frozenset({
    "async_wrapper", "asynclocal", "asyncwrapper", "blockcache", "cached", "dask", "data", "dir",
    "file", "filecache", "generic", "libarchive", "local", "reference", "simplecache", "tar", "zip",
})
# fmt: on
_WEB = frozenset({"http", "https"})


@dataclass(frozen=True)
class StoreFolder:
    """A folder of a store; its errors are of class ``kind``. What it holds is looked up once."""

    location: Location
    fs: Any
    kind: type[InflateError]
    known: dict[str, RemoteFile | None] = field(default_factory=dict, compare=False, repr=False)

    listed = False

    def shown(self, name: str | None = None) -> str:
        """The URL of a file, or of the location itself, for messages."""
        return self.location.shown(name or None)

    def near(self, name: str) -> str:
        """Nothing: a store may hold more names than are worth listing for a hint."""
        return ""

    def url(self, name: str) -> str:
        """The URL of a file."""
        return self.location.url(name)

    def inside(self, name: str) -> StoreFolder:
        """A folder in this one."""
        return replace(self, location=self.location.inside(name), known={})

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return self.look(name) is not None

    def look(self, name: str) -> RemoteFile | None:
        """Describe a file as it was when it was first looked up."""
        if name not in self.known:
            self.known[name] = self.stat(name)
        return self.known[name]

    def read(self, name: str) -> bytes:
        """The content of a small file.

        Raises:
            CheckpointError: it cannot be read, or is too large.
        """
        file = self.look(name)
        if file is None or file.size > LARGEST_JSON:
            raise self.kind(
                f"{self.shown(name)} has {file.size if file else 0:,} bytes; expected JSON of "
                f"{LARGEST_JSON:,} at most"
            )
        return self.read_range(file, 0, file.size)

    def info(self, url: str) -> Mapping[str, Any] | None:
        """How fsspec describes a file or folder as it is now; None where there is none.

        Raises:
            InflateError: the store does not answer.
        """
        self.fs.invalidate_cache()
        with self._in_words("looked up"):
            try:
                found: Mapping[str, Any] = self.fs.info(url)
                return found
            except FileNotFoundError as error:
                absent = error
        # The web's driver raises this for every failure, with the real one as the cause.
        cause, scheme = absent.__cause__, self.location.scheme
        if scheme in _WEB and cause and status_of(cause) not in (404, 410):
            raise self.kind(
                f"{self.shown()} cannot be looked up: {reason(cause, scheme)}"
            ) from cause
        return None

    def stat(self, name: str) -> RemoteFile | None:
        """Describe a file as it is now; None where there is no file of this name.

        Raises:
            InflateError: the store does not answer, or does not give the size.
        """
        url = self.url(name)
        info = self.info(url)
        if info is None or info.get("type") != "file" or _is_listing(info):
            return None
        if info.get("size") is None:
            raise self.kind(
                f"{self.shown(name)}: the server does not give its size, so a download could not "
                "be verified; download it by other means and give its path"
            )
        with self._in_words("looked up"):
            digests = digests_of(self.fs, self.location.scheme, url, info)
        return RemoteFile(name, int(info["size"]), version_of(info), digests)

    def ranged(self, file: RemoteFile) -> bool:
        """Whether parts of a file can be read, and belong to this version."""
        if not file.version or not file.size:
            return False
        if self.location.scheme in _WEB:
            try:  # The driver raises this for a server that answers with the whole file.
                self._read(file, file.size - 1, file.size)
            except ValueError:
                return False
        return True

    def read_range(self, file: RemoteFile, start: int, end: int) -> bytes:
        """Some bytes of a file.

        Raises:
            InflateError: the store does not give them, or not all.
        """
        with self._in_words("downloaded", file.name):
            found = self._read(file, start, end) if end > start else b""
        if len(found) != end - start:
            raise self.kind(
                f"{self.shown(file.name)}: {len(found):,} bytes arrived instead of "
                f"{end - start:,}; try again"
            )
        return found

    def _read(self, file: RemoteFile, start: int, end: int) -> bytes:
        url = self.url(file.name)
        if self.location.scheme not in _WEB:
            return bytes(self.fs.cat_file(url, start=start, end=end))
        # This way of the web's driver never takes in more than it wants.
        with self.fs.open(url, block_size=1, size=file.size, cache_type="none") as stream:
            stream.seek(start)
            return bytes(stream.read(end - start))

    def fetch(self, files: Sequence[RemoteFile], progress: Progress) -> Path:
        """A folder of the cache that holds whole copies of these files."""
        return fetch_whole(self, files, progress)

    def download(self, file: RemoteFile, to: Path, progress: Progress) -> None:
        """Copy a file to a path; the copy is not checked.

        Raises:
            InflateError: the store does not give it.
        """
        with self._in_words("downloaded", file.name):
            callback = _callback("downloading", file.size, progress)
            self.fs.get_file(self.url(file.name), str(to), callback=callback)

    def upload(self, path: Path, name: str, progress: Progress = silent, **options: Any) -> None:
        """Copy a local file into the folder; the name may lead into folders in it.

        Raises:
            InflateError: the store does not take it.
        """
        with self._in_words("written", name):
            callback = _callback("uploading", path.stat().st_size, progress)
            self.fs.put_file(str(path), self.url(name), callback=callback, **options)

    @contextmanager
    def _in_words(self, done: str, name: str | None = None) -> Iterator[None]:
        with in_words(f"{self.shown(name)} cannot be {done}", self.location.scheme, self.kind):
            yield


def open_store(location: Location, kind: type[InflateError] = CheckpointError) -> StoreFolder:
    """Open the folder of a location.

    Raises:
        InflateError: as ``kind``: an unknown scheme, a missing driver, or a store that cannot be
            reached.
    """
    shown, scheme = location.shown(), location.scheme
    with needs_driver(shown, scheme, kind):
        import fsspec

        known = set(fsspec.available_protocols()) - _WRAPPERS
        if scheme not in known:
            raise kind(
                f"{shown}: the scheme {scheme!r} is unknown{nearest(scheme, known)}; expected a "
                "path, or one of s3://, gs://, https://, hf:// and others that fsspec knows"
            )
        fsspec.get_filesystem_class(scheme)
        options = _web_options() if scheme in _WEB else {}
        with in_words(f"{shown} cannot be reached", scheme, kind):
            # Not one of fsspec's shared instances: those keep listings and old credentials.
            fs, _ = fsspec.core.url_to_fs(
                location.folder + location.tail, skip_instance_cache=True, **options
            )
    return StoreFolder(location, fs, kind)


def _web_options() -> dict[str, Any]:
    import aiohttp

    # aiohttp's default ends every download after five minutes, and ignores the proxies of the
    # environment.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=120)
    return {
        "client_kwargs": {"timeout": timeout, "trust_env": True},
        "headers": {"Accept-Encoding": "identity"},
    }


def _callback(phase: str, size: int, progress: Progress) -> Any:
    from fsspec.callbacks import Callback

    def report(_size: int | None, value: int, **_: object) -> None:
        progress(phase, min(value, size), size)

    return Callback(hooks={"count": report})


def _is_listing(info: Mapping[str, Any]) -> bool:
    """Whether a web server answered a file's address with that of a folder's listing."""
    final = str(info.get("url", "")).partition("?")[0]
    return final.endswith("/") and not str(info["name"]).partition("?")[0].endswith("/")
