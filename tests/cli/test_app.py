"""What all commands share: help, version, colours, bars, and how quickly they start."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import inflate
from inflate.cli import app

from ..conversions import nudged
from .conftest import Run

ROOT = Path(inflate.__file__).parents[1]
CPU = ("--device", "cpu")
ESCAPE = "\x1b"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}

OPTIONS = {
    "convert": "-o --report --github-summary --json -q",
    "verify": "--report --github-summary --json -q",
    "inspect": "--prefix --weights --json -q",
    "report": "--to -o",
    "batch": "-o --jobs --dry-run --retry-failed --fail-fast --executor --ray-address --memory "
    "--ledger --report-dir --github-summary --json -q",
    "presets": "--json",
    "demo": "[DIR] --device -q",
}


@pytest.mark.parametrize("command", OPTIONS)
def test_help_names_the_flags_of_a_command_alone(run: Run, command: str) -> None:
    ran = run(command, "--help")
    assert (ran.code, ran.err) == (0, "")
    for option in OPTIONS[command].split():
        assert re.search(rf"(^|[\s,]){re.escape(option)}\b", ran.out) or option in ran.out.split()


def test_help_names_the_choices(run: Run) -> None:
    out = run("convert", "--help").out
    for choice in ("all|conv-only|attn-only", "learned|fixed", "float32|float16|bfloat16"):
        assert choice in out
    assert "auto|cpu|cuda|cuda:N|mps" in run("verify", "--help").out


def test_help_names_every_command(run: Run) -> None:
    ran = run("--help")
    assert (ran.code, ran.err) == (0, "")
    for command in OPTIONS:
        assert re.search(rf"^  {command} ", ran.out, re.MULTILINE)


def test_without_a_command_it_helps(run: Run) -> None:
    ran = run()
    assert ran.code == 2
    assert "Usage: inflate" in ran.out + ran.err


def test_the_version(run: Run) -> None:
    ran = run("--version")
    assert (ran.code, ran.out, ran.err) == (0, f"inflate {inflate.__version__}\n", "")


USAGE_ERRORS = [
    (("invert",), "invert"),
    (("convert",), "Missing argument"),
    (("convert", "x", "--time-mode", "both"), "both"),
    (("convert", "x", "--merge-strategy", "mean"), "mean"),
    (("convert", "x", "--dtype", "int8"), "int8"),
    (("convert", "x", "--alpha", "much"), "'much'"),
    (("convert", "x", "--seed", "1.5"), "'1.5'"),
    (("convert", "x", "--seed", "9" * 5000), f"'{'9' * 80}'"),
    (("convert", "x", "--video-kernel-size", "9" * 5000), f"'{'9' * 80}'"),
    (("convert", "x", "--video-kernel-size", "2"), "'2'"),
    (("convert", "x", "--video-kernel-size", "3,1"), "'3,1'"),
    (("convert", "x", "--video-kernel-size", "3,x,1"), "'3,x,1'"),
    (("convert", "x", "--video-kernel-size", "-3"), "'-3'"),
    (("convert", "x", "--no-such-option"), "--no-such-option"),
    (("verify",), "Missing argument"),
    (("verify", "x", "y", "z"), "z"),
    (("verify", "x", "--dtype", "int8"), "int8"),
    (("verify", "x", "--atol", "tight"), "'tight'"),
    (("verify", "x", "--rtol", "loose"), "'loose'"),
    (("convert", "x", "--alpha", "nan"), "'nan'"),
    (("verify", "x", "--atol", "-1"), "'-1'"),
    (("verify", "x", "--rtol", "nan"), "'nan'"),
    (("verify", "x", "--atol", "inf", "--json"), "'inf'"),
    (("verify", "x", "--seed", "x"), "'x'"),
    (("verify", "x", "--max-side", "q"), "'q'"),
    (("verify", "x", "--max-side", "0"), "'0'"),
    (("batch", "x", "--alpha", "much"), "'much'"),
    (("batch", "x", "--seed", "1.5"), "'1.5'"),
    (("batch", "x", "--jobs", "all"), "'all'"),
    (("batch", "x", "--jobs", "0"), "'0'"),
    (("batch", "x", "--memory", "some"), "'some'"),
    (("batch", "x", "--memory", "-1"), "'-1'"),
    (("presets", "x"), "x"),
]


@pytest.mark.parametrize(("arguments", "said"), USAGE_ERRORS)
def test_a_usage_error_ends_with_2(run: Run, arguments: tuple[str, ...], said: str) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_ctrl_c_anywhere_ends_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("inflate.workflow.verify_with", interrupted)
    ran = run("verify", "x")
    assert (ran.code, ran.out) == (130, "")
    assert ran.err == "interrupted\n"


# In a pipe and on a terminal


def test_no_escape_codes_and_no_bars_in_a_pipe(
    run: Run, source: Path, image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    wrong = nudged(videos["all"], tmp_path / "wrong", "decoder.conv_out.time_mix_conv.bias")
    for arguments in (("convert", source), ("verify", image, wrong), ("verify", videos["all"])):
        ran = run(*arguments, *CPU)
        assert ESCAPE not in ran.out + ran.err
        assert "checking parity" not in ran.out + ran.err


def test_no_colour_is_respected(
    run: Run, image: Path, videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("verify", image, videos["all"], *CPU)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    colour = re.compile(r"\x1b\[[\d;]*(3\d|9\d|4\d|10\d)[\d;]*m")
    assert colour.search(run(*arguments).out), "the verdict is green"
    monkeypatch.setenv("NO_COLOR", "1")
    for words in (arguments, ("inspect", image), ("presets",), ("verify", "--help"), ("verify",)):
        ran = run(*words)
        assert ESCAPE not in ran.out + ran.err, words


@pytest.mark.parametrize("quiet", [False, True])
def test_bars_are_for_those_who_watch(
    run: Run, source: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    ran = run("convert", source, "--json", *(["-q"] if quiet else []), *CPU)
    assert ran.code == 0
    json.loads(ran.out)
    for phase in ("writing", "checking parity"):
        assert (phase in ran.err) == (not quiet)


def test_without_colour_a_line_counts_in_place_of_a_bar(
    run: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    ran = run("convert", source, *CPU)
    assert ran.code == 0
    assert ESCAPE not in ran.out + ran.err
    assert re.search(r"\rwriting \d+/\d+", ran.err)
    assert "checking parity" in ran.err
    assert re.search(r"\r +\r$", ran.err), "the line is cleared"


# As a process


def test_commands_that_compute_nothing_load_nothing() -> None:
    code = (
        "import sys\n"
        "from inflate.cli.app import main\n"
        "for command in sys.argv[1:]:\n"
        "    code = main(command.split())\n"
        "    reads = command.split()[0] in ('inspect', 'convert') and '--help' not in command\n"
        "    light = () if reads else ('numpy', 'omegaconf', 'safetensors')\n"
        "    for heavy in ('torch', 'xformers', 'rich', *light):\n"
        "        assert heavy not in sys.modules, (command, heavy)\n"
        "    print('code', code)\n"
    )
    commands = {
        "--help": 0,
        "--version": 0,
        "presets": 0,
        "presets --json": 0,
        "convert --help": 0,
        "verify --help": 0,
        "inspect --help": 0,
        "demo --help": 0,
        "batch --help": 0,
        "batch": 2,
        "report --help": 0,
        "report no-such.json --to md": 2,
        "verify x --report r.pdf": 2,
        **dict.fromkeys((" ".join(arguments) for arguments, _ in USAGE_ERRORS), 2),
        "inspect no-such-file": 2,
        "inspect pyproject.toml": 2,
        "convert no-such-file": 2,
    }
    ran = subprocess.run(
        [sys.executable, "-c", code, *commands], capture_output=True, text=True, cwd=ROOT
    )
    assert ran.returncode == 0, ran.stderr
    codes = [int(line.split()[1]) for line in ran.stdout.splitlines() if line.startswith("code ")]
    assert codes == list(commands.values())


def test_as_a_process(image: Path, videos: dict[str, Path], tmp_path: Path) -> None:
    wrong = nudged(videos["all"], tmp_path / "wrong", "decoder.conv_out.time_mix_conv.bias")
    ran = subprocess.run(
        [sys.executable, "-m", "inflate", "verify", image, wrong, "--json", *CPU],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=ONE_THREAD,
    )
    assert ran.returncode == 1
    assert json.loads(ran.stdout)["verdict"] == "fail"
    assert ran.stderr == ""


def test_nobody_reads_the_output() -> None:
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run(
        [sys.executable, "-m", "inflate", "presets"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=ONE_THREAD,
    )
    os.close(write)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_commands_entry_point_is_main() -> None:
    assert callable(app.main)
    assert 'inflate = "inflate.__main__:run"' in (ROOT / "pyproject.toml").read_text()
