"""The cache of downloads: a file gets its name there only when it is whole and verified.

Files that belong together have a folder for each of their versions. Hidden files are the cache's.
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

    It lies in INFLATE_CACHE where that is set: a system's place for temporary files is often small.
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
    """The folder of the cache for some files in these versions."""
    parts = sorted([folder.url(file.name), file.version, file.size] for file in files)
    # The first entry stands for how the cache is laid out, and changes with it.
    key = json.dumps([2, *parts]).encode()
    return cache_folder() / hashlib.sha256(key).hexdigest()[:32]


def record_of(path: Path) -> Path:
    """The record of the parts of a file in the cache that have arrived, until all have."""
    return path.with_name(f".{path.name}.parts")


def is_whole(place: Path, file: RemoteFile) -> bool:
    """Whether the cache holds a whole file in this version."""
    path = place / file.name
    whole = path.is_file() and path.stat().st_size == file.size and not record_of(path).exists()
    return whole and bool(file.version)


def download(
    folder: StoreFolder, files: Sequence[RemoteFile], place: Path, progress: Progress
) -> None:
    """Put verified copies of the files that it lacks into a locked folder of the cache."""
    files = [file for file in files if not is_whole(place, file)]
    callbacks = summed("downloading", [file.size for file in files], progress)
    for moved, file in zip(callbacks, files, strict=True):
        with local_errors():
            # A folder of its own: when it is gone, a driver's thread that outlives an interrupted
            # download cannot write to a file of the next one.
            work = TemporaryDirectory(prefix=_UNFINISHED, dir=place, ignore_cleanup_errors=True)
        with work:
            part = Path(work.name) / file.name
            folder.download(file, part, moved)
            check_arrived(folder, file, part)
            check_version(folder, file)  # Several requests may have read two versions.
            with local_errors():
                with part.open("rb+") as written:
                    os.fsync(written.fileno())
                os.replace(part, place / file.name)


def check_arrived(folder: StoreFolder, file: RemoteFile, path: Path) -> None:
    """Raise CheckpointError where a copy differs from what its store says of it."""
    with local_errors():
        wrong = file.check(path)
    if wrong:
        raise folder.damaged(file, wrong)


def check_version(folder: StoreFolder, file: RemoteFile) -> None:
    """Raise CheckpointError where a file no longer has the version that is read."""
    if folder.stat(file.name) != file:
        raise CheckpointError(
            f"{folder.shown(file.name)} changed while it was downloaded; try again"
        )


@contextmanager
def locked(place: Path, shown: str, progress: Progress) -> Iterator[None]:
    """Hold a folder of the cache, which is made; wait while another process downloads into it."""
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
    """Raise what the disk of the cache refuses as a CheckpointError."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"the cache {cache_folder()} cannot be used: {error.strerror}; free some space there, "
            "or set INFLATE_CACHE to a folder that can be written"
        ) from error
