"""Mutate valid checkpoints, led by coverage, and convert what becomes of them.

Each run must end in a valid result, or in exit code 2 with one message; whatever else happens is a
finding. It is reported with the input that led to it, and the exit code is 1.

    pip install atheris
    python scripts/fuzz.py --seconds 60                # each format for a minute
    python scripts/fuzz.py --format zip --runs 10000
    python scripts/fuzz.py --format zip --replay crash-1f2e...

Nothing is written outside a temporary folder, which is kept if there is a finding.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FORMATS = ("zip", "legacy", "safetensors", "sharded", "diffusers")

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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--format", choices=FORMATS, action="append", help="all by default")
    parser.add_argument("--runs", type=int, default=-1, help="of each format; no limit by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each format (60)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--corpus", type=Path, help="further inputs to begin with, in a folder for each format"
    )
    parser.add_argument("--replay", type=Path, help="run one input of one format, and stop")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Fuzz each format in a process of its own, so that one may crash."""
    asked = options()
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
    command = [sys.executable, __file__, "--format", format, "--child", folder]
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
    with atheris.instrument_imports(include=["inflate.checkpoint", "inflate.loading"]):
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
