"""Which batches are alive: each locks a file, and the lock ends with the last of its processes."""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from inflate.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows has no such locks.
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Owner:
    """This batch: its token in the ledger, and its lock file; workers inherit the open handle."""

    token: str
    path: Path
    handle: int

    def release(self) -> None:
        """Remove the lock file and release the lock."""
        with suppress(OSError):
            self.path.unlink()
        os.close(self.handle)


def become_owner(ledger: Path) -> Owner:
    """Take a new token for a ledger, and lock its file.

    Raises:
        OutputError: the folder of the ledger cannot be written, or the system has no file locks.
    """
    if fcntl is None:
        raise OutputError("batches need the file locks of Linux or macOS; this system has none")
    remove_stale(ledger)
    while True:
        token = secrets.token_hex(8)
        path = _lock_path(ledger, token)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise OutputError(
                f"{ledger} cannot be used: {error.strerror}; choose another place with --ledger"
            ) from error
        if path.exists():
            return Owner(token, path, handle)
        os.close(handle)  # Another batch removed the file as stale before it was locked.


def is_alive(ledger: Path, token: str) -> bool:
    """Whether any process of an owner is alive."""
    if not re.fullmatch("[0-9a-f]{16}", token):  # A ledger that was edited may name any file.
        return False
    try:
        handle = os.open(_lock_path(ledger, token), os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def remove_stale(ledger: Path) -> None:
    """Remove the lock files of owners that were killed."""
    with suppress(OSError):
        for entry in os.scandir(ledger.parent):
            found = re.fullmatch(rf"\.{re.escape(ledger.name)}\.([0-9a-f]{{16}})\.lock", entry.name)
            if found and not is_alive(ledger, found[1]):
                Path(entry.path).unlink(missing_ok=True)


def _lock_path(ledger: Path, token: str) -> Path:
    return ledger.with_name(f".{ledger.name}.{token}.lock")
