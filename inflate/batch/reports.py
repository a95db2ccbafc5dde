"""The results of a batch: a versioned document, and reports made from it."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from inflate._version import __version__
from inflate.batch.jobs import Job, estimate
from inflate.batch.survey import Outcome
from inflate.display import error_text
from inflate.errors import printable
from inflate.io.staging import make_folder, write_atomically
from inflate.report.documents import as_json
from inflate.report.junit import dotless
from inflate.report.markdown import code
from inflate.report.summary import verdict_text
from inflate.report.writing import encoded, write_report

Document = Mapping[str, Any]
"""A batch as ``inflate/batch/2``."""

_JOBS = "jobs"
_SIGNS = {"failed": "⛔", "unequal": "❌", "not-run": "⏭️", "held": "✅"}
"""The statuses, failures first."""

_ORDER = list(_SIGNS)
WORDS = {"failed": "failed", "unequal": "not equal", "not-run": "not run", "held": "converted"}
_MOST = 1000
"""The number of rows that fit into GitHub's step summary of at most 1 MiB."""


def batch_document(
    outcomes: Sequence[Outcome], *, ledger: str, executor: str, seconds: float, linked: bool = False
) -> dict[str, Any]:
    """A batch as ``inflate/batch/2``; ``linked`` adds links to the pages of its jobs."""
    counts = Counter(outcome.row.state for outcome in outcomes)
    return {
        "schema": "inflate/batch/2",
        "inflate": __version__,
        "exit_code": 2 if counts["failed"] else 1 if counts["unequal"] else 0,
        "counts": {
            "total": len(outcomes),
            "held": counts["held"],
            "unequal": counts["unequal"],
            "failed": counts["failed"],
            "not_run": counts["not-run"],
            "reused": sum(outcome.reused for outcome in outcomes),
        },
        "executor": executor,
        "ledger": ledger,
        "seconds": round(seconds, 3),
        "jobs": [job_document(outcome, linked=linked) for outcome in outcomes],
    }


def plan_document(jobs: Iterable[Job], ledger: Path) -> dict[str, Any]:
    """The plan of a batch as ``inflate/batch-plan/1``; unknown sizes are null."""
    planned = [{**job.document(), **asdict(estimate(job))} for job in jobs]
    return {"schema": "inflate/batch-plan/1", "ledger": str(ledger), "jobs": planned}


def headline(document: Document) -> str:
    """The result of a batch in one line."""
    counts = document["counts"]
    kinds = {"unequal": "not equal", "failed": "failed", "not_run": "not run"}
    parts = [f"{counts['held']} of {counts['total']} converted"]
    text = ", ".join(parts + [f"{counts[k]} {word}" for k, word in kinds.items() if counts[k]])
    if counts["reused"]:
        known = any(job["reused"] and job["status"] != "held" for job in document["jobs"])
        retry = "; --retry-failed tries failed jobs again" if known else ""
        text += f" ({counts['reused']} unchanged since an earlier run{retry})"
    return text


def failures_first(document: Document) -> list[dict[str, Any]]:
    """The jobs of a document, failures first."""
    return sorted(document["jobs"], key=lambda job: _ORDER.index(job["status"]))


def failure_text(job: Mapping[str, Any]) -> str:
    """Why a job failed and what to do, in one line; empty for other jobs."""
    if job["status"] == "unequal":
        where = job["report"] or "the reports of --report-dir DIR"
        return (
            f"its video decoder is not equal to its image decoder (largest error "
            f"{error_text(job['max_abs_error'])}), so nothing was published; see {where}"
        )
    # Workers have absolute paths.
    error = (job["error"] or "").replace(os.path.abspath(job["source"]), job["source"])
    error = " ".join(error.split())
    if job["traceback"]:
        error += "; please report this, with the traceback from --json or batch.json"
    return error


