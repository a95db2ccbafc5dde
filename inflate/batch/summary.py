"""What came of a batch, as a versioned JSON document: all other summaries are made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from inflate._version import __version__
from inflate.batch.run import Outcome
from inflate.io.remote import shown

BATCH_SCHEMA = "inflate/batch/1"

STATUSES = ("held", "unequal", "failed", "not-run")
"""Parity held (or was not asked for); it did not; the job could not run; it was not begun."""


def batch_document(
    outcomes: Sequence[Outcome],
    *,
    ledger: str,
    executor: str,
    seconds: float,
    reports: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A batch as ``inflate/batch/1``.

    Args:
        outcomes: of every job, in their order.
        ledger: where it lies.
        executor: what ran the jobs.
        seconds: that the batch took.
        reports: the parity report of each output that has one, as a path from the summary.
    """
    counts: Counter[str] = Counter(outcome.status for outcome in outcomes)
    return {
        "schema": BATCH_SCHEMA,
        "inflate": __version__,
        "exit_code": exit_code(outcomes),
        "counts": {
            "total": len(outcomes),
            **{status.replace("-", "_"): counts[status] for status in STATUSES},
            "reused": sum(outcome.reused for outcome in outcomes),
        },
        "executor": executor,
        "ledger": ledger,
        "seconds": round(seconds, 3),
        "jobs": [_job(outcome, (reports or {}).get(outcome.job.output)) for outcome in outcomes],
    }


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0: all held; 1: some parity did not hold; 2: some could not run, whatever the others did."""
    statuses = {outcome.status for outcome in outcomes}
    if "failed" in statuses:
        return 2
    return 1 if "unequal" in statuses else 0


def parity_of(outcome: Outcome) -> dict[str, Any] | None:
    """The parity report of a job, as JSON; None where parity was not checked."""
    conversion = outcome.document.get("conversion") or {}
    found: dict[str, Any] | None = conversion.get("parity")
    return found


def _job(outcome: Outcome, report: str | None) -> dict[str, Any]:
    parity = parity_of(outcome)
    conversion = outcome.document.get("conversion") or {}
    verdict = None
    if outcome.status in ("held", "unequal"):
        verdict = parity["verdict"] if parity else "unverified"
    options = {k: list(v) if isinstance(v, tuple) else v for k, v in outcome.job.options.items()}
    return {
        "source": shown(outcome.job.source),
        "output": shown(outcome.job.output),
        "options": options,
        "status": outcome.status,
        "reused": outcome.reused,
        "verdict": verdict,
        "compared_with": parity["compared_with"] if parity else None,
        "max_abs_error": parity["max_abs_error"] if parity else None,
        "device": parity["environment"]["device"] if parity else None,
        "source_sha256": outcome.source_sha256,
        "output_sha256": outcome.output_sha256,
        "attempts": outcome.attempts,
        "seconds": outcome.document.get("seconds"),
        "notes": conversion.get("notes", []),
        "error": outcome.document.get("error"),
        "traceback": outcome.document.get("traceback"),
        "report": report,
    }
