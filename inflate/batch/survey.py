"""Find out what to do: compare every job with its ledger row and with the files."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

from inflate.batch.files import is_output, key_of_source, mark_of_output, mark_of_source
from inflate.batch.jobs import Job
from inflate.batch.ledger import Ledger, Row
from inflate.errors import ConfigError, InflateError
from inflate.io.location import is_remote, shown

_THREADS = 8


@dataclass(frozen=True)
class Outcome:
    """A job and its row; ``reused`` means that the row is the result of an earlier run."""

    job: Job
    row: Row
    reused: bool = False


def survey(jobs: Sequence[Job], ledger: Ledger, *, retry_failed: bool) -> list[Outcome]:
    """Find out which jobs are done; does not open a source that still has its recorded mark.

    Raises:
        ConfigError: sources do not exist, or outputs were not made by a batch; lists all.
    """
    rows = [ledger.row(job.output) for job in jobs]
    with ThreadPoolExecutor(_THREADS) as threads:
        looked = list(threads.map(_look_at_source, jobs, rows))
    outcomes, problems = [], []
    for job, before, (mark, problem) in zip(jobs, rows, looked, strict=True):
        row = before
        if row.state == "publishing" and was_published(job, row):
            # Its batch was killed between renaming the file and recording it.
            row = replace(row, state="held")
        if mark is not None:
            row = replace(row, source_mark=mark)
        if row != before:
            ledger.write(row)
        reused = mark is not None and is_settled(job, row, retry_failed=retry_failed)
        outcomes.append(Outcome(job, row, reused))
        if not reused:
            problems.append(problem or _problem_of_output(job, row))
    found = [problem for problem in dict.fromkeys(problems) if problem is not None]
    if found:
        raise ConfigError("the batch has errors, and nothing was started:", found)
    return outcomes


def is_settled(job: Job, row: Row, *, retry_failed: bool) -> bool:
    """Whether the recorded result is valid for a job with an unchanged source."""
    if row.settings != job.settings:
        return False
    if row.state == "held":
        return bool(row.made) and is_output(job.output, *row.made[-1])
    return row.state in ("unequal", "failed") and not retry_failed


def was_published(job: Job, row: Row) -> bool:
    """Whether the file that a batch was about to publish has its final name."""
    return not is_remote(job.output) and is_output(job.output, *row.made[-1])


def may_overwrite(job: Job, row: Row) -> bool:
    """Whether an existing output may be replaced: ``overwrite`` is set, or a batch made it."""
    if job.options.get("overwrite"):
        return True
    if is_remote(job.output):
        return bool(row.made)
    return any(is_output(job.output, *made) for made in row.made)


def _look_at_source(job: Job, row: Row) -> tuple[str | None, str | None]:
    """The mark of an unchanged source, else None; and the problem of the source, if any."""
    try:
        mark = mark_of_source(job.source)
    except (InflateError, OSError) as error:
        return None, str(error)
    if mark is None:
        return None, f"{shown(job.source)} does not exist; check the path"
    if mark == row.source_mark:
        return mark, None
    with suppress(InflateError, OSError):  # Its job reports the problem.
        # For remote sources, another version means other content.
        known = row.source_key is not None and not is_remote(job.source)
        if known and key_of_source(job.source, job.options) == row.source_key:
            return mark, None
    return None, None


def _problem_of_output(job: Job, row: Row) -> str | None:
    if is_remote(job.output) or mark_of_output(job.output) is None or may_overwrite(job, row):
        return None
    why = "was changed after this batch made it" if row.made else "was not made by this batch"
    return (
        f"{job.output} exists and {why}; pass --overwrite to replace it, or choose another output"
    )
