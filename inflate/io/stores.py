"""Folders in the stores that fsspec supports: ``s3://``, ``gs://``, ``https://`` and so on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inflate.errors import CheckpointError, InflateError, nearest
from inflate.io.contents import RemoteFile, digests_of, version_of
from inflate.io.faults import in_words, status_of
from inflate.io.folder import LARGEST_JSON
from inflate.io.location import Location
from inflate.progress import Progress

# fmt: off
# These wrap other file systems or do not store files.
_WRAPPERS = frozenset({
    "async_wrapper", "asynclocal", "asyncwrapper", "blockcache", "cached", "dask", "data", "dir",
    "file", "filecache", "generic", "libarchive", "local", "reference", "simplecache", "tar", "zip",
})
# fmt: on


@dataclass(frozen=True, kw_only=True)
class StoreFolder(Location):
    """The folder of a location; its methods raise ``kind`` if the store fails."""

    fs: Any = field(repr=False)
    kind: type[InflateError] = CheckpointError
    known: dict[str, RemoteFile | None] = field(default_factory=dict, compare=False, repr=False)

    listed = False

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return self.look(name) is not None

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of this name now."""
        return self.info(self.url(name)) is not None

    def look(self, name: str) -> RemoteFile | None:
        """Describe a file as it was at the first lookup; None if there is none."""
        url = self.url(name)
        if url not in self.known:
            self.known[url] = self.stat(name)
        return self.known[url]

    def read(self, name: str) -> bytes:
        """The content of a small file."""
        file = self.look(name)
        if file is None or file.size > LARGEST_JSON:
            raise self.kind(f"{self.shown(name)} is not JSON of {LARGEST_JSON:,} bytes at most")
        return self.read_range(file, 0, file.size)

    def info(self, url: str) -> Mapping[str, Any] | None:
        """The current description of a file or folder from fsspec; None if there is none."""
        self.fs.invalidate_cache()
        with self._in_words("looked up"):
            try:
                found: Mapping[str, Any] = self.fs.info(url)
                return found
            except FileNotFoundError as error:
                # The HTTP driver raises this for every failure; the cause has the real error.
                cause = error.__cause__
                if self.store == "https" and cause and status_of(cause) not in (404, 410):
                    raise cause from cause.__cause__
        return None

    def stat(self, name: str) -> RemoteFile | None:
        """The current description of a file; None if there is no file of this name."""
        url = self.url(name)
        info = self.info(url)
        if info is None or info.get("type") != "file":
            return None
        if info.get("size") is None:
            raise self.kind(
                f"{self.shown(name)}: the server does not give its size; download it by other means"
            )
        with self._in_words("looked up"):
            digests = digests_of(self.fs, self.store, url, info)
        return RemoteFile(name, int(info["size"]), version_of(info), digests)

    def ranged(self, file: RemoteFile) -> bool:
        """Whether parts of a file can be read from this version."""
        if not file.version or not file.size:
            return False
        if self.store == "https":
            with self._in_words("downloaded", file.name):
                try:  # The driver raises this for a server that answers with the whole file.
                    self._read(file, file.size - 1, file.size)
                except ValueError:
                    return False
        return True

    def read_range(self, file: RemoteFile, start: int, end: int) -> bytes:
        """Some bytes of a file."""
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
        if self.store not in ("https", "hf"):
            return bytes(self.fs.cat_file(url, start=start, end=end))
        # This method of these drivers never reads more than requested.
        with self.fs.open(url, block_size=1, size=file.size, cache_type="none") as stream:
            stream.seek(start)
            return bytes(stream.read(end - start))

    def kept(self, files: Sequence[RemoteFile], progress: Progress) -> Path | None:
        """The folder of the store's own cache of whole files; None if it has none."""
        return None

    def download(self, file: RemoteFile, to: Path, progress: Progress) -> None:
        """Copy a file to a path; the copy is not checked."""
        with self._in_words("downloaded", file.name):
            callback = _callback("downloading", file.size, progress)
            self.fs.get_file(self.url(file.name), str(to), callback=callback)

    def upload(self, path: Path, name: str, progress: Progress, **options: Any) -> None:
        """Copy a local file into the folder; the name may include subfolders."""
        with self._in_words("written", name):
            callback = _callback("uploading", path.stat().st_size, progress)
            self.fs.put_file(str(path), self.url(name), callback=callback, **options)

    def damaged(self, file: RemoteFile, wrong: str | None) -> InflateError:
        """The error for a copy that differs from the store's description of the file."""
        return self.kind(f"{self.shown(file.name)} arrived with {wrong}; it is not used. Try again")

    @contextmanager
    def _in_words(self, done: str, name: str = "") -> Iterator[None]:
        with in_words(f"{self.shown(name)} cannot be {done}", self.store, self.kind):
            yield


def check_scheme(location: Location, kind: type[InflateError]) -> None:
    """Raise ``kind`` if no driver reads or writes the store of a location."""
    shown, store = location.shown(), location.store
    with in_words(f"{shown} cannot be reached", store, kind):
        import fsspec

        known = set(fsspec.available_protocols()) - _WRAPPERS
        if store not in known:
            raise kind(
                f"{shown}: the scheme {store!r} is unknown{nearest(store, known)}; expected a "
                "path, or one of s3://, gs://, https://, hf:// and others that fsspec knows"
            )


def open_store(location: Location, kind: type[InflateError] = CheckpointError) -> StoreFolder:
    """Open the folder of a location, or raise ``kind``."""
    store = location.store
    check_scheme(location, kind)
    with in_words(f"{location.shown()} cannot be reached", store, kind):
        import fsspec

        options: dict[str, Any] = {"skip_instance_cache": True}
        if store == "https":
            import aiohttp

            # By default, aiohttp ends every download after five minutes and ignores the proxies in
            # the environment.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=120)
            options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
            options["headers"] = {"Accept-Encoding": "identity"}
        # Do not use fsspec's shared instances: they keep listings and old credentials.
        fs, _ = fsspec.core.url_to_fs(location.folder + location.tail, **options)
    return StoreFolder(**vars(location), fs=fs, kind=kind)


def _callback(phase: str, size: int, progress: Progress) -> Any:
    from fsspec.callbacks import Callback

    def report(_size: int | None, value: int, **_: object) -> None:
        progress(phase, min(value, size), size)

    return Callback(hooks={"count": report})
