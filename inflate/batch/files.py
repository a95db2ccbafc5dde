"""How files are recognised: by size, time and inode, and where these differ by their hash."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from inflate.errors import CheckpointError, OutputError
from inflate.io.files import find_files, hash_file, hash_files
from inflate.io.remote import is_remote, local_path, version
from inflate.progress import silent
from inflate.workflow.sources import local_source

# A mark is JSON: a list of [name, size, time, inode] of every file, or the version in a store.


def looks_unchanged(source: str, mark: str | None) -> bool:
    """Whether a source still has this mark; it is not opened.

    Raises:
        InflateError: a store cannot be asked.
    """
    if mark is None:
        return False
    if is_remote(source):
        return mark_of_source(source) == mark
    try:
        names = [name for name, *_ in json.loads(mark)]
        return _mark(local_path(source), names) == mark
    except (TypeError, ValueError):  # Another program has changed the ledger.
        return False


def is_output(location: str, mark: str | None, sha256: str) -> bool:
    """Whether an output has this mark, or else this hash."""
    found = mark_of_output(location)
    if found is None or found == mark:
        return found is not None
    if is_remote(location):
        return False
    try:
        return hash_of_output(local_path(location)) == sha256
    except CheckpointError:
        return False


def mark_of_output(location: str | Path) -> str | None:
    """The mark of a file, or of every file of a folder; None where there is nothing."""
    if isinstance(location, str) and is_remote(location):
        found = version(location)
        return None if found is None else json.dumps([["version", found]])
    path = location if isinstance(location, Path) else local_path(location)
    if not path.is_dir():
        return _mark(path, [""])
    return _mark(path, sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()))


def mark_of_source(location: str) -> str | None:
    """The mark of everything that a conversion reads of a source; None where there is nothing.

    The mark of a folder holds the folder itself, so that an added file is noticed.

    Raises:
        InflateError: a store cannot be asked.
    """
    if is_remote(location):
        found = version(location)
        if found != "":
            return None if found is None else json.dumps([["version", found]])
        # The store has no versions: the mark is that of the verified copy in the cache.
        location = str(local_source(location, silent))
    path = local_path(location)
    try:
        names = [
            os.path.relpath(file, path) for file in find_files(path).read.marks if file != path
        ]
    except CheckpointError:
        names = []
    return _mark(path, ["", *sorted(names)])


def hash_of_source(location: str) -> str:
    """The SHA-256 of a source; of a broken source, of what is there.

    Of a remote source that is read in part and whose store gives no hash, that of its URL and mark.
    """
    path = local_source(location, silent)
    try:
        found = hash_files(find_files(path))
    except CheckpointError:
        found = hash_file(path) if path.is_file() else ""
    if found:
        return found
    text = f"{location} {mark_of_source(location)}" if is_remote(location) else mark_of_output(path)
    return hashlib.sha256((text or "").encode()).hexdigest()


def hash_of_output(path: Path) -> str:
    """The SHA-256 of a local output: of its file, or of the files of its folder."""
    return hash_files(find_files(path))


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror}") from error


def _mark(path: Path, names: Iterable[str]) -> str | None:
    parts = []
    for name in names:
        try:
            found = os.stat(path / name)
        except OSError:
            return None
        size = found.st_size if stat.S_ISREG(found.st_mode) else 0
        parts.append([name, size, found.st_mtime_ns, found.st_ino])
    return json.dumps(parts)
