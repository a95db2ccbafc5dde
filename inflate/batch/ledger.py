"""The ledger: the result of every job, in an SQLite file next to the outputs.

Each output has a row with a revision. A change names the revision that it starts from, and is
refused if that is no longer current: only one of two batches can claim a job.
"""

from __future__ import annotations

import json
import os
import sqlite3
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from inflate.batch.files import make_folder
from inflate.batch.owners import Owner, become_owner, is_alive, remove_stale
from inflate.errors import OutputError, quoted
from inflate.io.protected import check_written
from inflate.io.remote import is_remote, local_path

State = Literal["waiting", "running", "publishing", "held", "unequal", "failed"]
"""``publishing`` is written before the output gets its name, so that its maker is known later."""

Made = tuple[str | None, str]
"""The mark and the fingerprint of an output."""


@dataclass(frozen=True)
class Row:
    """The state of an output; all but ``made`` is from the last attempt.

    ``source_key`` is of ``files.key_of_source``. ``made`` lists the files that batches published or
    were about to publish here, the last one at the end. Only these may be replaced.
    """

    output: str
    revision: int = 0
    state: State = "waiting"
    owner: str | None = None
    attempts: int = 0
    settings: str | None = None
    source_mark: str | None = None
    source_key: str | None = None
    made: tuple[Made, ...] = ()
    document: Mapping[str, Any] | None = None


_COLUMNS = ", ".join(field.name for field in fields(Row))
_VERSION, _PROGRAM = 4, 0x1F1A7E
_MOST = 1 << 53


class Ledger:
    """An open ledger; use it as a context, in one thread."""

    def __init__(self, path: Path) -> None:
        """Open a ledger, or make one.

        Raises:
            OutputError: it cannot be opened, or is not a ledger of this version.
        """
        self.path = path
        check_written([path], ())
        _check_ours(path)
        make_folder(path.parent)
        self.owner: Owner = become_owner(path)
        try:
            with self._errors():
                # Another batch may lock the file for a moment.
                self._db = sqlite3.connect(path, timeout=60.0, isolation_level=None)
                with self._transaction():
                    self._db.execute(f"PRAGMA user_version = {_VERSION}")
                    self._db.execute(f"PRAGMA application_id = {_PROGRAM}")
                    table = f"jobs ({_COLUMNS}, PRIMARY KEY (output))"
                    self._db.execute(f"CREATE TABLE IF NOT EXISTS {table}")
        except BaseException:
            self.owner.release()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        """Give back what was claimed and not finished."""
        with self._errors():
            self._db.execute(
                "UPDATE jobs SET state = 'waiting', owner = NULL, revision = revision + 1 "
                "WHERE owner = ? AND state = 'running'",
                (self.owner.token,),
            )
        self._db.close()
        self.owner.release()
        # The workers of a batch that was killed may have lived a moment longer.
        remove_stale(self.path)

    def rows(self) -> dict[str, Row]:
        """Every row by its output."""
        with self._errors():
            found = self._db.execute(f"SELECT {_COLUMNS} FROM jobs")  # noqa: S608
            return {row.output: row for row in map(_row, found)}

    def row(self, output: str) -> Row:
        """The row of an output; a new one where there is none."""
        query = f"SELECT {_COLUMNS} FROM jobs WHERE output = ?"  # noqa: S608
        with self._errors():
            found = self._db.execute(query, (output,)).fetchone()
            return _row(found) if found else Row(output)

    def write(self, row: Row, **changes: Any) -> Row | None:
        """Change a row; None where another batch has changed it since it was read.

        An owner is ``self.owner.token`` or None.
        """
        new = replace(row, **changes, revision=row.revision + 1)
        values = vars(new) | {
            "made": json.dumps(new.made),
            "document": new.document and json.dumps(new.document, allow_nan=False),
        }
        marks = ", ".join("?" * len(values))
        with self._errors(), self._transaction():
            query = "SELECT revision FROM jobs WHERE output = ?"
            now = self._db.execute(query, (row.output,)).fetchone()
            if (now[0] if now else 0) != row.revision:
                return None
            query = f"INSERT OR REPLACE INTO jobs ({_COLUMNS}) VALUES ({marks})"  # noqa: S608
            self._db.execute(query, tuple(values.values()))
        return new

    def is_taken(self, row: Row) -> bool:
        """Whether another batch that is alive works on a row."""
        if row.owner is None or row.owner == self.owner.token:
            return False
        return is_alive(self.path, row.owner)

    def name_of(self, output: str) -> str:
        """The key of an output: its path from the ledger's folder, or its URL."""
        if is_remote(output):
            return output
        return os.path.relpath(local_path(output), self.path.parent)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, RecursionError) as error:
            raise OutputError(
                f"{self.path} cannot be used as a ledger: {error}. Choose another with --ledger"
            ) from error


def files_of_ledger(path: Path) -> list[Path]:
    """The ledger, and the file that SQLite keeps next to it while it writes."""
    return [path, Path(f"{path}-journal")]


def facts_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the summary of a batch takes from the document of a job.

    Raises:
        ValueError: it is not the document of a job.
    """
    try:
        conversion = document.get("conversion") or {}
        parity, seconds = conversion.get("parity"), document.get("seconds")
        facts = dict.fromkeys(("verdict", "compared_with", "max_abs_error", "device"))
        if parity is not None:
            facts = {name: (parity | parity["environment"])[name] for name in facts}
        return {
            **facts,
            "seconds": None if seconds is None else float(seconds),
            "notes": list(conversion.get("notes", ())),
            "error": document.get("error"),
            "traceback": document.get("traceback"),
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"document of a job is {quoted(document)}") from error


def _check_ours(path: Path) -> None:
    """Refuse a file of another program by its header: SQLite may change a file that it opens.

    Source:
        The application id and the user version: section 1.3 of https://sqlite.org/fileformat2.html.

    Raises:
        OutputError: it is not a ledger of this version.
    """
    why = ""
    if path.is_dir():
        why = "it is a folder"
    elif path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            head = file.read(72).ljust(72, b"\0")
        version, program = struct.unpack(">60xI4xI", head)
        if not head.startswith(b"SQLite format 3\0") or program != _PROGRAM:
            why = "another program made it"
        elif version != _VERSION:
            why = f"its version is {version}"
    if why:
        raise OutputError(
            f"{path} is not a ledger of version {_VERSION} ({why}); choose another with --ledger"
        )


def _row(values: tuple[Any, ...]) -> Row:
    """A row of the ledger.

    Raises:
        ValueError: another program has changed it.
    """
    row = Row(*values)
    for name, value in vars(row).items():
        if name in ("revision", "attempts"):
            sound = isinstance(value, int) and 0 <= value < _MOST
        else:
            sound = isinstance(value, str) or (value is None and name not in ("output", "made"))
        if not sound or (name == "state" and value not in get_args(State)):
            raise ValueError(f"{name} of a job is {quoted(value)}")
    made, document = json.loads(str(row.made)), json.loads(str(row.document or "null"))
    try:
        row = replace(row, made=tuple((mark, own) for mark, own in made), document=document)
    except TypeError as error:
        raise ValueError(f"made of a job is {quoted(made)}") from error
    facts_of(row.document or {})
    return row
