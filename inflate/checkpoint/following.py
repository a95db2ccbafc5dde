"""What is done with a file while it is still being written, on other threads, close behind."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition

_READ, _SYNCED = 1 << 20, 1 << 26


class StoppedError(Exception):
    """The writing was given up."""


@dataclass
class Mark:
    """How far a file is written, for those who follow."""

    _reached: int = 0
    _ended: bool = False
    _stopped: bool = False
    _moved: Condition = field(default_factory=Condition)

    def reach(self, offset: int) -> None:
        """All bytes before ``offset`` hold what they will hold."""
        with self._moved:
            self._reached = offset
            self._moved.notify_all()

    def end(self) -> None:
        """All that will be written is."""
        with self._moved:
            self._ended = True
            self._moved.notify_all()

    def close(self) -> None:
        """Nobody follows any further; without effect on those who have come to the end."""
        with self._moved:
            self._stopped = not self._ended
            self._moved.notify_all()

    def wait(self, beyond: int) -> int:
        """How far the file is written, once that is beyond an offset or the end.

        Raises:
            StoppedError: the writing was given up.
        """
        with self._moved:
            self._moved.wait_for(lambda: self._stopped or self._ended or self._reached > beyond)
            if self._stopped:
                raise StoppedError
            return self._reached


def hash_behind(mark: Mark, path: Path, head: Callable[[], bytes]) -> str:
    """The SHA-256 of a file, read back as it is written.

    Args:
        mark: how far it is written.
        path: the file.
        head: what the file will begin with, which may be more than it begins with now; asked for
            once the file has its beginning.

    Raises:
        StoppedError: the writing was given up.
    """
    mark.wait(0)
    begin = head()
    digest = hashlib.sha256(begin)
    at = len(begin)
    buffer = memoryview(bytearray(_READ))
    with path.open("rb", buffering=0) as file:
        file.seek(at)
        while (end := mark.wait(at)) > at:
            while at < end:
                count = file.readinto(buffer[: min(_READ, end - at)])
                if not count:
                    raise OSError(f"{path} ended at byte {at}; {end} were written")
                digest.update(buffer[:count])
                at += count
    return digest.hexdigest()


def sync_behind(mark: Mark, handle: int) -> None:
    """Bring a file onto the disk as it is written, so that little is left to wait for at its end.

    Raises:
        OSError: the disk refuses.
        StoppedError: the writing was given up.
    """
    sync = getattr(os, "fdatasync", os.fsync)  # Which macOS lacks.
    at = 0
    while (end := mark.wait(at + _SYNCED)) > at:
        sync(handle)
        at = end
