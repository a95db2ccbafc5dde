"""Hidden files and folders next to a destination, and those that killed runs have left."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: an abandoned staged file is left for its user to remove.
    fcntl = None  # type: ignore[assignment]

_ENDING = ".staged"
_LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{8}\.staged")
"""Staged files; the file that they belong to in the middle."""


def hidden_name(destination: Path) -> Path:
    """A name for what is being made for a destination."""
    return destination.with_name(f".{destination.name}.{secrets.token_hex(4)}{_ENDING}")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that a reader finds it whole, or as it was.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    hidden = path.with_name(f".{secrets.token_hex(8)}{_ENDING}")  # The name may be a long one.
    try:
        with hidden.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)


def leftover_of(name: str) -> str | None:
    """The name of the file whose leftover a file of this name would be."""
    found = _LEFTOVER.fullmatch(name)
    return found and found[1]


def hold(path: Path, held: ExitStack) -> bool:
    """Lock a file or folder that was just made, until ``held`` is left; False if it is gone."""
    if not fcntl:
        return True
    try:
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except FileNotFoundError:
        return False
    held.callback(os.close, handle)
    with suppress(OSError):  # What no run can lock, no run takes for abandoned.
        fcntl.flock(handle, fcntl.LOCK_EX)
    return path.exists()


def remove_abandoned(destination: Path, *, folder: bool) -> None:
    """Remove what an earlier run that was killed left staged for this destination."""
    if not fcntl:
        return
    try:
        entries = list(os.scandir(destination.parent))
    except OSError:  # A folder that may be written and not be listed: nothing is found in it.
        return
    for entry in entries:
        if leftover_of(entry.name) != destination.name or not entry.name.endswith(_ENDING):
            continue
        ours = entry.is_dir if folder else entry.is_file
        if not ours(follow_symlinks=False):
            continue
        with suppress(OSError):
            handle = os.open(entry.path, os.O_RDONLY if folder else os.O_RDWR)
            try:
                # Refused where a run that is alive holds it.
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(Path(entry.path))
            finally:
                os.close(handle)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, as far as that can be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
