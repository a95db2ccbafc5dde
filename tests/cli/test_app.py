"""What all commands share: help, version, suggestions, colours, bars, and what they import."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

import inflate
from inflate.cli.app import app
from inflate.cli.help import EXAMPLES, SUMMARY, panel_of, summary_of
from inflate.options import JOB_OPTIONS, ConvertOptions, Group, VerifyOptions

from ..conversions import nudged
from .conftest import CPU, Run

ROOT = Path(inflate.__file__).parents[1]
ESCAPE = "\x1b"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
PAGES = {(): typer.main.get_command(app), **{(name,): c for name, c in COMMANDS.items()}}
PAGES |= {("presets", name): c for name, c in COMMANDS["presets"].commands.items()}
"""Every help page, by the words that lead to it."""

DECLARED = {
    "convert": [option.name for option in dataclasses.fields(ConvertOptions)],
    "verify": [option.name for option in dataclasses.fields(VerifyOptions)],
    "batch": [*JOB_OPTIONS],
}


def rows(page: str) -> dict[str, tuple[str, str]]:
    """The group and the summary of each entry of a wide help page, by its last name."""
    found, title, last = {}, "", ""
    for line in page.splitlines():
        if heading := re.fullmatch(r"(\w[\w ]*):", line):
            title = heading[1]
        elif entry := re.match(r"  (?:-\w, )?(\S+)(?: \S+)?(?:  +(.*))?$", line):
            found[last := entry[1]] = (title, entry[2] or "")
        elif line.startswith(" " * 20):  # Below the choices, where those take a line.
            found[last] = (title, line.strip())
    return found


@pytest.mark.parametrize("words", PAGES, ids=" ".join)
def test_a_page_lists_every_option_in_a_group_with_a_short_summary(
    run: Run, words: tuple[str, ...]
) -> None:
    ran = run(*words, "-h")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == run(*words, "--help").out
    assert max(map(len, ran.out.splitlines())) <= 120
    found = rows(ran.out)
    for param in PAGES[words].params:
        if param.param_type_name == "option":
            title, summary = found[param.opts[-1]]
            assert title == panel_of(param) in get_args(Group)
        else:
            title, summary = found[param.metavar]
        assert 0 < len(summary) <= SUMMARY, (param.name, summary)


@pytest.mark.parametrize("command", DECLARED)
def test_help_names_every_option(run: Run, command: str) -> None:
    found = rows(run(command, "--help").out)
    for name in DECLARED[command]:
        assert f"--{name.replace('_', '-')}" in found


def test_the_first_page_has_the_whole_summary_of_every_command(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = rows(run("--help").out)
    for name, command in COMMANDS.items():
        assert found[name] == ("Commands", summary_of(command))
        assert len(summary_of(command)) <= SUMMARY
    monkeypatch.setenv("COLUMNS", "50")
    narrow = " ".join(run("--help").out.split())
    assert all(summary_of(command) in narrow for command in COMMANDS.values())


def test_arguments_are_in_the_usage(run: Run) -> None:
    first = run("verify", "-h").out.splitlines()[0]
    assert first == "Usage: inflate verify REFERENCE [CANDIDATE] [OPTIONS]"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_a_command_parse(run: Run, command: str) -> None:
    page = run(command, "--help").out
    for line in EXAMPLES[command].strip().splitlines():
        assert f"  {line}\n" in page
        program, name, *words = shlex.split(line.partition(" >")[0])
        assert (program, name) == ("inflate", command)
        COMMANDS[name].make_context(name, words)


def test_without_a_command_it_helps(run: Run) -> None:
    ran = run()
    assert ran.code == 2
    assert "Usage: inflate" in ran.out + ran.err


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_the_version(run: Run, option: str) -> None:
    ran = run(option)
    assert (ran.code, ran.out, ran.err) == (0, f"inflate {inflate.__version__}\n", "")


def test_the_shell_completes_choices(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_INFLATE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "inflate convert --time-mode co")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert run().out.split() == ["conv-only"]


USAGE_ERRORS = [
    (("invert",), "convert"),
    (("convert",), "SOURCE"),
    (("convert", "x", "--time-mode", "al"), "did you mean 'all'"),
    (("convert", "x", "--time-mode", "xyzzy"), "'xyzzy'"),
    (("convert", "x", "--dtype", "fp16"), "did you mean 'float16'"),
    (("convert", "x", "--alpha", "much"), "'much'"),
    (("convert", "x", "--alpha", "nan"), "'nan'"),
    (("convert", "x", "--seed", "1.5"), "'1.5'"),
    (("convert", "x", "--seed", "9" * 5000), f"'{'9' * 80}'"),
    (("convert", "x", "--video-kernel-size", "9" * 5000), f"'{'9' * 80}'"),
    (("convert", "x", "--video-kernel-size", "2"), "'2'"),
    (("convert", "x", "--video-kernel-size", "3,1"), "'3,1'"),
    (("convert", "x", "--video-kernel-size", "3,x,1"), "'3,x,1'"),
    (("convert", "x", "--aplha", "1"), "--alpha"),
    (("verify", "x", "y", "z"), "z"),
    (("verify", "x", "--atol", "-1"), "'-1'"),
    (("verify", "x", "--atol", "inf", "--json"), "'inf'"),
    (("verify", "x", "--max-side", "0"), "'0'"),
    (("batch", "x", "--jobs", "all"), "'all'"),
    (("batch", "x", "--jobs", "0"), "'0'"),
    (("batch", "x", "--memory", "-1"), "'-1'"),
    (("presets", "xport", "kl-f8"), "export"),
]


@pytest.mark.parametrize(("arguments", "named"), USAGE_ERRORS)
def test_a_usage_error_ends_with_2(run: Run, arguments: tuple[str, ...], named: str) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.out != "") == (2, "--json" in arguments)
    assert named in ran.err
    assert "Traceback" not in ran.err
    assert ("did you mean" in ran.err) == ("did you mean" in named)


def test_ctrl_c_anywhere_ends_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("inflate.workflow.verify_with", interrupted)
    ran = run("verify", "x")
    assert (ran.code, ran.out, ran.err) == (130, "", "interrupted\n")


# In a pipe and on a terminal


def test_no_escape_codes_and_no_bars_in_a_pipe(
    run: Run, source: Path, image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    wrong = nudged(videos["all"], tmp_path / "wrong", "decoder.conv_out.time_mix_conv.bias")
    for arguments in (("convert", source), ("verify", image, wrong)):
        ran = run(*arguments, *CPU)
        assert (ran.err, ESCAPE in ran.out) == ("", False)


def test_no_color_is_respected(
    run: Run, image: Path, videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("verify", image, videos["all"], *CPU)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")  # As on a terminal.
    colour = re.compile(r"\x1b\[[\d;]*(3\d|9\d|4\d|10\d)[\d;]*m")
    assert colour.search(run(*arguments).out), "the verdict is green"
    monkeypatch.setenv("NO_COLOR", "1")
    for words in (arguments, ("inspect", image), ("verify", "--help"), ("verify",)):
        ran = run(*words)
        assert ESCAPE not in ran.out + ran.err, words


@pytest.mark.parametrize(("quiet", "no_color"), [(False, ""), (False, "1"), (True, "")])
def test_a_terminal_shows_the_steps(
    run: Run, source: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool, no_color: str
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    ran = run("convert", source, "--json", *(["-q"] if quiet else []), *CPU)
    assert ran.code == 0
    json.loads(ran.out)
    for step in ("reading", "writing", "checking parity"):
        assert (step in ran.err) == (not quiet)
    assert (ESCAPE in ran.err) == (not quiet and not no_color)


def test_the_first_step_is_shown_before_torch_is_loaded() -> None:
    code = (
        "import sys\n"
        "from inflate.cli import progress\n"
        "sys.stderr.isatty = lambda: True\n"
        "with progress.progress_bar(False):\n"
        "    assert 'torch' not in sys.modules\n"
        "    sys.exit(7)\n"
    )
    env = {**ONE_THREAD, "NO_COLOR": "1"}
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (7, "loading torch…\n")


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
        "--version": 0,
        "presets": 0,
        "presets show kl-f8": 0,
        **{" ".join((*words, "--help")): 0 for words in PAGES},
        "report no-such.json --to md": 2,
        "verify x --report r.pdf": 2,
        **dict.fromkeys((" ".join(arguments) for arguments, _ in USAGE_ERRORS), 2),
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
    command = [sys.executable, "-m", "inflate", "verify", image, wrong, "--json", *CPU]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=ONE_THREAD)
    assert (ran.returncode, ran.stderr) == (1, "")
    assert json.loads(ran.stdout)["verdict"] == "fail"


def test_a_closed_pipe_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "inflate", "presets"]
    ran = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=ROOT, env=ONE_THREAD)
    os.close(write)
    assert (ran.returncode, ran.stderr) == (0, b"")
