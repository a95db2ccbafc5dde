"""The ledger: what became of each job, in a file of SQLite beside the outputs.

A row belongs to an output. Every change of it counts its revision up, and a change is refused where
the revision is not the one that was looked at: of two batches that want a job, one gets it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from inflate.batch.marks import Mark, parse_mark
from inflate.batch.owners import Owner, become_owner, is_alive, remove_stale
from inflate.errors import OutputError, quoted
from inflate.io.protected import check_written
from inflate.io.remote import is_remote, local_path

State = Literal["waiting", "running", "publishing", "held", "unequal", "failed"]
"""``publishing`` comes before an output gets its name, so that its maker is known after a crash."""

_VERSION = 2
_SCHEMA = (
    """\
CREATE TABLE jobs (
    output TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    state TEXT NOT NULL,
    owner TEXT,
    source_sha256 TEXT,
    settings TEXT,
    output_mark TEXT,
    output_sha256 TEXT,
    previous_mark TEXT,
    previous_sha256 TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    document TEXT,
    changed REAL NOT NULL
)""",
    "CREATE TABLE sources (source TEXT PRIMARY KEY, mark TEXT NOT NULL, sha256 TEXT NOT NULL)",
)
_COLUMNS = (
    "output", "revision", "state", "owner", "source_sha256", "settings", "output_mark",
    "output_sha256", "previous_mark", "previous_sha256", "attempts", "document",
)  # fmt: skip
_COUNTS, _MOST = ("revision", "attempts"), 1 << 53


@dataclass(frozen=True)
class Row:
    """What the ledger knows of an output.

    ``output_mark`` and ``output_sha256`` are those of the file that a batch published last, or is
    about to publish in place of the ``previous``; the rest is of the last attempt.
    """

    output: str
    revision: int = 0
    state: State = "waiting"
    owner: str | None = None
    source_sha256: str | None = None
    settings: str | None = None
    output_mark: Mark | None = None
    output_sha256: str | None = None
    previous_mark: Mark | None = None
    previous_sha256: str | None = None
    attempts: int = 0
    document: Mapping[str, Any] | None = None


class Ledger:
    """An open ledger; use it as a context, in one thread."""

    def __init__(self, path: Path) -> None:
        """Open a ledger, or make one.

        Raises:
            OutputError: it cannot be opened or is no ledger of this version.
        """
        self.path = path
        check_written([path], ())
        _check_ours(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{path.parent} cannot be made: {error.strerror}") from error
        self.owner: Owner = become_owner(path)
        try:
            self._open()
        except BaseException:
            self.owner.release()
            raise

    def _open(self) -> None:
        with self._in_words():
            # Another batch may hold the file for a moment.
            self._db = sqlite3.connect(self.path, timeout=60.0, isolation_level=None)
            with self._transaction():
                if _is_new(self._db, self.path):
                    for statement in _SCHEMA:
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {_VERSION}")

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        """Give back what was claimed and not finished."""
        with self._in_words():
            self._db.execute(
                "UPDATE jobs SET state = 'waiting', owner = NULL, revision = revision + 1 "
                "WHERE owner = ? AND state = 'running'",
                (self.owner.token,),
            )
        self._db.close()
        self.owner.release()
        # The workers of a batch that was killed may have outlived it for a moment.
        remove_stale(self.path)

    def rows(self) -> dict[str, Row]:
        """Every row by its output."""
        with self._in_words():
            found = self._db.execute(f"SELECT {', '.join(_COLUMNS)} FROM jobs")  # noqa: S608
            return {row.output: row for row in map(_row, found)}

    def row(self, output: str) -> Row:
        """The row of an output; a new one where there is none."""
        with self._in_words():
            found = self._db.execute(
                f"SELECT {', '.join(_COLUMNS)} FROM jobs WHERE output = ?",  # noqa: S608
                (output,),
            ).fetchone()
            return _row(found) if found else Row(output)

    def write(self, row: Row, **changes: Any) -> Row | None:
        """Change a row, if it still is as it was looked at; None where it is not.

        Args:
            row: as it was looked at.
            **changes: to its fields; an owner is ``self.owner.token`` or None.
        """
        new = Row(**{**row.__dict__, **changes, "revision": row.revision + 1})
        values = (
            new.output, new.revision, new.state, new.owner, new.source_sha256, new.settings,
            new.output_mark.text() if new.output_mark else None, new.output_sha256,
            new.previous_mark.text() if new.previous_mark else None, new.previous_sha256,
            new.attempts,
            None if new.document is None else json.dumps(new.document, allow_nan=False),
        )  # fmt: skip
        with self._in_words(), self._transaction():
            now = self._db.execute(
                "SELECT revision FROM jobs WHERE output = ?", (row.output,)
            ).fetchone()
            if (now[0] if now else 0) != row.revision:
                return None
            marks = ", ".join("?" * (len(values) + 1))
            self._db.execute(
                f"INSERT OR REPLACE INTO jobs ({', '.join(_COLUMNS)}, changed) VALUES ({marks})",  # noqa: S608
                (*values, time.time()),
            )
        return new

    def is_taken(self, row: Row) -> bool:
        """Whether another batch that is alive is at work on a row."""
        if row.owner is None or row.owner == self.owner.token:
            return False
        return is_alive(self.path, row.owner)

    def known_sources(self) -> dict[str, tuple[Mark, str]]:
        """The marks of sources and the hashes that go with them."""
        with self._in_words():
            found = self._db.execute("SELECT source, mark, sha256 FROM sources")
            return {row[0]: _known_source(row) for row in found}

    def know_source(self, source: str, mark: Mark, sha256: str) -> None:
        """Remember the hash of a source as long as its mark stands."""
        with self._in_words():
            self._db.execute(
                "INSERT OR REPLACE INTO sources VALUES (?, ?, ?)", (source, mark.text(), sha256)
            )

    def name_of(self, output: str) -> str:
        """An output as rows call it: a path from the ledger's folder, or a URL."""
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
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, RecursionError) as error:  # Or a row was spoiled.
            raise OutputError(
                f"{self.path} cannot be used as a ledger: {error}. Choose another with --ledger"
            ) from error


