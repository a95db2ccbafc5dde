"""The summary of a batch for other readers: JUnit, Markdown, HTML, each made of the document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from inflate.report.summary import verdict_text
from inflate.report.text import error_text
from inflate.report.writing import require_pages

_WORDS = {
    "held": "parity held",
    "unequal": "parity did not hold",
    "failed": "could not run",
    "not-run": "not run",
}
_SIGNS = {"held": "✅", "unequal": "❌", "failed": "⛔", "not-run": "⏭️"}
_LARGEST_TABLE = 1000
"""Rows that a step summary has room for, which may be 1 MiB long."""

_NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def headline(document: Mapping[str, Any]) -> str:
    """What came of a batch, in a line."""
    counts = document["counts"]
    parts = [f"{counts['held']} of {counts['total']} held"]
    for key, words in (("unequal", "did not hold"), ("failed", "could not run")):
        if counts[key]:
            parts.append(f"{counts[key]} {words}")
    if counts["not_run"]:
        parts.append(f"{counts['not_run']} not run")
    if counts["reused"]:
        parts.append(f"{counts['reused']} known from the ledger")
    return ", ".join(parts)


def to_junit(document: Mapping[str, Any]) -> str:
    """JUnit's XML: a case a job; unequal ones are failures, those that could not run errors."""
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
    for job in document["jobs"]:
        named = {"classname": _xml(job["source"]), "name": _xml(job["output"])}
        case = ElementTree.SubElement(
            suite, "testcase", {**named, "time": f"{job['seconds'] or 0:.3f}"}
        )
        if job["status"] == "unequal":
            told = f"parity did not hold, largest error {_error(job)}"
            ElementTree.SubElement(case, "failure", {"message": told, "type": "parity"})
        elif job["status"] == "failed":
            first, *_ = (job["error"] or "").splitlines() or [""]
            error = ElementTree.SubElement(case, "error", {"message": _xml(first), "type": "job"})
            error.text = _xml(job["traceback"] or job["error"] or "")
        elif job["status"] == "not-run":
            ElementTree.SubElement(case, "skipped", {"message": "not begun after a failure"})
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def to_markdown(document: Mapping[str, Any]) -> str:
    """A heading and a table, what went wrong first; short enough for a step summary."""
    order = ("failed", "unequal", "not-run", "held")
    jobs = sorted(document["jobs"], key=lambda job: order.index(job["status"]))
    lines = [
        f"## {_SIGNS[_worst(document)]} inflate batch: {headline(document)}",
        "",
        "| | source | output | verdict | largest error | seconds |",
        "| --- | --- | --- | --- | ---: | ---: |",
    ]
    for job in jobs[:_LARGEST_TABLE]:
        seconds = "" if job["seconds"] is None else f"{job['seconds']:.1f}"
        verdict = verdict_text(job) or _WORDS[job["status"]]
        known = " (known)" if job["reused"] else ""
        cells = (_code(job["source"]), _code(job["output"]), verdict + known, _error(job), seconds)
        lines.append(f"| {_SIGNS[job['status']]} | " + " | ".join(cells) + " |")
    if len(jobs) > _LARGEST_TABLE:
        lines += ["", f"and {len(jobs) - _LARGEST_TABLE} more"]
    failed = [job for job in jobs if job["error"]][:50]
    if failed:
        lines += ["", "### What went wrong", ""]
        lines += [f"- {_code(job['source'])}: {_code(job['error'], 500)}" for job in failed]
    return "\n".join(lines) + "\n"


def to_html(document: Mapping[str, Any]) -> str:
    """A page of its own, with links to the reports of the jobs.

    Raises:
        InflateError: the extra ``report`` is missing.
    """
    require_pages()
    from inflate.report.html import render_page

    return render_page(
        "batch.html.j2",
        batch=document,
        headline=headline(document),
        worst=_worst(document),
        words=_WORDS,
        error_of=_error,
        verdict_text=verdict_text,
    )


def _worst(document: Mapping[str, Any]) -> str:
    counts = document["counts"]
    order = ("failed", "unequal", "not_run")
    return next((key.replace("_", "-") for key in order if counts[key]), "held")


def _error(job: Mapping[str, Any]) -> str:
    checked = job["verdict"] not in (None, "unverified")
    return error_text(job["max_abs_error"]) if checked else ""


def _code(text: str, longest: int = 300) -> str:
    """A text as code in a cell of a table, whatever a file is called."""
    flat = " ".join(text.split())
    flat = flat if len(flat) <= longest else flat[:longest] + "…"
    fence = "`" * (max((len(run) for run in re.findall("`+", flat)), default=0) + 1)
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{pad}{flat}{pad}{fence}".replace("|", "\\|")


def _xml(text: str) -> str:
    """A text without the characters that XML has no way to write."""
    return _NOT_IN_XML.sub("?", text)
