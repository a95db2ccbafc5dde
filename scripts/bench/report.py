"""What was measured: rows with their floors, targets, a table, and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from xml.sax.saxutils import escape

from bench.cases import MEMORY_TARGETS, TARGETS, Case, Target
from bench.running import Run

Rounds = Mapping[str, Sequence[Run]]
Row = dict[str, Any]


def rows_of(cases: Sequence[Case], runs: Rounds, machine: Mapping[str, float]) -> list[Row]:
    """A row a case: medians, and the ratio to its yardstick, pair by pair."""
    passes = json.loads(runs["both decoders"][0].said) if runs.get("both decoders") else {}
    rows = []
    for case in cases:
        own, beside = runs[case.name], runs.get(case.yardstick, ())
        seconds = median(run.seconds for run in own)
        pairs = [a.seconds / b.seconds for a, b in zip(own, beside, strict=False)]
        work = [a.cpu_seconds / b.cpu_seconds for a, b in zip(own, beside, strict=False)]
        floor = _floor(case, runs, machine, passes.get("flops", 0))
        rows.append(
            {
                "case": case.name,
                "seconds": seconds,
                "cpu_seconds": median(run.cpu_seconds for run in own),
                "peak_bytes": int(median(run.peak_bytes for run in own)),
                "yardstick": case.yardstick,
                "ratio": median(pairs) if pairs else None,
                "cpu_ratio": median(work) if work else None,
                "floor_seconds": floor,
                "above_floor": seconds / floor if floor else None,
            }
        )
    return rows


def targets_of(runs: Rounds) -> list[Row]:
    """Each target, with the median of its value over the rounds."""
    seconds = {name: [run.seconds for run in own] for name, own in runs.items()}
    if runs.get("both decoders"):
        spoken = [json.loads(run.said)["seconds"] for run in runs["both decoders"]]
        seconds["both decoders: passes"] = spoken
    work = {name: [run.cpu_seconds for run in own] for name, own in runs.items()}
    memory = {name: [float(run.peak_bytes) for run in own] for name, own in runs.items()}
    return [
        *_judged("time", TARGETS, seconds),
        *_judged("CPU time", TARGETS, work),
        *_judged("memory", MEMORY_TARGETS, memory),
    ]


def table(rows: Sequence[Row], targets: Sequence[Row], earlier: Sequence[Row] = ()) -> str:
    """Markdown; with an earlier run, how the times compare to it."""
    before = {row["case"]: row["seconds"] for row in earlier}
    head = [
        "case",
        "seconds",
        "CPU s",
        "peak MB",
        "ratio",
        "of CPU",
        "to",
        "floor s",
        "above floor",
    ]
    lines = [_line(head + ["earlier"] * bool(before))]
    lines.append(_line(["---"] * (len(head) + bool(before))))
    for row in rows:
        cells = [
            row["case"],
            _number(row["seconds"]),
            _number(row.get("cpu_seconds")),
            f"{row['peak_bytes'] / 1e6:.0f}" if row["peak_bytes"] else "",
            _number(row["ratio"]),
            _number(row.get("cpu_ratio")),
            row["yardstick"] or "",
            _number(row.get("floor_seconds")),
            _number(row.get("above_floor")),
        ]
        if before:
            old = before.get(row["case"])
            cells.append(f"{row['seconds'] / old:.2f}" if old else "")
        lines.append(_line(cells))
    lines += ["", _line(["target", "of", "measured", "limit", ""]), _line(["---"] * 5)]
    for target in targets:
        met = "met" if target["met"] else "not met"
        measured, limit = f"{target['measured']:.2f}", f"{target['limit']:g}"
        lines.append(_line([target["target"], target["of"], measured, limit, met]))
    return "\n".join(lines)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Bars of the seconds, with the floor of each as a dark part, as SVG."""
    height, left, width = 18, 210, 460
    longest = max(row["seconds"] for row in rows)
    parts = []
    for i, row in enumerate(rows):
        y = 24 + i * height
        long = width * row["seconds"] / longest
        floor = width * min(row.get("floor_seconds") or 0.0, row["seconds"]) / longest
        parts.append(
            f'<text x="{left - 8}" y="{y + 11}" text-anchor="end">{escape(row["case"])}</text>'
            f'<rect x="{left}" y="{y}" width="{long:.1f}" height="13" fill="#7aa6d8"/>'
            f'<rect x="{left}" y="{y}" width="{floor:.1f}" height="13" fill="#2b5a8c"/>'
            f'<text x="{left + long + 6:.1f}" y="{y + 11}">{row["seconds"]:.2f}</text>'
        )
    total = 36 + len(rows) * height
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 60}" height="{total}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{left}" y="14">seconds; the dark part is the floor</text>'
        + "\n".join(parts)
        + "</svg>\n",
        encoding="utf-8",
    )


def _floor(case: Case, runs: Rounds, machine: Mapping[str, float], flops: float) -> float | None:
    """What the machine takes at least: torch loaded, bytes written, both decoders computed."""
    if case.output is None or not runs.get("import torch"):
        return None
    nbytes = sum(path.stat().st_size for path in _files(case.output))
    floor = nbytes / machine["disk_bytes_per_second"]
    if case.command[0] == "sh":
        return floor
    floor += median(run.seconds for run in runs["import torch"])
    return floor + (flops / machine["flops_per_second"] if case.checked else 0.0)


def _files(output: Path) -> list[Path]:
    return list(output.iterdir()) if output.is_dir() else [output]


def _judged(of: str, targets: Sequence[Target], values: Mapping[str, list[float]]) -> list[Row]:
    judged = []
    for target in targets:
        if all(name in values for name in target.needs):
            rounds = zip(*(values[name] for name in target.needs), strict=False)
            measured = median(target.value(*numbers) for numbers in rounds)
            judged.append(
                {
                    "target": target.what,
                    "of": of,
                    "measured": measured,
                    "limit": target.limit,
                    "met": measured <= target.limit,
                }
            )
    return judged


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
