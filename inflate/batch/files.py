"""Recognise unchanged files: by size, time and inode, and if these differ, by content."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inflate.config.schema import Config
from inflate.errors import InflateError
from inflate.formats.fingerprint import fingerprint_of
from inflate.formats.locate import locate
from inflate.formats.recorded import FINGERPRINT_KEY
from inflate.formats.views import autoencoder_view
from inflate.io.files import read_files
from inflate.io.location import is_remote
from inflate.io.reader import open_checkpoint
from inflate.io.remote import version
from inflate.options import ConvertOptions
from inflate.progress import silent
from inflate.workflow.planning import find_source
from inflate.workflow.sources import local_source

# A mark is JSON: a list of [name, size, time, inode] per file, or the version in a store.


def is_output(location: str, mark: str | None, fingerprint: str) -> bool:
    """Whether an output has this mark, or is a complete file of ours with this fingerprint."""
    found = mark_of_output(location)
    if found is None or found == mark:
        return found is not None
    if is_remote(location):
        return False
    try:
        with open_checkpoint(Path(location)) as checkpoint:
            located = locate(checkpoint.tensors, checkpoint.path)
            own = fingerprint_of(autoencoder_view(checkpoint, located))
            # Its header matches, and nothing was added: replacing it loses nothing.
            recorded = checkpoint.metadata.get(FINGERPRINT_KEY)
            return own == recorded == fingerprint and not located.dropped
    except InflateError:
        return False


def mark_of_output(location: str | Path) -> str | None:
    """The mark of a file, or of every file of a folder; None if it does not exist."""
    if isinstance(location, str) and is_remote(location):
        found = version(location)
        return None if found is None else json.dumps([["version", found]])
    path = Path(location)
    if not path.is_dir():
        return _mark(path, ["."])
    return _mark(path, sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()))


def mark_of_source(location: str) -> str | None:
    """The mark of everything that a conversion reads from a source; None if it does not exist.

    The mark of a folder includes the folder itself, so that an added file is noticed.

    Raises:
        InflateError: a store cannot be queried.
    """
    if is_remote(location):
        found = version(location)
        if found != "":
            return None if found is None else json.dumps([["version", found]])
        # The store has no versions: use the mark of the verified copy in the cache.
        location = str(local_source(location, silent))
    path = Path(location)
    # A config.json next to a file is also read.
    nearby = {path if path.is_dir() else path.parent / "config.json"}
    names = {os.path.relpath(file, path) for file in {*read_files(path), *nearby}}
    return _mark(path, sorted(names))


def key_of_source(location: str, options: Mapping[str, Any]) -> str:
    """The :func:`source_key` of a job's source.

    Raises:
        InflateError: it cannot be downloaded, or has no autoencoder.
    """
    with open_checkpoint(local_source(location, silent)) as checkpoint:
        source = find_source(checkpoint, ConvertOptions(**options))
        return source_key(fingerprint_of(source.checkpoint), source.config)


def source_key(fingerprint: str, config: Config) -> str:
    """The key of an autoencoder: a hash over its fingerprint and its configuration."""
    known = json.dumps([fingerprint, asdict(config)], sort_keys=True)
    return hashlib.sha256(known.encode()).hexdigest()


def _mark(path: Path, names: Iterable[str]) -> str | None:
    """The mark of a path that must exist, and of some files that may be missing."""
    parts: list[tuple[str, int, int, int]] = []
    for name in names:
        try:
            found = os.stat(os.path.normpath(path / name))
        except OSError:
            if name == ".":
                return None
            parts.append((name, -1, 0, 0))
            continue
        size = found.st_size if stat.S_ISREG(found.st_mode) else 0
        parts.append((name, size, found.st_mtime_ns, found.st_ino))
    return json.dumps(parts)
