"""The ledger: the result of every job, in an SQLite file next to the outputs.

Only one batch at a time can open a ledger. Its workers inherit the lock, which the system releases
when the batch and all its workers have ended.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sqlite3
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from inflate.errors import OutputError, quoted
from inflate.io.location import is_remote
from inflate.io.protected import check_written
from inflate.io.staging import make_folder

State = Literal["not-run", "publishing", "held", "unequal", "failed"]
"""``publishing`` is recorded before the output gets its name, to identify it after a crash."""

Made = tuple[str | None, str]
"""The mark and the fingerprint of an output."""


@dataclass(frozen=True)
class Row:
    """The state of an output; all fields except ``made`` are from the last attempt.

    ``source_key`` comes from ``files.key_of_source``. ``made`` lists the files that batches
    published or were about to publish here, the latest last. Only these may be replaced.
    """

    output: str
    state: State = "not-run"
    attempts: int = 0
    settings: str | None = None
    source_mark: str | None = None
    source_key: str | None = None
    made: tuple[Made, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict)


_VERSION, _PROGRAM = 5, 0x1F1A7E
_IDS = struct.pack(">II", _VERSION, _PROGRAM)


class Ledger:
    """An open ledger; use it as a context manager, in one thread. ``lock`` is for workers."""

    def __init__(self, path: Path, waits: Callable[[], None] = lambda: None) -> None:
        """Open or create a ledger; ``waits`` is called if another batch has it open.

        Raises:
            OutputError: it cannot be opened, or is not a ledger of this version.
        """
        self.path = path
        check_written([path], ())
        check_ours(path)
        make_folder(path.parent)
        self.lock = _lock(path, waits)
        try:
            with self._errors():
                self._db = sqlite3.connect(path, isolation_level=None)
                self._db.execute(f"PRAGMA user_version = {_VERSION}")
                self._db.execute(f"PRAGMA application_id = {_PROGRAM}")
                columns = "output PRIMARY KEY, content, digest"
                self._db.execute(f"CREATE TABLE IF NOT EXISTS jobs ({columns})")
                found = self._db.execute("SELECT output, content, digest FROM jobs")
                self.rows = {row.output: row for row in map(_row, found)}
        except BaseException:
            self._unlock()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
        self._unlock()

    def row(self, output: str) -> Row:
        """The row of a path or URL; a new row if there is none."""
        if not is_remote(output):
            output = os.path.relpath(output, self.path.parent)
        return self.rows.get(output, Row(output))

    def write(self, row: Row) -> Row:
        """Record a row.

        Raises:
            OutputError: it cannot be recorded.
        """
        with self._errors():
            content = json.dumps(vars(row), allow_nan=False)
            values = (row.output, content, _digest(row.output, content))
            self._db.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?)", values)
        self.rows[row.output] = row
        return row

    def _unlock(self) -> None:
        with suppress(OSError):
            _lock_path(self.path).unlink()
        os.close(self.lock)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError) as error:
            raise OutputError(
                f"{self.path} cannot be used as a ledger: {error}. Choose another with --ledger"
            ) from error


def files_of_ledger(path: Path) -> list[Path]:
    """The ledger, and the files that are kept next to it while it is open."""
    return [path, Path(f"{path}-journal"), _lock_path(path)]


def _lock_path(path: Path) -> Path:
    return path.parent / f".{path.name}.lock"  # Also of a path without a name, as "."


def _lock(path: Path, waits: Callable[[], None]) -> int:
    """The handle of the lock, after any other batch has released it."""
    while True:
        try:
            handle = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waits()
                fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise OutputError(
                f"{path} cannot be locked: {error.strerror}; choose another place with --ledger"
            ) from error
        with suppress(OSError):
            if os.path.samestat(os.fstat(handle), _lock_path(path).stat()):
                return handle
        os.close(handle)  # The other batch has ended and removed the file.


def check_ours(path: Path) -> None:
    """Refuse another program's file, by its header: SQLite may change a file that it opens.

    Source:
        The application id and the user version: section 1.3 of https://sqlite.org/fileformat2.html.
    """
    head = b""
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(72)
    ours = head[:16] == b"SQLite format 3\0" and head[60:64] + head[68:72] == _IDS
    if path.is_dir() or (head and not ours):
        raise OutputError(
            f"{path} is not a ledger of version {_VERSION}; choose another with --ledger"
        )


def _digest(output: object, content: object) -> str:
    return hashlib.sha256(f"{output!r} {content!r}".encode()).hexdigest()


def _row(values: tuple[Any, ...]) -> Row:
    """Parse a stored row.

    Raises:
        ValueError: another program has changed it.
    """
    output, content, digest = values
    if digest != _digest(output, content):
        raise ValueError(f"another program changed its row {quoted(output)}")
    found = json.loads(content)
    return Row(**{**found, "made": tuple(map(tuple, found["made"]))})
