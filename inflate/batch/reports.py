"""The folder of reports: one per job, and the summary as HTML, JSON, JUnit and Markdown."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from inflate.batch.files import make_folder
from inflate.batch.run import Outcome
from inflate.batch.summary import ORDER, failure_text, failures_first, headline, parity_of
from inflate.errors import printable
from inflate.report.documents import as_json
from inflate.report.junit import dotless
from inflate.report.markdown import code
from inflate.report.summary import verdict_text
from inflate.report.text import error_text
from inflate.report.writing import require_pages, write_report, write_whole

_JOBS = "jobs"
_WORDS = {"held": "converted", "unequal": "not equal", "failed": "failed", "not-run": "not run"}
_SIGNS = {"held": "✅", "unequal": "❌", "failed": "⛔", "not-run": "⏭️"}
_LARGEST_TABLE = 1000
"""Rows that fit into a step summary of GitHub, which may have 1 MiB."""


def to_junit(document: Mapping[str, Any]) -> str:
    """JUnit's XML: a case per job; unequal jobs are failures, those that could not run errors."""
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
        case = ElementTree.SubElement(suite, "testcase")
        case.set("classname", dotless(job["source"]))
        case.set("name", dotless(job["output"]))
        case.set("time", f"{job['seconds'] or 0:.3f}")
        kind = {"unequal": "failure", "failed": "error", "not-run": "skipped"}.get(job["status"])
        if kind is not None:
            why = printable(failure_text(job)) or "not started after an earlier failure"
            element = ElementTree.SubElement(case, kind, {"message": why})
            element.text = printable(job["traceback"] or "")
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def to_markdown(document: Mapping[str, Any]) -> str:
    """A heading, a line per failure, and a table; short enough for a step summary of GitHub."""
    jobs = failures_first(document)
    lines = [f"## {_SIGNS[_worst(document)]} inflate batch: {headline(document)}", ""]
    failed = [job for job in jobs if failure_text(job)]
    lines += [f"- {code(job['source'])}: {code(failure_text(job), 500)}" for job in failed[:50]]
    if len(failed) > 50:
        lines.append(f"- and {len(failed) - 50} more failures")
    lines += [
        *([""] if failed else []),
        "| | source | output | verdict | largest error | seconds |",
        "| --- | --- | --- | --- | ---: | ---: |",
    ]
    for job in jobs[:_LARGEST_TABLE]:
        seconds = "" if job["seconds"] is None else f"{job['seconds']:.1f}"
        verdict = verdict_text(job) or _WORDS[job["status"]]
        known = " (unchanged)" if job["reused"] else ""
        cells = (code(job["source"]), code(job["output"]), verdict + known, _error(job), seconds)
        lines.append(f"| {_SIGNS[job['status']]} | " + " | ".join(cells) + " |")
    if len(jobs) > _LARGEST_TABLE:
        lines += ["", f"and {len(jobs) - _LARGEST_TABLE} more"]
    return "\n".join(lines) + "\n"


def to_html(document: Mapping[str, Any]) -> str:
    """A page with links to the reports of the jobs.

    Raises:
        InflateError: the extra ``report`` is missing.
    """
    require_pages()
    from inflate.report.html import render_page

    jobs = [{**job, "error": failure_text(job)} for job in failures_first(document)]
    return render_page(
        "batch.html.j2",
        batch={**document, "jobs": jobs},
        headline=headline(document),
        worst=_worst(document),
        words=_WORDS,
        error_of=_error,
        verdict_text=verdict_text,
    )


SUMMARIES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "batch.json": as_json,
    "junit.xml": to_junit,
    "summary.md": to_markdown,
    "index.html": to_html,
}
"""The files of the summary, and what makes each."""


def files_of_reports(folder: Path) -> list[Path]:
    """The files of the summary, and the folder of the jobs' reports."""
    return [folder / name for name in (*SUMMARIES, _JOBS)]


def files_of_job_report(folder: Path, output: str) -> tuple[Path, Path]:
    """The files of the parity report of one job: JSON, and a page."""
    name = re.sub(r"[^\w.-]+", "_", Path(output.rstrip("/")).name)[-80:]
    stem = f"{name}-{hashlib.sha256(os.fsencode(output)).hexdigest()[:8]}"  # Unique per output.
    return folder / _JOBS / f"{stem}.json", folder / _JOBS / f"{stem}.html"


def write_job_reports(outcomes: Sequence[Outcome], folder: Path) -> dict[str, str]:
    """Write the parity report of each job that has one; the page of each output.

    Raises:
        OutputError: the folder cannot be written.
    """
    make_folder(folder / _JOBS)
    pages = {}
    for outcome in outcomes:
        parity = parity_of(outcome)
        if parity is not None:
            document, page = files_of_job_report(folder, outcome.job.output)
            for path in (document, page):
                write_report(dict(parity), path)
            pages[outcome.job.output] = f"{_JOBS}/{page.name}"
    return pages


def write_summaries(document: Mapping[str, Any], folder: Path) -> None:
    """Write the summary of a batch in every form.

    Raises:
        InflateError: the folder cannot be written, or an extra is missing.
    """
    make_folder(folder)
    for name, made in SUMMARIES.items():
        write_whole(folder / name, made(document))


def _worst(document: Mapping[str, Any]) -> str:
    statuses = {job["status"] for job in document["jobs"]}
    return next((status for status in ORDER if status in statuses), "held")


def _error(job: Mapping[str, Any]) -> str:
    return "" if job["verdict"] in (None, "unverified") else error_text(job["max_abs_error"])