def to_junit(document: Document) -> str:
    """JUnit XML, one case per job: unequal jobs are failures, those that could not run errors."""
    counts = document["counts"]
    numbers = {
        "tests": str(counts["total"]),
        "failures": str(counts["unequal"]),
        "errors": str(counts["failed"]),
        "skipped": str(counts["not_run"]),
        "time": f"{document['seconds']:.3f}",
    }
    suites = ElementTree.Element("testsuites", {"name": "inflate", **numbers})
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "inflate batch", **numbers})
    for job in failures_first(document):
        names = {"classname": dotless(job["source"]), "name": dotless(job["output"])}
        seconds = f"{job['seconds'] or 0:.3f}"
        case = ElementTree.SubElement(suite, "testcase", names, time=seconds)
        kind = {"unequal": "failure", "failed": "error", "not-run": "skipped"}.get(job["status"])
        if kind is not None:
            why = printable(failure_text(job)) or "not started after an earlier failure"
            element = ElementTree.SubElement(case, kind, {"message": why})
            element.text = printable(job["traceback"] or "")
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def to_markdown(document: Document) -> str:
    """A heading, a line per failure, and a table; short enough for GitHub's step summary."""
    jobs = failures_first(document)
    lines = [f"## {_SIGNS[_worst(document)]} inflate batch: {headline(document)}", ""]
    failed = [job for job in jobs if failure_text(job)]
    lines += [f"- {code(job['source'])}: {code(failure_text(job), 500)}" for job in failed[:50]]
    lines += [
        "",
        "| | source | output | verdict | largest error | seconds |",
        "| --- | --- | --- | --- | ---: | ---: |",
    ]
    for job in jobs[:_MOST]:
        seconds = "" if job["seconds"] is None else f"{job['seconds']:.1f}"
        verdict = verdict_text(job) or WORDS[job["status"]]
        known = " (unchanged)" if job["reused"] else ""
        cells = (code(job["source"]), code(job["output"]), verdict + known, _error(job), seconds)
        lines.append(f"| {_SIGNS[job['status']]} | " + " | ".join(cells) + " |")
    more = f"\nand {len(jobs) - _MOST} more\n" if len(jobs) > _MOST else ""
    return "\n".join(lines) + "\n" + more


def to_html(document: Document) -> str:
    """A page with links to the reports of the jobs; it needs the extra ``report``."""
    from inflate.report.html import render_page

    jobs = [{**job, "error": failure_text(job)} for job in failures_first(document)]
    return render_page(
        "batch.html.j2",
        batch={**document, "jobs": jobs},
        headline=headline(document),
        worst=_worst(document),
        words=WORDS,
        error_of=_error,
        verdict_text=verdict_text,
    )


SUMMARIES: Mapping[str, Callable[[Document], str]] = {
    "batch.json": as_json,
    "junit.xml": to_junit,
    "summary.md": to_markdown,
    "index.html": to_html,
}
"""The files of the summary, and the function that makes each."""


def files_of_reports(folder: Path) -> list[Path]:
    """The files of the summary, and the folder of the jobs' reports."""
    return [folder / name for name in (*SUMMARIES, _JOBS)]


def files_of_job_report(folder: Path, output: str) -> tuple[Path, Path]:
    """The files of the parity report of one job: JSON, and a page."""
    name = re.sub(r"[^\w.-]+", "_", Path(output.rstrip("/")).name)[-80:]
    stem = f"{name}-{hashlib.sha256(os.fsencode(output)).hexdigest()[:8]}"  # Unique per output.
    return folder / _JOBS / f"{stem}.json", folder / _JOBS / f"{stem}.html"


def write_reports(document: Document, outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write the parity report of each job that has one, and the summary in every format.

    Raises:
        OutputError: the folder cannot be written.
    """
    make_folder(folder / _JOBS)
    for outcome in outcomes:
        if (parity := _parity_of(outcome)) is not None:
            for path in files_of_job_report(folder, outcome.job.output):
                write_report(parity, path)
    for name, made in SUMMARIES.items():
        write_atomically(folder / name, encoded(made(document)))


def _parity_of(outcome: Outcome) -> dict[str, Any] | None:
    """The document of a job's parity report; None if parity was not checked."""
    found: dict[str, Any] | None = (outcome.row.document.get("conversion") or {}).get("parity")
    return found


def _worst(document: Document) -> str:
    return min((job["status"] for job in document["jobs"]), key=_ORDER.index, default="held")


def _error(job: Mapping[str, Any]) -> str:
    return "" if job["verdict"] in (None, "unverified") else error_text(job["max_abs_error"])


def job_document(outcome: Outcome, *, linked: bool = False) -> dict[str, Any]:
    """A job as an entry of ``inflate/batch/2``; ``linked`` adds a link to its parity report."""
    job, row, document = outcome.job, outcome.row, outcome.row.document
    conversion, parity = document.get("conversion") or {}, _parity_of(outcome)
    report = str(files_of_job_report(Path(), job.output)[1]) if linked and parity else None
    facts = dict.fromkeys(("verdict", "compared_with", "max_abs_error", "device"))
    if parity is not None:
        facts = {name: (parity | parity["environment"])[name] for name in facts}
    elif row.state == "held":
        facts["verdict"] = "unverified"
    return {
        **job.document(),
        "status": row.state,
        "reused": outcome.reused,
        "source_key": row.source_key,
        "source_fingerprint": conversion.get("source_fingerprint"),
        "output_fingerprint": row.made[-1][1] if row.state == "held" and row.made else None,
        "attempts": row.attempts,
        **facts,
        "seconds": document.get("seconds"),
        "notes": list(conversion.get("notes", ())),
        "error": document.get("error"),
        "traceback": document.get("traceback"),
        "report": report,
    }
