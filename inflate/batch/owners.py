"""Who is alive: every process of a batch holds a lock, which the system lets go when it dies.

A batch and its workers hold one lock file together, shared; whoever gets it alone knows that all of
them are gone, however they ended.
"""

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

_DIGITS = "[0-9a-f]{16}"


@dataclass(frozen=True)
class Owner:
    """A batch that is alive, and the file that it locks."""

    token: str
    path: Path
    handle: int

    def release(self) -> None:
        """Let others know that this batch has ended."""
        with suppress(OSError):
            self.path.unlink()
        os.close(self.handle)


def become_owner(ledger: Path) -> Owner:
    """Take a token of a ledger's, and lock its file.

    Raises:
        OutputError: the folder of the ledger cannot be written.
    """
    remove_stale(ledger)
    while True:
        token = secrets.token_hex(8)
        path = _lock_path(ledger, token)
        try:
            path.open("xb").close()
            return Owner(token, path, hold(path))
        except FileNotFoundError as error:
            if path.parent.is_dir():
                continue  # Another batch took it for stale before it was locked: once more.
            raise OutputError(f"{path.parent} is gone; make it anew") from error
        except OSError as error:
            raise OutputError(
                f"{ledger} cannot be used: {error.strerror or error}. Choose another place with "
                "--ledger"
            ) from error


def hold(path: Path) -> int:
    """Hold an owner's lock beside it, for as long as this process lives.

    Raises:
        FileNotFoundError: there is no such owner any more.
    """
    if fcntl is None:
        raise OutputError("batches need the file locks of Linux or macOS, which this system lacks")
    handle = os.open(path, os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_SH)
    if not path.exists():
        os.close(handle)
        raise FileNotFoundError(path)
    return handle


def is_alive(ledger: Path, token: str) -> bool:
    """Whether any process of an owner lives; a token that no batch makes is not looked for."""
    if not re.fullmatch(_DIGITS, token):
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


def _lock_path(ledger: Path, token: str) -> Path:
    return ledger.with_name(f".{ledger.name}.{token}.lock")


def remove_stale(ledger: Path) -> None:
    """Remove the lock files of owners that were killed."""
    with suppress(OSError):
        for entry in os.scandir(ledger.parent):
            found = re.fullmatch(rf"\.{re.escape(ledger.name)}\.({_DIGITS})\.lock", entry.name)
            if found and fcntl and not is_alive(ledger, found[1]):
                Path(entry.path).unlink(missing_ok=True)
