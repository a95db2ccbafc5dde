"""What all commands share: help, suggestions, colours, imports, and options declared once."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
import torch
import typer

import inflate
from inflate.batch.jobs import Job
from inflate.cli.app import app_for
from inflate.cli.console import say
from inflate.cli.help import EXAMPLES, SUMMARY, panel_of
from inflate.config.manifest import read_manifest
from inflate.errors import ConfigError
from inflate.options import JOB_OPTIONS, ConvertOptions, Group, VerifyOptions

from .conftest import CPU, Run

ROOT = Path(inflate.__file__).parents[1]
ESCAPE = "\x1b"
COMMANDS: dict[str, Any] = typer.main.get_command(app_for()).commands  # type: ignore[attr-defined]
PAGES = {(): typer.main.get_command(app_for()), **{(name,): c for name, c in COMMANDS.items()}}
PAGES |= {("presets", name): c for name, c in COMMANDS["presets"].commands.items()}
"""Every help page, by the words that lead to it."""


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
def test_pages_list_every_option_in_a_group_with_a_summary(
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
        assert summary
        assert len(summary) <= SUMMARY or param.name == "show_completion"  # Typer's own.


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_a_command_parse(run: Run, command: str) -> None:
    page = run(command, "--help").out
    for line in EXAMPLES[command].strip().splitlines():
        assert f"  {line}\n" in page
        program, name, *words = shlex.split(line.partition(" >")[0])
        assert (program, name) == ("inflate", command)
        COMMANDS[name].make_context(name, words)


def test_the_shell_completes_choices(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_INFLATE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "inflate convert --time-mode co")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert run().out.split() == ["conv-only"]


USAGE_ERRORS = [
    (("invert",), "convert"),
    (("convert",), "SOURCE"),
    (("convert", "x", "--time-mode", "al"), "did you mean 'all'"),
    (("convert", "x", "--alpha", "much"), "'much'"),
    (("convert", "x", "--video-kernel-size", "9" * 5000), f"'{'9' * 80}'"),
    (("convert", "x", "--video-kernel-size", "3,x,1"), "'3,x,1'"),
    (("convert", "x", "--aplha", "1"), "did you mean '--alpha'"),
    (("convert", "x", "--preset", "flux"), "did you mean '--config'"),
    (("verify", "x", "y", "z"), "z"),
    (("verify", "x", "--seed", "1.5", "--json"), "'1.5'"),
    (("batch", "x", "--jobs", "0"), "--jobs"),
    (("batch", "x", "--memory", "nan"), "--memory"),
    (("batch", "x", "--ledger", "s3://k:pass@b/x"), "--ledger"),
    (("batch", "x", "--report-dir", "s3://b/x"), "--report-dir"),
    (("verify", "x", "--save-outputs", "s3://b/x"), "--save-outputs"),
    (("presets", "xport", "kl-f8"), "export"),
]


@pytest.mark.parametrize(("arguments", "named"), USAGE_ERRORS)
def test_a_usage_error_ends_with_2(run: Run, arguments: tuple[str, ...], named: str) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.out != "") == (2, "--json" in arguments)
    assert named in ran.err
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert "pass@" not in ran.err
    assert ("did you mean" in ran.err) == ("did you mean" in named)


def test_ctrl_c_anywhere_ends_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("inflate.verify", interrupted)
    ran = run("verify", "x")
    assert (ran.code, ran.out, ran.err) == (130, "", "interrupted\n")


# In a pipe and on a terminal


def test_no_color(run: Run, tiny: Path, tiny_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("verify", tiny, tiny_video, *CPU)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")  # As on a terminal.
    colour = re.compile(r"\x1b\[[\d;]*(3\d|9\d|4\d|10\d)[\d;]*m")
    assert colour.search(run(*arguments).out), "the verdict is green"
    monkeypatch.delenv("FORCE_COLOR")
    assert ESCAPE not in run(*arguments).out
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    for words in (arguments, ("inspect", tiny), ("verify", "--help"), ("verify",)):
        ran = run(*words)
        assert ESCAPE not in ran.out + ran.err, words


@pytest.mark.parametrize("quiet", [False, True])
def test_a_terminal_shows_the_steps(
    run: Run, source: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    ran = run("convert", source, "--json", *(["-q"] if quiet else []), *CPU)
    assert ran.code == 0
    json.loads(ran.out)
    for step in ("reading", "writing", "checking parity"):
        assert (step in ran.err) == (not quiet)
    assert (ESCAPE in ran.err) == (not quiet)


@pytest.mark.parametrize("err", [False, True])
def test_a_terminal_breaks_lines_between_words(
    err: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    words = [*["expected"] * 20, "x" * 50, "end"]
    say(" ".join(words), err=err)
    monkeypatch.setattr(sys.stderr if err else sys.stdout, "isatty", lambda: True)
    say(" ".join(words), err=err)
    first, *lines = "".join(capsys.readouterr()).splitlines()
    assert first == " ".join(words)  # Not a terminal.
    assert " ".join(lines).split() == words
    assert all(len(line) <= 30 for line in lines if line != "x" * 50)


def test_the_first_step_is_shown_before_torch_is_loaded() -> None:
    code = (
        "import sys\n"
        "from inflate.cli import progress\n"
        "sys.stderr.isatty = lambda: True\n"
        "with progress.progress_bar(False):\n"
        "    assert 'torch' not in sys.modules\n"
        "    sys.exit(7)\n"
    )
    env = {**os.environ, "TERM": "xterm"}
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert ran.returncode == 7
    assert ran.stderr.startswith("loading torch…")


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


DECLARED: dict[str, type[ConvertOptions] | type[VerifyOptions]] = {
    "convert": ConvertOptions,
    "verify": VerifyOptions,
}
OTHER_VALUES: dict[str, Any] = {
    "ignore": ["*.total_ops"],
    "config": "kl-f8", "time_mode": "all", "merge_strategy": "fixed", "alpha": 0.25,
    "video_kernel_size": [3, 1, 1], "attn_type": "none", "set": ["seed=3"], "seed": 7,
    "dtype": "float16", "float32_norms": True, "prefix": "vae.", "weights": "ema",
    "layout": "sgm", "post_quant": "fold", "allow_inexact": True, "device": "cpu",
    "skip_parity": True, "overwrite": True, "source_sha256": True,
}  # fmt: skip
"""A value of every option of a job that is not its default."""


def kinds_of(hint: Any) -> set[Any]:
    return {*get_args(hint)} if get_origin(hint) in (Union, UnionType) else {hint}


@pytest.mark.parametrize("command", DECLARED)
def test_each_option_is_an_argument_of_the_same_type_and_default(command: str) -> None:
    function = getattr(inflate, command)
    parameters = inspect.signature(function).parameters
    hints = get_type_hints(function, localns={"torch": torch})
    for option in dataclasses.fields(DECLARED[command]):
        name = "set_" if option.name == "set" else option.name
        assert parameters[name].default == option.default, name
        if name != "set_":  # In Python any iterable will do.
            own = get_type_hints(DECLARED[command])[option.name]
            # Some take more: a path as text or a text as path, and torch's device.
            more = {str, Path, torch.device}
            assert kinds_of(own) <= kinds_of(hints[name]) <= kinds_of(own) | more


def test_each_option_of_a_job_is_a_key_of_the_manifest_and_counts_in_the_ledger(
    tmp_path: Path,
) -> None:
    manifest = tmp_path / "manifest.yaml"
    jobs = [{"source": "img.ckpt", name: OTHER_VALUES[name]} for name in JOB_OPTIONS]
    manifest.write_text(json.dumps({"jobs": jobs}))
    read = read_manifest(manifest)
    assert read.problems == ()
    for name, entry in zip(JOB_OPTIONS, read.entries, strict=True):
        value = entry.options[name]
        assert (list(value) if isinstance(value, tuple) else value) == OTHER_VALUES[name]
        counts = Job("img.ckpt", "out", entry.options).settings != Job("img.ckpt", "out").settings
        assert counts == (name != "overwrite"), name


def test_values_of_options_are_checked_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        VerifyOptions(atol=-1, rtol=math.inf, max_side=0, weights="emma")  # type: ignore[arg-type]
    assert len(caught.value.problems) == 4
    assert any("'emma' (did you mean 'ema'?)" in problem for problem in caught.value.problems)
