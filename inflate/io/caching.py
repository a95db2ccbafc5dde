"""The cache of downloads: a file gets its name there only when it is whole and verified.

Files that belong together have a folder for each of their versions, so that a version that is in
use is never overwritten. (fsspec's ``filecache`` writes to the final name, overwrites a version in
use, and checks neither sizes nor hashes.) Locks and unfinished downloads lie next to the folders.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

from inflate.errors import CheckpointError, OutputError
from inflate.io.contents import RemoteFile
from inflate.io.faults import needs_driver
from inflate.io.folder import RemoteFolder
from inflate.progress import Progress


def cache_folder() -> Path:
    """Where downloads are kept: INFLATE_CACHE, or ``inflate`` in the user's folder for caches.

    Raises:
        CheckpointError: there is no such place.
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
    """A temporary folder for outputs that are made here and uploaded.

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
            f"the output cannot be made in {error.filename or chosen}: {error.strerror}; set "
            "INFLATE_CACHE to a folder that can be written"
        ) from error
    with folder as name:
        yield Path(name)


def place_for(folder: RemoteFolder, files: Sequence[RemoteFile]) -> Path:
    """The folder of the cache for some files in these versions."""
    parts = sorted([folder.url(file.name), file.version, file.size] for file in files)
    return cache_folder() / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def work_folder(place: Path) -> Path:
    """Where the unfinished files of a folder of the cache lie, and what is known about them."""
    return place.with_name(f"{place.name}.work")


def is_whole(place: Path, file: RemoteFile) -> bool:
    """Whether the cache holds a whole file in this version."""
    path = place / file.name
    return bool(file.version) and path.is_file() and path.stat().st_size == file.size


def summed(phase: str, sizes: Sequence[int], progress: Progress) -> Iterator[Progress]:
    """A callback for each of several files, moved one after another, that reports on all of them.

    Args:
        phase: what is reported, such as ``downloading``.
        sizes: the bytes of each file.
        progress: where to.
    """
    total, done = sum(sizes), 0
    for size in sizes:

        def moved(phase: str, count: int, _: int, before: int = done) -> None:
            progress(phase, before + count, total)

        moved(phase, 0, size)
        yield moved
        done += size
        progress(phase, done, total)


def fetch_whole(folder: RemoteFolder, files: Sequence[RemoteFile], progress: Progress) -> Path:
    """A folder of the cache that holds whole copies of these files.

    Raises:
        CheckpointError: a file cannot be downloaded, or what arrives is not what was promised.
    """
    place = place_for(folder, files)
    if not all(is_whole(place, file) for file in files):
        with locked(place, folder.shown(), progress):
            missing = [file for file in files if not is_whole(place, file)]
            download(folder, missing, place, progress)
    return place


def download(
    folder: RemoteFolder, files: Sequence[RemoteFile], place: Path, progress: Progress
) -> None:
    """Put whole and verified copies of files into a locked folder of the cache.

    Raises:
        CheckpointError: as :func:`fetch_whole`.
    """
    sizes = [file.size for file in files]
    for moved, file in zip(summed("downloading", sizes, progress), files, strict=True):
        _download(folder, file, place, moved)


def _download(folder: RemoteFolder, file: RemoteFile, place: Path, progress: Progress) -> None:
    shown = folder.shown(file.name)
    with local_errors():
        # A folder of its own: when it is gone, a driver's thread that outlives an interrupted
        # download cannot write to a file of the next one.
        work = TemporaryDirectory(dir=work_folder(place), ignore_cleanup_errors=True)
    with work:
        part = Path(work.name) / file.name
        folder.download(file, part, progress)
        with local_errors():
            wrong = file.check(part)
        if wrong:
            raise CheckpointError(f"{shown} arrived with {wrong}; it is not used. Try again")
        check_version(folder, file)  # Several requests may have read two versions.
        with local_errors():
            with part.open("rb+") as written:
                os.fsync(written.fileno())
            os.replace(part, place / file.name)


def check_version(folder: RemoteFolder, file: RemoteFile) -> None:
    """Check that a file still has the version that is read.

    Raises:
        CheckpointError: it has changed, or is gone.
    """
    if folder.stat(file.name) != file:
        raise CheckpointError(
            f"{folder.shown(file.name)} changed while it was downloaded; it is not used. Try again"
        )


@contextmanager
def locked(place: Path, shown: str, progress: Progress) -> Iterator[None]:
    """Hold a folder of the cache, which is made; wait while another process downloads into it.

    Raises:
        CheckpointError: the cache cannot be written, or filelock is missing.
    """
    with needs_driver(shown, shown.partition(":")[0], CheckpointError):
        from filelock import FileLock, Timeout
    work = work_folder(place)
    with local_errors():
        place.mkdir(parents=True, exist_ok=True)
        work.mkdir(exist_ok=True)
    lock = FileLock(work / ".lock")
    try:
        with local_errors():
            lock.acquire(timeout=0)
    except Timeout:
        progress("waiting for another download", 0, 0)
        lock.acquire()
    try:
        for abandoned in work.glob("tmp*"):  # Left by a process that was killed.
            rmtree(abandoned, ignore_errors=True)
        yield
    finally:
        lock.release()


@contextmanager
def local_errors() -> Iterator[None]:
    """Raise what the disk of the cache refuses as a CheckpointError."""
    try:
        yield
    except TimeoutError:  # filelock's, which is an OSError too.
        raise
    except OSError as error:
        raise CheckpointError(
            f"the cache {cache_folder()} cannot be used: {error.strerror}; free some space there, "
            "or set INFLATE_CACHE to a folder that can be written"
        ) from error
