"""Feed the command what nobody meant: mutated checkpoints, and command lines of all kinds.

``commands`` draws command lines, YAML configurations, manifests of batches, candidates of
``verify`` and stored reports, from a seed. ``files`` mutates checkpoints, led by coverage, and
converts what becomes of them. Each run must end in a valid result, or in exit code 2 with one
message, and leave everything else as it was; whatever else happens is a finding. It is reported
with what led to it, and the exit code is 1.

    python scripts/fuzz.py commands --cases 5000 --seed 1
    python scripts/fuzz.py commands --seed 1 --kind manifests --case 17     # one again, in full
    pip install atheris
    python scripts/fuzz.py files --seconds 60                               # each format
    python scripts/fuzz.py files --format zip --runs 10000
    python scripts/fuzz.py files --format zip --replay crash-1f2e...

Nothing is written outside a temporary folder, which files keeps if there is a finding.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.safety.cases import Case
    from tests.safety.commands import Outcome

ROOT = Path(__file__).resolve().parents[1]
FORMATS = ("zip", "legacy", "safetensors", "sharded", "diffusers")
KINDS = ("lines", "configurations", "manifests", "candidates", "reports")
PATIENCE = 120
"""Seconds after which a command counts as one that does not end."""

WORDS = (
    r"\x80\x02", r"PK\x01\x02", r"PK\x03\x04", r"PK\x05\x06", r"ccollections\x0aOrderedDict\x0a",
    r"ctorch._utils\x0a_rebuild_tensor_v2\x0a", r"ctorch._utils\x0a_rebuild_tensor_v3\x0a",
    r"ctorch._tensor\x0a_rebuild_from_type_v2\x0a", r"ctorch\x0aFloatStorage\x0a",
    r"ctorch\x0aHalfStorage\x0a", r"cbuiltins\x0abytearray\x0a", r"cposix\x0asystem\x0a",
    r"state_dict", r"storage", r"byteorder", r"big", r"weight_map", r"__metadata__", r"dtype",
    r"shape", r"data_offsets", r"F16", r"F32", r"BF16", r"I64", r"null", r"true", r"[]", r"{}",
    r"inflate.config", r"_class_name", r"AutoencoderKL", r"norm_num_groups", r"scaling_factor",
    r"decoder.", r"encoder.", r"first_stage_model.", r"mid.block_1.conv1.weight", r"up.0.block.0.",
    r"mix_factor", r"time_stack", r"model_ema.", r"attn_1.q.weight", r"post_quant_conv.weight",
)  # fmt: skip


def options() -> argparse.Namespace:
    """What was asked for."""
    assert __doc__ is not None
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = top.add_subparsers(dest="mode", required=True)
    lines = modes.add_parser("commands", help="draw commands of each kind, and run them here")
    lines.add_argument("--cases", type=int, default=5000, help="of all kinds together (5000)")
    lines.add_argument("--seed", type=int, default=1)
    lines.add_argument("--kind", choices=KINDS, action="append", help="all by default")
    lines.add_argument("--case", type=int, help="run one case of one kind, and show all of it")
    parser = modes.add_parser("files", help="mutate checkpoints, led by coverage (atheris)")
    parser.add_argument("--format", choices=FORMATS, action="append", help="all by default")
    parser.add_argument("--runs", type=int, default=-1, help="of each format; no limit by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each format (60)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--corpus", type=Path, help="further inputs to begin with, in a folder for each format"
    )
    parser.add_argument("--replay", type=Path, help="run one input of one format, and stop")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return top.parse_args()


def main() -> int:
    """Do what was asked for; the exit code."""
    asked = options()
    return commands(asked) if asked.mode == "commands" else files(asked)


def commands(asked: argparse.Namespace) -> int:
    """Draw commands, run each in this process, and report what must not be."""
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = str(ROOT)  # For the workers of batches.
    import torch

    from tests.safety.cases import draw
    from tests.safety.commands import Ground

    kinds = asked.kind or list(KINDS)
    if asked.case is not None and len(kinds) != 1:
        print("error: --case needs one --kind", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, still_running)
    numbers = range(-(-asked.cases // len(kinds))) if asked.case is None else [asked.case]
    ends: dict[str, Counter[object]] = {kind: Counter() for kind in kinds}
    findings = 0
    with tempfile.TemporaryDirectory(prefix="inflate-fuzz-") as name:
        ground = Ground(Path(name) / "root")
        for number, kind in itertools.product(numbers, kinds):
            case = draw(kind, asked.seed, number, ground.stock)
            signal.alarm(PATIENCE)
            found = ground.run(case)
            signal.alarm(0)
            ends[kind][found.code] += 1
            findings += bool(found.problems)
            if asked.case is not None:
                show(case, found)
            elif found.problems:
                print(f"\n{' '.join(ascii(word) for word in case.arguments)[:400]}")
                print("\n".join(f"  - {problem!a:.400}" for problem in found.problems))
                print(f"  python scripts/fuzz.py commands --seed {asked.seed} --kind {kind} "
                      f"--case {number}", flush=True)  # fmt: skip
    codes = sorted({code for counts in ends.values() for code in counts}, key=str)
    print("\nexit code     " + "".join(f"{code!s:>8}" for code in codes) + "   cases")
    for kind, counts in ends.items():
        print(f"{kind:14}" + "".join(f"{counts[code]:8,}" for code in codes)
              + f"{counts.total():8,}")  # fmt: skip
    print(f"{sum(counts.total() for counts in ends.values()):,} cases, {findings} findings")
    return 1 if findings else 0


def show(case: Case, found: Outcome) -> None:
    """A case, and all that came of it."""
    print("arguments", ascii(case.arguments))
    for name, content in case.files.items():
        print(f"{name}: {len(content):,} bytes")
        print(ascii(content[:3000]) if name.endswith("safetensors") else
              content.decode("utf-8", "backslashreplace")[:20_000])  # fmt: skip
    for stream, text in (("stdout", found.out), ("stderr", found.err)):
        print(f"{stream}: {text!a}")
    print(f"exit code {found.code}; problems: {found.problems!a}")


class StillRunningError(Exception):
    """A command that does not end."""


def still_running(_number: int, _frame: object) -> None:
    """End a command."""
    raise StillRunningError(f"after {PATIENCE} s")


def files(asked: argparse.Namespace) -> int:
    """Fuzz each format in a process of its own, so that one may crash."""
    formats = asked.format or list(FORMATS)
    if asked.child:
        fuzz(formats[0], asked)
    if asked.replay:
        return replay(formats, asked.replay)
    if importlib.util.find_spec("atheris") is None:
        print("error: atheris is not installed; pip install atheris", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="inflate-fuzz-"))
    counts, findings = {}, []
    for name in formats:
        counts[name], found = run_child(name, folder / name, asked)
        findings += found
    for name, count in counts.items():
        print(f"{name:12} {count:>9,} runs")
    print(f"{'together':12} {sum(counts.values()):>9,} runs, {len(findings)} findings")
    if findings:
        print(f"kept: {', '.join(map(str, findings))}")
        return 1
    shutil.rmtree(folder)
    return 0


def run_child(format: str, folder: Path, asked: argparse.Namespace) -> tuple[int, list[Path]]:
    """Fuzz one format: the count of runs, and the inputs that are findings."""
    folder.mkdir()
    (folder / "tmp").mkdir()
    command = [sys.executable, __file__, "files", "--format", format, "--child", folder]
    command += ["--runs", asked.runs, "--seconds", asked.seconds, "--seed", asked.seed]
    if asked.corpus:
        command += ["--corpus", asked.corpus]
    log = folder / "log"
    print(f"{format}: {asked.seconds} s at most", file=sys.stderr, flush=True)
    with log.open("wb") as out:
        environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(
            [str(word) for word in command], stdout=out, stderr=out, env=environment, check=False
        )
    text = log.read_text(encoding="utf-8", errors="replace")
    executed = re.findall(r"number_of_executed_units:\s*(\d+)", text) or re.findall(
        r"^#(\d+)", text, re.MULTILINE
    )
    findings = sorted(folder.glob("finding-*"))
    if ended.returncode:
        print(text[-4000:], file=sys.stderr)
        findings = findings or [log]
    return (int(executed[-1]) if executed else 0), findings


def fuzz(format: str, asked: argparse.Namespace) -> None:
    """Fuzz a format in this process, which ends with it."""
    import atheris

    sys.path.insert(0, str(ROOT))
    with atheris.instrument_imports(include=["inflate.io", "inflate.loading"]):
        import inflate.workflow.conversion  # noqa: F401
    import torch

    from tests.safety.fuzzing import make_subject

    torch.set_num_threads(1)
    folder: Path = asked.child
    subject = make_subject(format, folder / "in")
    output = folder / "out" / "video.safetensors"
    output.parent.mkdir()
    seeds = folder / "corpus"
    seeds.mkdir()
    for i, skeleton in enumerate(subject.skeletons()):
        for full in (0, 1):
            (seeds / f"seed-{i}-{full}").write_bytes(bytes([i, full]) + skeleton)
    words = folder / "words"
    words.write_text("".join(f'"{word}"\n' for word in WORDS))
    arguments = [
        sys.argv[0], f"-runs={asked.runs}", f"-max_total_time={asked.seconds}",
        f"-seed={asked.seed}", "-max_len=40000", "-timeout=20", "-rss_limit_mb=4096",
        "-print_final_stats=1", f"-artifact_prefix={folder}/finding-", f"-dict={words}", str(seeds),
    ]  # fmt: skip
    if asked.corpus:
        arguments.append(str(asked.corpus.resolve() / format))  # Only the first is written to.
    atheris.Setup(arguments, lambda data: once(subject, output, data))
    atheris.Fuzz()


def once(subject: object, output: Path, data: bytes) -> None:
    """One run: the first byte says which file of the checkpoint, the second how far to go."""
    from tests.safety.fuzzing import Subject, check, clear

    assert isinstance(subject, Subject)
    if len(data) < 2:
        return
    subject.put(data[0] % len(subject.files), data[2:])
    check(subject, output, full=bool(data[1] & 1))
    clear(output)


def replay(formats: list[str], data: Path) -> int:
    """Run one input again, with all that it has to say."""
    sys.path.insert(0, str(ROOT))
    from tests.safety.fuzzing import make_subject

    if len(formats) != 1:
        print("error: --replay needs one --format", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="inflate-fuzz-") as name:
        folder = Path(name)
        subject = make_subject(formats[0], folder / "in")
        (folder / "out").mkdir()
        try:
            once(subject, folder / "out" / "video.safetensors", data.read_bytes())
        except Exception:  # noqa: BLE001
            traceback.print_exc()
            return 1
    print("as it should be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
