"""By what a file is known to be the one it was, without reading it: size, time and inode.

A mark that has changed says nothing yet, since a copy has other times: then the hash decides.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from inflate.errors import CheckpointError, quoted
from inflate.io.files import find_files, hash_file, hash_files
from inflate.io.remote import is_remote, local_path, version
from inflate.progress import silent
from inflate.workflow.sources import local_source


@dataclass(frozen=True)
class Mark:
    """What a location looked like: each of its files, relative to it, or a store's version."""

    parts: tuple[tuple[str | int, ...], ...]

    def text(self) -> str:
        """The mark as the ledger keeps it."""
        return json.dumps(self.parts)


def parse_mark(text: str | None) -> Mark | None:
    """The mark that the ledger kept.

    Raises:
        ValueError: it is not the text of a mark.
    """
    if not text:
        return None
    parts = json.loads(text)
    if not isinstance(parts, list) or not all(
        isinstance(part, list) and part and all(isinstance(fact, (str, int)) for fact in part)
        for part in parts
    ):
        raise ValueError(f"{quoted(text)} is not a mark")
    return Mark(tuple(map(tuple, parts)))


def source_still(location: str, mark: Mark | None) -> bool:
    """Whether a source looks as it did; it is not opened.

    Raises:
        InflateError: a store cannot be asked.
    """
    if mark is None:
        return False
    if is_remote(location):
        return _remote_source(location) == mark
    return _marked(local_path(location), [str(part[0]) for part in mark.parts]) == mark


def is_output(location: str, mark: Mark | None, sha256: str | None) -> bool:
    """Whether an output is the one of a mark, or at least of its hash."""
    if sha256 is None:
        return False
    found = mark_of_output(location)
    if found is None or found == mark:
        return found is not None
    if is_remote(location) or (mark and _sizes(found) != _sizes(mark)):
        return False
    try:
        return hash_of_output(location) == sha256
    except CheckpointError:
        return False


def mark_of_output(location: str | Path) -> Mark | None:
    """The mark of a file, or of every file of a folder; None where there is nothing."""
    if isinstance(location, str) and is_remote(location):
        found = version(location)
        return None if found is None else Mark((("version", found),))
    path = location if isinstance(location, Path) else local_path(location)
    if not path.is_dir():
        return _marked(path, [""])
    return _marked(path, sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()))


def mark_of_source(location: str) -> Mark | None:
    """The mark of everything that a conversion reads of a source; None where there is nothing.

    A folder is in its own mark, so that a file that comes into it is noticed.

    Raises:
        InflateError: a store cannot be asked.
    """
    if is_remote(location):
        return _remote_source(location)
    path = local_path(location)
    try:
        files = find_files(path)
        names = [os.path.relpath(file, path) for file in files.read.marks if file != path]
    except CheckpointError:
        names = []
    return _marked(path, ["", *sorted(names)])


def hash_of_source(location: str) -> str:
    """The SHA-256 of a source, as a conversion records it; of a broken one, of what is there.

    Of a remote source that is read in part and whose store gives no hash, that of its URL and mark.
    """
    path = local_source(location, silent)
    try:
        found = hash_files(find_files(path))
    except CheckpointError:
        found = hash_file(path) if path.is_file() else ""
    if found:
        return found
    mark = mark_of_source(location) if is_remote(location) else mark_of_output(path)
    text = (location if is_remote(location) else "") + (mark.text() if mark else "")
    return hashlib.sha256(text.encode()).hexdigest()


def hash_of_output(location: str) -> str:
    """The SHA-256 of a local output, as a conversion records it."""
    return hash_files(find_files(local_path(location)))


def _remote_source(location: str) -> Mark | None:
    found = version(location)
    if found == "":
        # The store gives nothing to go by: its verified copy in the cache does.
        return mark_of_source(str(local_source(location, silent)))
    return None if found is None else Mark((("version", found),))


def _sizes(mark: Mark) -> list[tuple[str | int, ...]]:
    return [part[:2] for part in mark.parts]


def _marked(path: Path, names: Iterable[str]) -> Mark | None:
    parts = []
    for name in names:
        try:
            found = os.stat(path / name if name else path)
        except OSError:
            return None
        size = found.st_size if stat.S_ISREG(found.st_mode) else 0
        parts.append((name, size, found.st_mtime_ns, found.st_ino))
    return Mark(tuple(parts))
