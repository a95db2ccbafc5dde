"""The cache of downloads: a file gets its name there only when it is whole and verified.

Every URL and version of its content has a folder, so that files that belong together lie side by
side. Beside each file lies a record, written last: a file without one, or of another size than it
says, is downloaded again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

from inflate.errors import CheckpointError, OutputError
from inflate.io.remote.contents import RemoteFile, algorithms_for, difference, hashes_of
from inflate.io.remote.counting import Counter
from inflate.io.remote.extras import needed
from inflate.io.remote.location import Location
from inflate.io.remote.stores import Store
from inflate.progress import Progress

_PART = ".part"


@dataclass(frozen=True)
class CachedStore:
    """A folder of a store whose files are used by way of the cache."""

    store: Store

    def inside(self, name: str) -> CachedStore:
        """A folder in this one."""
        return CachedStore(self.store.inside(name))

    def shown(self, name: str | None = None) -> str:
        """The URL of a file for messages."""
        return self.store.location.shown(name)

    def near(self, name: str) -> str:
        """Nothing: a store may hold more names than are worth listing for a hint."""
        return ""

    def stat(self, name: str) -> RemoteFile | None:
        """Describe a file; None where there is none of this name."""
        return self.store.stat(name)

    def fetch(self, files: Sequence[RemoteFile], progress: Progress) -> Path:
        """A local folder that holds whole copies of these files.

        Raises:
            CheckpointError: a file cannot be downloaded, or what arrives is not what was promised.
        """
        folder = _entry(self.store, files)
        if all(_is_whole(folder, file) for file in files):
            return folder
        with _locked(folder, self.store.location, progress):
            missing = [file for file in files if not _is_whole(folder, file)]
            counter = Counter("downloading", sum(file.size for file in missing), progress)
            for file in missing:
                self._download(file, folder, counter)
                counter.finish(file.size)
        return folder

    def _download(self, file: RemoteFile, folder: Path, counter: Counter) -> None:
        shown = self.shown(file.name)
        with _local_errors(folder):
            # A folder of its own: when it is gone, a driver's thread that outlives an interrupted
            # download has no place to begin a file in.
            work = TemporaryDirectory(_PART, ".", folder, ignore_cleanup_errors=True)
        with work:
            part = Path(work.name) / file.name
            self.store.download(file, part, counter)
            with _local_errors(folder):
                hashes = hashes_of(part, algorithms_for(file))
                wrong = difference(part.stat().st_size, hashes, file)
            if wrong:
                raise CheckpointError(
                    f"{shown} arrived with {wrong}; nothing of it is used. Try again"
                )
            # A download in several requests may have met two contents; its size may be right still.
            if self.stat(file.name) != file:
                raise CheckpointError(
                    f"{shown} changed while it was downloaded; nothing of it is used. Try again"
                )
            with _local_errors(folder):
                _keep(part, folder, file, hashes["sha256"], shown)


def cache_folder() -> Path:
    """Where downloads are kept: INFLATE_CACHE, or ``inflate`` in the user's folder for caches.

    Raises:
        CheckpointError: nothing tells where that would be.
    """
    chosen, general = os.environ.get("INFLATE_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        if chosen:
            return Path(chosen).expanduser().absolute()
        # The standard wants a relative XDG_CACHE_HOME to be ignored.
        if general and Path(general).is_absolute():
            return Path(general) / "inflate"
        return Path.home() / ".cache" / "inflate"
    except (RuntimeError, FileNotFoundError) as error:  # Also of a deleted working directory.
        raise CheckpointError(
            f"the cache of downloads has no place: {error}; set INFLATE_CACHE to a folder"
        ) from error


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for what is made here before it is sent off, removed with all that is in it.

    It lies in the cache where INFLATE_CACHE chooses one, since a system's own place for temporary
    files is often small; else there.

    Raises:
        OutputError: it cannot be made.
    """
    chosen = os.environ.get("INFLATE_CACHE")
    try:
        place = cache_folder() if chosen else None
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(prefix="inflate-", dir=place)
    except OSError as error:
        raise OutputError(
            f"there is no place to make the output in: {error.filename or chosen}: "
            f"{error.strerror}; set INFLATE_CACHE to a folder that can be written"
        ) from error
    with folder as name:
        yield Path(name)


def _entry(store: Store, files: Sequence[RemoteFile]) -> Path:
    """The folder of some files in these versions."""
    parts = [[store.location.url(file.name), file.version, file.size] for file in files]
    key = hashlib.sha256(json.dumps(sorted(parts)).encode()).hexdigest()[:32]
    return cache_folder() / key


def _is_whole(folder: Path, file: RemoteFile) -> bool:
    """Whether the cache holds this file in this version, unharmed."""
    path = folder / file.name
    try:
        record = json.loads(_record(folder, file).read_bytes())
        status = path.stat()
        if not isinstance(record, dict) or not file.version or record["version"] != file.version:
            return False
        if status.st_size != file.size:
            return False
        if status.st_mtime_ns == record["mtime_ns"]:
            return True
        # Touched since, or changed: its hash tells.
        return bool(record["sha256"] == hashes_of(path, ["sha256"])["sha256"])
    except (OSError, ValueError, KeyError):  # Not there, not readable, or no record of ours.
        return False


def _keep(part: Path, folder: Path, file: RemoteFile, sha256: str, shown: str) -> None:
    """Give a verified download its name, then its record."""
    with part.open("rb+") as written:
        os.fsync(written.fileno())
    path = folder / file.name
    os.replace(part, path)
    record = {
        "url": shown,
        "version": file.version,
        "sha256": sha256,
        "mtime_ns": path.stat().st_mtime_ns,
    }
    part.write_text(json.dumps(record, indent=1), encoding="utf-8")
    os.replace(part, _record(folder, file))


def _record(folder: Path, file: RemoteFile) -> Path:
    return folder / f".{file.name}.json"


@contextmanager
def _locked(folder: Path, location: Location, progress: Progress) -> Iterator[None]:
    """Wait until no other process downloads into a folder; the second finds the files there."""
    with needed(location.shown(), location.scheme, CheckpointError):
        from filelock import FileLock, Timeout
    with _local_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        with _local_errors(folder):
            lock.acquire(timeout=0)
    except Timeout:
        progress("waiting for another download", 0, 0)
        lock.acquire()
    try:
        for abandoned in folder.glob(f".*{_PART}"):  # Who holds the lock is alone here.
            rmtree(abandoned, ignore_errors=True)
        yield
    finally:
        lock.release()


@contextmanager
def _local_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except TimeoutError:  # filelock's, which is an OSError too.
        raise
    except OSError as error:
        raise CheckpointError(
            f"the cache {folder.parent} cannot be used: {error.strerror}; free some space "
            "there, or set INFLATE_CACHE to a folder that can be written"
        ) from error
