"""Measure how long conversion, its check and the start of the commands take, next to yardsticks.

Each case runs in a fresh process, in rounds: every round runs every case once, so that a case and
its yardstick run under the same load. It reports medians; ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from fnmatch import fnmatch
from pathlib import Path

from bench.cases import PROGRAMS, PYTHON, all_cases, make_inputs
from bench.report import Row, plot, rows_of, table, targets_of
from bench.running import Run, measure


def main() -> int:
    """Run the cases and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="where inputs are kept; about 12 GB")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", metavar="CASE", help="names or patterns of cases")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    parser.add_argument("--plot", type=Path, help="write an SVG here")
    parser.add_argument("--compare", type=Path, metavar="JSON", help="an earlier --json")
    options = parser.parse_args()
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
        return _benchmark(options, options.work.resolve())
    with tempfile.TemporaryDirectory(prefix="benchmark-") as work:
        return _benchmark(options, Path(work))


def _benchmark(options: argparse.Namespace, work: Path) -> int:
    make_inputs(work)
    machine = json.loads(measure([PYTHON, str(PROGRAMS / "machine.py"), str(work)]).said)
    cases = [
        case
        for case in all_cases(work)
        if not options.only or any(fnmatch(case.name, pattern) for pattern in options.only)
    ]
    runs: dict[str, list[Run]] = defaultdict(list)
    for number in range(options.repeats):
        for case in cases:
            _remove(case.output)  # To replace a file takes time, and is not part of any case.
            run = measure(case.command, code=case.code)
            runs[case.name].append(run)
            print(f"{number + 1}  {case.name}: {run.seconds:.2f} s", file=sys.stderr, flush=True)
    rows = rows_of(cases, runs, machine)
    targets = targets_of(runs)
    earlier: list[Row] = []
    if options.compare:
        earlier = json.loads(options.compare.read_text(encoding="utf-8"))["rows"]
    print(table(rows, targets, earlier))
    if options.json:
        content = {"machine": machine, "rows": rows, "targets": targets}
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if options.plot:
        plot(rows, options.plot)
    for case in cases:  # The inputs stay, for another run.
        _remove(case.output)
    return 0


def _remove(path: Path | None) -> None:
    if path is not None and path.is_dir():
        shutil.rmtree(path)
    elif path is not None:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
