"""The folder of reports: one a job, and the summary of the batch in every form."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from inflate.batch.render import to_html, to_junit, to_markdown
from inflate.batch.run import Outcome
from inflate.batch.summary import parity_of
from inflate.errors import OutputError
from inflate.report.writing import append_summary, write_report, write_whole

SUMMARIES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "batch.json": lambda document: json.dumps(document, indent=2, allow_nan=False) + "\n",
    "junit.xml": to_junit,
    "summary.md": to_markdown,
    "index.html": to_html,
}
"""The files of a summary, and what makes each."""

_JOBS = "jobs"


def files_of_reports(folder: Path) -> list[Path]:
    """What the summary is written to, and the folder of the jobs' reports."""
    return [folder / name for name in (*SUMMARIES, _JOBS)]


def files_of_job_report(folder: Path, output: str) -> tuple[Path, Path]:
    """What the parity report of one job is written to: for programs, and for people."""
    name = re.sub(r"[^\w.-]+", "_", Path(output.rstrip("/")).name)[-80:]
    stem = f"{name}-{hashlib.sha256(os.fsencode(output)).hexdigest()[:8]}"  # No other output's.
    return folder / _JOBS / f"{stem}.json", folder / _JOBS / f"{stem}.html"


def write_job_reports(outcomes: Sequence[Outcome], folder: Path) -> dict[str, str]:
    """Write a parity report for each job that has one, and say where, by output.

    Raises:
        OutputError: the folder cannot be written.
    """
    make_folder(folder / _JOBS)
    written = {}
    for outcome in outcomes:
        parity = parity_of(outcome)
        if parity is not None:
            for path in files_of_job_report(folder, outcome.job.output):
                write_report(dict(parity), path)
            # The summary links to the page, which comes last.
            written[outcome.job.output] = f"{_JOBS}/{path.name}"
    return written


def write_summaries(document: Mapping[str, Any], folder: Path) -> None:
    """Write the summary of a batch in every form.

    Raises:
        InflateError: the folder cannot be written, or an extra is missing.
    """
    make_folder(folder)
    for name, made in SUMMARIES.items():
        write_whole(folder / name, made(document))


def append_step_summary(document: Mapping[str, Any]) -> None:
    """Add the summary to the one that GitHub shows of a step.

    Raises:
        OutputError: ``GITHUB_STEP_SUMMARY`` is not set, or names no file that can be written.
    """
    append_summary(step_summary_path(), to_markdown(document))


def step_summary_path() -> Path:
    """Where GitHub wants the summary of a step.

    Raises:
        OutputError: ``GITHUB_STEP_SUMMARY`` is not set.
    """
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        raise OutputError(
            "--github-summary: GITHUB_STEP_SUMMARY is not set; expected the file that GitHub "
            "Actions names there. Use --report-dir elsewhere"
        )
    return Path(path)


def make_folder(folder: Path) -> None:
    """Make a folder for reports.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror}") from error