def _check_ours(path: Path) -> None:
    """Refuse a file of another program, without a lock and without a change.

    SQLite may repair a file that it opens for writing, so this opens it as one that never changes.

    Raises:
        OutputError: it is a folder, or a database of another program.
    """
    if path.is_dir():
        raise _foreign(path, "it is a folder")
    if Path(f"{path}-wal").exists():
        raise _foreign(path, "it has a write-ahead log")
    if not path.is_file() or not path.stat().st_size:
        return
    location = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    # Not a database, or another batch writes it now: the ledger looks again when it is opened.
    with suppress(sqlite3.Error), closing(sqlite3.connect(location, uri=True)) as db:
        _is_new(db, path)


def _is_new(db: sqlite3.Connection, path: Path) -> bool:
    """Whether a database is empty; if not, it is a ledger of this version.

    Raises:
        OutputError: it is something else.
    """
    version, program = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "application_id")
    )
    found = db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    if not (found or version or program):
        return True
    if {sql for _, sql in found} != set(_SCHEMA) or version != _VERSION or program:
        names = ", ".join(sorted(name for name, _ in found)[:5]) or "nothing"
        raise _foreign(path, f"it holds {names}, in version {version}")
    return False


def _foreign(path: Path, why: str) -> OutputError:
    return OutputError(
        f"{path} is not a ledger of version {_VERSION} ({why}); choose another with --ledger"
    )


def files_of_ledger(path: Path) -> list[Path]:
    """The ledger, and the file that SQLite keeps next to it while it writes."""
    return [path, Path(f"{path}-journal")]


def _row(values: tuple[Any, ...]) -> Row:
    """A row of the ledger.

    Raises:
        ValueError: another program has spoiled it.
    """
    fields = dict(zip(_COLUMNS, values, strict=True))
    for name, value in fields.items():
        if name in _COUNTS:
            sound = isinstance(value, int) and 0 <= value < _MOST
        else:
            sound = isinstance(value, str) or (value is None and name not in ("output", "state"))
        if not sound or (name == "state" and value not in get_args(State)):
            raise ValueError(f"{name} of a job is {quoted(value)}")
    for name in ("output_mark", "previous_mark"):
        fields[name] = parse_mark(fields[name])
    if fields["document"] is not None:
        fields["document"] = json.loads(fields["document"])
        if not _is_document(fields["document"]):
            raise ValueError(f"document of a job is {quoted(fields['document'])}")
    return Row(**fields)


def _known_source(values: tuple[Any, ...]) -> tuple[Mark, str]:
    mark = parse_mark(values[1]) if all(isinstance(value, str) for value in values) else None
    if mark is None:
        raise ValueError(f"a source is {quoted(values)}")
    return mark, values[2]


def _is_document(found: object) -> bool:
    """Whether a document has what the summary of a batch takes from it."""
    match found:
        case {"seconds": seconds} if not isinstance(seconds, (int, float)):
            return False
        case {"error": str()}:
            return True
        case {
            "conversion": {
                "parity": None
                | {
                    "verdict": str(),
                    "compared_with": _,
                    "max_abs_error": _,
                    "environment": {"device": str()},
                },
            }
        }:
            return True
    return False
