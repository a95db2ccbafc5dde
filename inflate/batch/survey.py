"""What there is to do: each job set against its row of the ledger and against the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from inflate.batch.jobs import Job, identity
from inflate.batch.ledger import Ledger, Row
from inflate.batch.marks import (
    Mark,
    hash_of_source,
    is_output,
    mark_of_output,
    mark_of_source,
    source_still,
)
from inflate.errors import ConfigError, InflateError
from inflate.io.remote import is_remote, shown

Standing = Literal["run", "settled", "elsewhere"]

_THREADS = 8


@dataclass(frozen=True)
class Seen:
    """Where a job stands, and the row that says so; ``overwrite`` its output if it is run."""

    job: Job
    row: Row
    standing: Standing
    overwrite: bool = False
    problem: str | None = None


def survey(jobs: Sequence[Job], ledger: Ledger, *, retry_failed: bool) -> list[Seen]:
    """Find out where every job stands; a source that looks as it did is not opened.

    Raises:
        ConfigError: sources that are not there, and outputs that another made, all at once.
    """
    rows, known = ledger.rows(), ledger.known_sources()
    own = [rows.get(name, Row(name)) for name in (ledger.name_of(job.output) for job in jobs)]
    with ThreadPoolExecutor(_THREADS) as threads:
        sources = list(threads.map(_look_at_source, jobs, own, [known] * len(jobs)))
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
    """Where one job stands now."""
    row = ledger.row(seen.row.output)
    source = _look_at_source(seen.job, row, ledger.known_sources())
    return _judge(seen.job, row, source, ledger, retry_failed=retry_failed)


def published(job: Job, row: Row) -> bool:
    """Whether what a row says is about to be published has got its name."""
    remote = is_remote(job.output)  # An upload may be whole and its record not: done once more.
    return not remote and is_output(job.output, row.output_mark, row.output_sha256)


def may_overwrite(job: Job, row: Row) -> bool:
    """Whether what stands in the output's place may go: it was asked for, or a batch made it."""
    if job.overwrite:
        return True
    if is_remote(job.output):
        return row.output_sha256 is not None
    return is_output(job.output, row.output_mark, row.output_sha256) or is_output(
        job.output, row.previous_mark, row.previous_sha256
    )


@dataclass(frozen=True)
class _Source:
    """What is known of a source: its hash if that is needed, and a mark to remember it by."""

    sha256: str | None = None
    mark: Mark | None = None
    problem: str | None = None


def _look_at_source(job: Job, row: Row, known: Mapping[str, tuple[Mark, str]]) -> _Source:
    try:
        mark, sha256 = known.get(identity(job.source), (None, None))
        if source_still(job.source, mark):
            return _Source(sha256)
        if is_remote(job.source):
            # Another version is another content; only a first look has to find that it is there.
            found = mark_of_source(job.source) if mark is None else mark
            missing = f"{shown(job.source)} does not exist; expected a checkpoint"
            return _Source(problem=None if found else missing)
        if row.source_sha256 is None:
            return _Source()
        mark = mark_of_source(job.source)
        return _Source(hash_of_source(job.source), mark)
    except (InflateError, OSError) as error:
        return _Source(problem=str(error))


def _judge(job: Job, row: Row, source: _Source, ledger: Ledger, *, retry_failed: bool) -> Seen:
    if ledger.is_taken(row):
        return Seen(job, row, "elsewhere")
    if source.problem is not None:
        return Seen(job, row, "run", problem=source.problem)
    if source.mark is not None and source.sha256 is not None:
        ledger.know_source(identity(job.source), source.mark, source.sha256)
    if row.state == "publishing" and published(job, row):
        # Whoever made it was killed between giving it its name and saying so.
        row = ledger.write(row, state="held", owner=None) or ledger.row(row.output)
    if _is_settled(job, row, source.sha256, retry_failed=retry_failed):
        return Seen(job, row, "settled")
    overwrite = may_overwrite(job, row)
    problem = None
    if not overwrite and not is_remote(job.output) and mark_of_output(job.output) is not None:
        problem = (
            f"{job.output} exists, and no batch of this ledger made it as it is; set overwrite, or "
            "choose another name"
        )
    return Seen(job, row, "run", overwrite, problem)


def _is_settled(job: Job, row: Row, sha256: str | None, *, retry_failed: bool) -> bool:
    if row.source_sha256 is None or row.source_sha256 != sha256 or row.settings != job.settings:
        return False
    if row.state == "held":
        return is_output(job.output, row.output_mark, row.output_sha256)
    return row.state in ("unequal", "failed") and not retry_failed
