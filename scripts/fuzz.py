"""Run random commands, and report every one that ends as it must not.

``commands`` draws command lines, YAML configurations, batch manifests, reports and checkpoints from
a seed. ``files`` mutates checkpoints, guided by coverage. Each run must end in a valid result, or
in exit code 2 with one message, and leave every other file as it was. Anything else is a finding;
then the exit code is 1.

    python scripts/fuzz.py commands --cases 5000 --seed 1
    python scripts/fuzz.py commands --seed 1 --kind manifests --case 17     # repeat one, in full
    pip install atheris
    python scripts/fuzz.py files --seconds 60                               # every format
    python scripts/fuzz.py files --replay crash-1f2e...

Nothing is written outside a temporary folder; only findings of ``files`` go to ``--keep``.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.safety.drawing import Case
    from tests.safety.ground import Ground, Outcome

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
    lines.add_argument("--case", type=int, help="run one case of one kind, and print all of it")
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
    if chosen.mode == "commands" and chosen.case is not None and len(chosen.kind or ()) != 1:
        print("error: --case needs one --kind", file=sys.stderr)
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
    from tests.safety.drawing import draw

    kinds = chosen.kind or list(KINDS)
    signal.signal(signal.SIGALRM, still_running)
    numbers = range(-(-chosen.cases // len(kinds))) if chosen.case is None else [chosen.case]
    ends: dict[str, Counter[object]] = {kind: Counter() for kind in kinds}
    findings = 0
    for number, kind in itertools.product(numbers, kinds):
        case = draw(kind, chosen.seed, number, ground.stock)
        signal.alarm(TIME_LIMIT)
        found = ground.run(case)
        signal.alarm(0)
        ends[kind][found.code] += 1
        findings += bool(found.problems)
        if chosen.case is not None:
            show(case, found)
        elif found.problems:
            print(f"\n{' '.join(ascii(word) for word in case.arguments)[:400]}")
            print("\n".join(f"  - {problem!a:.400}" for problem in found.problems))
            print(f"  python scripts/fuzz.py commands --seed {chosen.seed} --kind {kind} "
                  f"--case {number}", flush=True)  # fmt: skip
    codes = sorted({code for counts in ends.values() for code in counts}, key=str)
    print("\nexit code     " + "".join(f"{code!s:>8}" for code in codes) + "   cases")
    for kind, counts in ends.items():
        row = "".join(f"{counts[code]:8,}" for code in codes)
        print(f"{kind:14}{row}{counts.total():8,}")
    print(f"{sum(counts.total() for counts in ends.values()):,} cases, {findings} findings")
    return 1 if findings else 0


def show(case: Case, found: Outcome) -> None:
    """Print a case and its outcome."""
    print("arguments", ascii(case.arguments))
    for name, content in case.files.items():
        print(f"{name}: {len(content):,} bytes")
        print(ascii(content[:3000]) if b"\0" in content else
              content.decode("utf-8", "backslashreplace")[:20_000])  # fmt: skip
    for stream, text in (("stdout", found.out), ("stderr", found.err)):
        print(f"{stream}: {text!a}")
    print(f"exit code {found.code}; problems: {found.problems!a}")


class StillRunningError(Exception):
    """A command does not end."""


def still_running(_number: int, _frame: object) -> None:
    """End a command."""
    raise StillRunningError(f"after {TIME_LIMIT} s")


def files(chosen: argparse.Namespace, ground: Ground) -> int:
    """Mutate checkpoints, guided by coverage; or repeat one finding."""
    from tests.safety.drawing import BYTE_WORDS, FORMATS, READS, checkpoint_case, skeletons

    stock = ground.stock
    places = [(source, name) for source in FORMATS for name in skeletons(source, stock)]

    def run(data: bytes) -> tuple[str, ...]:
        # The first byte chooses the file, the second the command.
        if len(data) < 2:
            return ()
        source, name = places[data[0] % len(places)]
        case = checkpoint_case(source, {name: data[2:]}, stock, READS[data[1] % len(READS)])
        return ground.run(case).problems

    def once(data: bytes) -> None:
        problems = run(data)
        if problems:
            raise AssertionError(problems)

    if chosen.replay:
        problems = run(chosen.replay.read_bytes())
        print("\n".join(map(ascii, problems)) or "no problem")
        return 1 if problems else 0
    import atheris

    seeds, words = ground.root.parent / "seeds", ground.root.parent / "words"
    seeds.mkdir()
    for number, (source, name) in enumerate(places):
        for full in range(len(READS)):
            seed = bytes([number, full]) + skeletons(source, stock)[name]
            (seeds / f"{number}-{full}").write_bytes(seed)
    texts = (
        "".join(f"\\x{byte:02x}" for byte in word) for word in BYTE_WORDS if 0 < len(word) < 64
    )
    words.write_text("".join(f'"{text}"\n' for text in texts))
    arguments = [
        sys.argv[0], f"-runs={chosen.runs}", f"-max_total_time={chosen.seconds}",
        f"-seed={chosen.seed}", "-max_len=40000", f"-timeout={TIME_LIMIT}", "-rss_limit_mb=4096",
        "-print_final_stats=1", f"-artifact_prefix={chosen.keep.resolve()}/", f"-dict={words}",
        str(seeds),
    ]  # fmt: skip
    atheris.Setup(arguments, once)
    atheris.Fuzz()  # It ends this process.
    return 0


if __name__ == "__main__":
    sys.exit(main())
