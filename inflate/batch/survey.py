"""What there is to do: every job compared with its row of the ledger and with the files."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from inflate.batch.files import (
    is_output,
    key_of_source,
    looks_unchanged,
    mark_of_output,
    mark_of_source,
)
from inflate.batch.jobs import Job
from inflate.batch.ledger import Ledger, Row
from inflate.errors import ConfigError, InflateError
from inflate.io.remote import is_remote, shown

_THREADS = 8


@dataclass(frozen=True)
class Seen:
    """A job, its row, and what to do: run it, keep its result, or wait for another batch."""

    job: Job
    row: Row
    standing: Literal["run", "settled", "elsewhere"]
    problem: str | None = None


def survey(jobs: Sequence[Job], ledger: Ledger, *, retry_failed: bool) -> list[Seen]:
    """Find out what to do with every job; a source with the mark of its row is not opened.

    Raises:
        ConfigError: sources that do not exist and outputs that no batch made, all at once.
    """
    rows = ledger.rows()
    own = [rows.get(name, Row(name)) for name in (ledger.name_of(job.output) for job in jobs)]
    with ThreadPoolExecutor(_THREADS) as threads:
        sources = list(threads.map(_look_at_source, jobs, own))
    seen = [
        _judge(job, row, source, ledger, retry_failed=retry_failed)
        for job, row, source in zip(jobs, own, sources, strict=True)
    ]
    problems = [one.problem for one in seen if one.problem is not None]
    if problems:
        summary = "the batch has errors, and nothing was started:"
        raise ConfigError(summary, list(dict.fromkeys(problems)))
    return seen


def look_again(seen: Seen, ledger: Ledger, *, retry_failed: bool) -> Seen:
    """What to do with one job now."""
    row = ledger.row(seen.row.output)
    source = _look_at_source(seen.job, row)
    return _judge(seen.job, row, source, ledger, retry_failed=retry_failed)


def is_settled(job: Job, row: Row, *, source_unchanged: bool, retry_failed: bool) -> bool:
    """Whether the result of a row stands for this job."""
    if not source_unchanged or row.settings != job.settings:
        return False
    if row.state == "held":
        return was_published(job, row)
    return row.state in ("unequal", "failed") and not retry_failed


def was_published(job: Job, row: Row) -> bool:
    """Whether the last file that a batch made for this output is in its place."""
    return bool(row.made) and is_output(job.output, *row.made[-1])


def may_overwrite(job: Job, row: Row) -> bool:
    """Whether an existing output may be replaced: ``overwrite`` is set, or a batch made it."""
    if job.options.get("overwrite"):
        return True
    if is_remote(job.output):
        return bool(row.made)
    return any(is_output(job.output, *made) for made in row.made)


@dataclass(frozen=True)
class _SourceState:
    unchanged: bool = False
    new_mark: str | None = None
    problem: str | None = None


def _look_at_source(job: Job, row: Row) -> _SourceState:
    try:
        if looks_unchanged(job.source, row.source_mark):
            return _SourceState(unchanged=row.source_key is not None)
        if is_remote(job.source):
            # Another version is another content; only a first look checks that it exists.
            if row.source_mark is None and mark_of_source(job.source) is None:
                raise ConfigError(f"{shown(job.source)} does not exist; expected a checkpoint")
        elif row.source_key is not None:
            mark = mark_of_source(job.source)
            if key_of_source(job.source, job.options) == row.source_key:
                return _SourceState(unchanged=True, new_mark=mark)
    except (InflateError, OSError) as error:
        return _SourceState(problem=str(error))
    return _SourceState()


def _judge(job: Job, row: Row, source: _SourceState, ledger: Ledger, *, retry_failed: bool) -> Seen:
    if ledger.is_taken(row):
        return Seen(job, row, "elsewhere")
    if source.problem is not None:
        return Seen(job, row, "run", source.problem)
    if row.state == "publishing" and not is_remote(job.output) and was_published(job, row):
        # Its batch was killed between the renaming and the record.
        row = ledger.write(row, state="held", owner=None) or ledger.row(row.output)
    if source.new_mark is not None:
        row = ledger.write(row, source_mark=source.new_mark) or ledger.row(row.output)
    if is_settled(job, row, source_unchanged=source.unchanged, retry_failed=retry_failed):
        return Seen(job, row, "settled")
    problem = None
    exists = not is_remote(job.output) and mark_of_output(job.output) is not None
    if exists and not may_overwrite(job, row):
        problem = (
            f"{job.output} exists, and no batch of this ledger made it; pass --overwrite to "
            "replace it, or choose another name"
        )
    return Seen(job, row, "run", problem)
