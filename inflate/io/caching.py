"""The download cache: a file gets its final name only when it is complete and verified.

Files that belong together share a folder, one per version. Hidden files are internal.
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
from inflate.io.faults import in_words
from inflate.io.stores import StoreFolder
from inflate.progress import Progress, summed

_UNFINISHED = ".unfinished"


def cache_folder() -> Path:
    """Where downloads are kept: INFLATE_CACHE, or ``~/.cache/inflate``."""
    try:
        chosen = os.environ.get("INFLATE_CACHE") or "~/.cache/inflate"
        return Path(chosen).expanduser().absolute()
    except (RuntimeError, FileNotFoundError) as error:  # Also of a deleted working directory.
        raise CheckpointError(f"{error}; set INFLATE_CACHE to a folder") from error


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder for outputs that are made here and uploaded.

    It is in INFLATE_CACHE if that is set: the system's temporary folder is often small.
    """
    place = cache_folder() if os.environ.get("INFLATE_CACHE") else None
    try:
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(prefix="inflate-", dir=place)
    except OSError as error:
        raise OutputError(
            f"the output cannot be made in {error.filename or place}: {error.strerror}; set "
            "INFLATE_CACHE to a folder that can be written"
        ) from error
    with folder as name:
        yield Path(name)


def place_for(folder: StoreFolder, files: Sequence[RemoteFile]) -> Path:
    """The cache folder for these versions of some files."""
    parts = sorted([folder.url(file.name), file.version, file.size] for file in files)
    # The first entry is the version of the cache layout.
    key = json.dumps([2, *parts]).encode()
    return cache_folder() / hashlib.sha256(key).hexdigest()[:32]


def record_of(path: Path) -> Path:
    """The record of the parts of a cached file that are downloaded; it exists until all are."""
    return path.with_name(f".{path.name}.parts")


def is_whole(place: Path, file: RemoteFile) -> bool:
    """Whether the cache holds a whole file in this version."""
    path = place / file.name
    whole = path.is_file() and path.stat().st_size == file.size and not record_of(path).exists()
    return whole and bool(file.version)


def download(
    folder: StoreFolder, files: Sequence[RemoteFile], place: Path, progress: Progress
) -> None:
    """Download and verify the files that a locked cache folder lacks."""
    files = [file for file in files if not is_whole(place, file)]
    callbacks = summed("downloading", [file.size for file in files], progress)
    for moved, file in zip(callbacks, files, strict=True):
        with local_errors():
            # Use a separate folder: after its removal, a driver thread that outlives an interrupted
            # download cannot write to a file of the next download.
            work = TemporaryDirectory(prefix=_UNFINISHED, dir=place, ignore_cleanup_errors=True)
        with work:
            part = Path(work.name) / file.name
            folder.download(file, part, moved)
            check_arrived(folder, file, part)
            check_version(folder, file)  # Separate requests may have returned different versions.
            with local_errors():
                with part.open("rb+") as written:
                    os.fsync(written.fileno())
                os.replace(part, place / file.name)


def check_arrived(folder: StoreFolder, file: RemoteFile, path: Path) -> None:
    """Raise CheckpointError if a copy does not have the size and hashes that its store gives."""
    with local_errors():
        wrong = file.check(path)
    if wrong:
        raise folder.damaged(file, wrong)


def check_version(folder: StoreFolder, file: RemoteFile) -> None:
    """Raise CheckpointError if a file is no longer the version being read."""
    if folder.stat(file.name) != file:
        raise CheckpointError(
            f"{folder.shown(file.name)} changed while it was downloaded; try again"
        )


@contextmanager
def locked(place: Path, shown: str, progress: Progress) -> Iterator[None]:
    """Create and lock a cache folder; wait while another process downloads into it."""
    with in_words(shown, "", CheckpointError):
        from filelock import FileLock, Timeout
    lock = FileLock(place / ".lock")
    with local_errors():
        place.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress("waiting for another download", 0, 0)
            lock.acquire()
    try:
        for abandoned in place.glob(f"{_UNFINISHED}*"):  # Left by a process that was killed.
            rmtree(abandoned, ignore_errors=True)
        yield
    finally:
        lock.release()


@contextmanager
def local_errors() -> Iterator[None]:
    """Raise errors of the cache's disk as CheckpointError."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"the cache {cache_folder()} cannot be used: {error.strerror}; free some space there, "
            "or set INFLATE_CACHE to a folder that can be written"
        ) from error
