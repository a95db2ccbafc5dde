"""The results of a batch as a versioned JSON document, from which every report is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from inflate._version import __version__
from inflate.batch.ledger import facts_of
from inflate.batch.run import Outcome
from inflate.io.remote import shown
from inflate.report.text import error_text

BATCH_SCHEMA = "inflate/batch/2"

ORDER = ("failed", "unequal", "not-run", "held")
"""The statuses, failures first."""


def batch_document(
    outcomes: Sequence[Outcome],
    *,
    ledger: str,
    executor: str,
    seconds: float,
    reports: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A batch as ``inflate/batch/2``; ``reports`` has the page of an output, by its name."""
    counts = Counter(outcome.status for outcome in outcomes)
    return {
        "schema": BATCH_SCHEMA,
        "inflate": __version__,
        "exit_code": 2 if counts["failed"] else 1 if counts["unequal"] else 0,
        "counts": {
            "total": len(outcomes),
            **{status.replace("-", "_"): counts[status] for status in ORDER},
            "reused": sum(outcome.reused for outcome in outcomes),
        },
        "executor": executor,
        "ledger": ledger,
        "seconds": round(seconds, 3),
        "jobs": [
            job_document(outcome, (reports or {}).get(outcome.job.output)) for outcome in outcomes
        ],
    }


def headline(document: Mapping[str, Any]) -> str:
    """The result of a batch in one line."""
    counts, jobs = document["counts"], document["jobs"]
    known = [job for job in jobs if job["reused"]]
    held = sum(job["status"] == "held" for job in known)
    bad, known_bad = counts["unequal"] + counts["failed"], len(known) - held
    converted = f"{counts['held']} of {counts['total']} converted"
    if held:
        converted += f" ({_some(held, counts['held'])}unchanged since an earlier run)"
    parts = [converted]
    if counts["unequal"]:
        parts.append(f"{counts['unequal']} not equal")
    if counts["failed"]:
        parts.append(f"{counts['failed']} failed")
    if known_bad:
        retry = "unchanged since the last run; --retry-failed tries again"
        parts[-1] += f" ({_some(known_bad, bad)}{retry})"
    if counts["not_run"]:
        parts.append(f"{counts['not_run']} not run")
    return ", ".join(parts)


def failures_first(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The jobs of a document, those that failed first."""
    return sorted(document["jobs"], key=lambda job: ORDER.index(job["status"]))


def failure_text(job: Mapping[str, Any]) -> str:
    """Why a job failed and what to do about it, in one line; empty for other jobs."""
    if job["status"] == "unequal":
        where = job["report"] or "the reports of --report-dir DIR"
        return (
            f"its video decoder is not equal to its image decoder (largest error "
            f"{error_text(job['max_abs_error'])}), so nothing was published; see {where}"
        )
    error = " ".join((job["error"] or "").split())
    if job["traceback"]:
        error += "; please report this, with the traceback from --json or batch.json"
    return error


def parity_of(outcome: Outcome) -> dict[str, Any] | None:
    """The parity report of a job, as JSON; None where parity was not checked."""
    conversion = outcome.document.get("conversion") or {}
    found: dict[str, Any] | None = conversion.get("parity")
    return found


def _some(number: int, total: int) -> str:
    return "" if number == total else f"{number} "


def job_document(outcome: Outcome, report: str | None = None) -> dict[str, Any]:
    """A job as an entry of ``inflate/batch/2``; ``report`` is the page of its report."""
    facts, row = facts_of(outcome.document), outcome.row
    if outcome.status not in ("held", "unequal"):
        facts["verdict"] = None
    elif facts["verdict"] is None:
        facts["verdict"] = "unverified"
    conversion = outcome.document.get("conversion") or {}
    options = {k: list(v) if isinstance(v, tuple) else v for k, v in outcome.job.options.items()}
    return {
        "source": shown(outcome.job.source),
        "output": shown(outcome.job.output),
        "options": options,
        "status": outcome.status,
        "reused": outcome.reused,
        "source_key": row.source_key,
        "source_fingerprint": conversion.get("source_fingerprint"),
        "output_fingerprint": row.made[-1][1] if outcome.status == "held" and row.made else None,
        "attempts": row.attempts,
        **facts,
        "report": report,
    }
