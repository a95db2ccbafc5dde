"""Run random commands, and report every one that ends as it must not.

``commands`` draws command lines, YAML configurations, batch manifests, reports and checkpoints from
a seed, and makes the first finding of each kind small. ``files`` draws checkpoints guided by
coverage. Each run must end in a valid result, or in exit code 2 with one message, and leave every
other file as it was. Anything else is a finding; then the exit code is 1.

    python scripts/fuzz.py commands --cases 5000 --seed 1
    python scripts/fuzz.py commands --seed 1 --kind manifests      # repeat the cases of one kind
    pip install atheris
    python scripts/fuzz.py files --seconds 60                               # every format
    python scripts/fuzz.py files --replay crash-1f2e...

Nothing is written outside a temporary folder; only findings of ``files`` go to ``--keep``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.safety.ground import Ground

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("lines", "configurations", "manifests", "reports", "checkpoints")
TIME_LIMIT = 120
"""Seconds after which a command counts as one that does not end."""


def options() -> argparse.Namespace:
    """Parse the command line."""
    assert __doc__ is not None
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = top.add_subparsers(dest="mode", required=True)
    lines = modes.add_parser("commands", help="draw commands of each kind, and run them here")
    lines.add_argument("--cases", type=int, default=5000, help="of all kinds together (5000)")
    lines.add_argument("--seed", type=int, default=1)
    lines.add_argument("--kind", choices=KINDS, action="append", help="all by default")
    files = modes.add_parser("files", help="mutate checkpoints, guided by coverage (atheris)")
    files.add_argument("--runs", type=int, default=-1, help="no limit by default")
    files.add_argument("--seconds", type=int, default=60)
    files.add_argument("--seed", type=int, default=1)
    files.add_argument("--keep", type=Path, default=Path(), help="the folder for findings")
    files.add_argument("--replay", type=Path, help="repeat one finding")
    return top.parse_args()


def main() -> int:
    """Run the chosen mode, and return the exit code."""
    chosen = options()
    if chosen.mode == "files" and importlib.util.find_spec("atheris") is None and not chosen.replay:
        print("error: atheris is not installed; pip install atheris", file=sys.stderr)
        return 2
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = str(ROOT)  # For the workers of batches.
    if chosen.mode == "files" and not chosen.replay:
        import atheris

        with atheris.instrument_imports(include=["inflate.io", "inflate.formats"]):
            import inflate.workflow.conversion  # noqa: F401
    import torch

    from tests.safety.ground import Ground

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="inflate-fuzz-") as name:
        ground = Ground(Path(name) / "root")
        return commands(chosen, ground) if chosen.mode == "commands" else files(chosen, ground)


def commands(chosen: argparse.Namespace, ground: Ground) -> int:
    """Draw commands, run each in this process, and report the findings."""
    kinds = chosen.kind or list(KINDS)
    ends: dict[str, Counter[int | None]] = {}
    findings = 0
    for kind in kinds:
        try:
            ground.property(kind, -(-chosen.cases // len(kinds)), chosen.seed, limited)()
        except AssertionError:
            traceback.print_exc()
            findings += 1
        ends[kind] = ground.codes.copy()
    codes = sorted({code for counts in ends.values() for code in counts}, key=str)
    print("\nexit code     " + "".join(f"{code!s:>8}" for code in codes) + "   cases")
    for kind, counts in ends.items():
        row = "".join(f"{counts[code]:8,}" for code in codes)
        print(f"{kind:14}{row}{counts.total():8,}")
    print(f"{sum(counts.total() for counts in ends.values()):,} cases, {findings} findings")
    return 1 if findings else 0


class StillRunningError(Exception):
    """A command does not end."""


def limited(arguments: Sequence[object]) -> tuple[int, str, str]:
    """Run a command for at most ``TIME_LIMIT`` seconds."""
    from tests.safety.refusals import command

    def stop(_number: int, _frame: object) -> None:
        raise StillRunningError(f"after {TIME_LIMIT} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(TIME_LIMIT)
    try:
        return command(arguments)
    finally:
        signal.alarm(0)


def files(chosen: argparse.Namespace, ground: Ground) -> int:
    """Mutate checkpoints, guided by coverage; or repeat one finding."""
    # The bytes that atheris changes are the choices of hypothesis.
    once = ground.property("checkpoints", 1, main=limited).hypothesis.fuzz_one_input  # type: ignore[attr-defined]
    if chosen.replay:
        try:
            once(chosen.replay.read_bytes())
        except AssertionError:
            traceback.print_exc()
            return 1
        print("no problem")
        return 0
    import atheris

    # Few choices make a whole case, so mutations begin with many.
    seeds = ground.root.parent / "seeds"
    seeds.mkdir()
    random = Random(chosen.seed)  # noqa: S311
    for number in range(100):
        (seeds / str(number)).write_bytes(random.randbytes(2000))
    arguments = [
        sys.argv[0], f"-runs={chosen.runs}", f"-max_total_time={chosen.seconds}",
        f"-seed={chosen.seed}", "-max_len=4000", f"-timeout={TIME_LIMIT}", "-rss_limit_mb=4096",
        "-print_final_stats=1", f"-artifact_prefix={chosen.keep.resolve()}/", str(seeds),
    ]  # fmt: skip
    atheris.Setup(arguments, once)
    atheris.Fuzz()  # It ends this process.
    return 0


if __name__ == "__main__":
    sys.exit(main())
