"""The stores that fsspec knows: looking for files in them, and moving files in and out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inflate.errors import CheckpointError, InflateError, nearest
from inflate.io.remote.contents import RemoteFile
from inflate.io.remote.counting import Counter
from inflate.io.remote.extras import needed
from inflate.io.remote.faults import in_words, reason, status_of
from inflate.io.remote.location import Location
from inflate.io.remote.marks import digests_of, version_of

# fmt: off
# These wrap other file systems, or are no stores of files.
_WRAPPERS = frozenset({
    "async_wrapper", "asynclocal", "asyncwrapper", "blockcache", "cached", "dask", "data", "dir",
    "file", "filecache", "generic", "libarchive", "local", "reference", "simplecache", "tar", "zip",
})
# fmt: on


@dataclass(frozen=True)
class Store:
    """A folder of a store, in which files are looked up by name; ``kind`` is what it raises."""

    location: Location
    fs: Any
    kind: type[InflateError]

    def inside(self, name: str) -> Store:
        """A folder in this one."""
        return replace(self, location=self.location.inside(name))

    def info(self, url: str) -> Mapping[str, Any] | None:
        """What fsspec tells about a file or folder, asked anew; None where there is none.

        Raises:
            InflateError: the store cannot be asked.
        """
        self.fs.invalidate_cache()
        with self._in_words("looked up"):
            try:
                found: Mapping[str, Any] = self.fs.info(url)
                return found
            except FileNotFoundError as error:
                absent = error
        # The web's driver says this of every failure, and keeps what happened as the cause.
        cause, scheme = absent.__cause__, self.location.scheme
        if scheme in ("http", "https") and cause and status_of(cause) not in (404, 410):
            shown = self.location.shown()
            raise self.kind(f"{shown} cannot be looked up: {reason(cause, scheme)}") from cause
        return None

    def stat(self, name: str) -> RemoteFile | None:
        """Describe a file of the folder; None where there is no file of this name.

        Raises:
            InflateError: the store cannot be asked, or does not tell the size.
        """
        url = self.location.url(name)
        info = self.info(url)
        if info is None or info.get("type") != "file" or _is_listing(info):
            return None
        if info.get("size") is None:
            raise self.kind(
                f"{self.location.shown(name)}: the server does not tell its size, so that a "
                "download could not be verified; download it by other means and give its path"
            )
        with self._in_words("looked up"):
            digests = digests_of(self.fs, self.location.scheme, url, info)
        return RemoteFile(name, int(info["size"]), version_of(info), digests)

    def download(self, file: RemoteFile, to: Path, counter: Counter) -> None:
        """Copy a file of the folder to a path; whether the copy is whole is not looked at.

        Raises:
            InflateError: the store cannot give it.
        """
        with self._in_words("downloaded", file.name):
            url = self.location.url(file.name)
            self.fs.get_file(url, str(to), callback=_callback(counter, file.size))

    def upload(self, path: Path, name: str, counter: Counter, **options: Any) -> None:
        """Copy a local file into the folder, under a name that may lead into folders of it.

        Raises:
            InflateError: the store cannot take it.
        """
        with self._in_words("written", name):
            url = self.location.url(name)
            size = path.stat().st_size
            self.fs.put_file(str(path), url, callback=_callback(counter, size), **options)

    @contextmanager
    def _in_words(self, done: str, name: str | None = None) -> Iterator[None]:
        what = f"{self.location.shown(name)} cannot be {done}"
        with in_words(what, self.location.scheme, self.kind):
            yield


def open_store(location: Location, kind: type[InflateError] = CheckpointError) -> Store:
    """Open the store of a location.

    Raises:
        InflateError: as ``kind``: an unknown scheme, a driver that is missing, or a store that
            cannot be reached.
    """
    shown, scheme = location.shown(), location.scheme
    with needed(shown, scheme, kind):
        import fsspec

        known = set(fsspec.available_protocols()) - _WRAPPERS
        if scheme not in known:
            raise kind(
                f"{shown}: the scheme {scheme!r} is unknown{nearest(scheme, known)}; expected a "
                "path, or one of s3://, gs://, https://, hf:// and others that fsspec knows"
            )
        fsspec.get_filesystem_class(scheme)
        options = _web_options() if scheme in ("http", "https") else {}
        with in_words(f"{shown} cannot be reached", scheme, kind):
            # Not one of fsspec's shared instances: those keep listings and old credentials.
            fs, _ = fsspec.core.url_to_fs(
                location.folder + location.tail, skip_instance_cache=True, **options
            )
    return Store(location, fs, kind)


def _web_options() -> dict[str, Any]:
    import aiohttp

    # aiohttp's default ends every download after five minutes, however well it goes, and leaves the
    # proxies of the environment alone.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=120)
    return {
        "client_kwargs": {"timeout": timeout, "trust_env": True},
        "headers": {"Accept-Encoding": "identity"},
    }


def _callback(counter: Counter, size: int) -> Any:
    from fsspec.callbacks import Callback

    def told(_size: int | None, value: int, **_: object) -> None:
        counter.at(value, size)

    return Callback(hooks={"count": told})


def _is_listing(info: Mapping[str, Any]) -> bool:
    """Whether a web server answered a file's address with that of a folder's listing."""
    final = str(info.get("url", "")).partition("?")[0]
    return final.endswith("/") and not str(info["name"]).partition("?")[0].endswith("/")
