"""The command ends with a documented exit code and plain words, whatever is around it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import inflate
from inflate.cli.app import BUG, main
from inflate.errors import InflateError

from ..checkpoints import write_safetensors
from .conftest import ROOT
from .refusals import command, is_one_message, refused
from .serving import Server

CPU_FLAGS = ("--device", "cpu")
INFLATE = f"{sys.executable} -m inflate"
Pair = tuple[Path, Path]


def shell(script: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a script that calls the command."""
    path = os.pathsep.join((more.pop("PYTHONPATH", ""), str(ROOT))).strip(os.pathsep)
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env={**os.environ, "PYTHONPATH": path, **more},
        text=True, capture_output=True, timeout=300,
    )  # fmt: skip


def test_a_reader_that_leaves_changes_no_exit_code(pair: Pair, tmp_path: Path) -> None:
    script = f"{INFLATE} convert {pair[0]} --dry-run --json | true; echo ${{PIPESTATUS[0]}}"
    ran = shell(script, tmp_path)
    assert (ran.stdout.split(), ran.stderr) == (["0"], "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_stdout_is_one_error_and_the_output_is_published(pair: Pair, tmp_path: Path) -> None:
    output = tmp_path / "v.safetensors"
    ran = shell(f"{INFLATE} convert {pair[0]} -o {output} --skip-parity > /dev/full", tmp_path)
    assert ran.returncode == 2
    assert is_one_message(ran.stderr)
    assert str(output) in ran.stderr
    assert output.exists()


def test_the_work_is_done_where_streams_are_closed(pair: Pair, tmp_path: Path) -> None:
    ran = shell(f"{INFLATE} convert {pair[0]} -o v --skip-parity <&- >&- 2>&-", tmp_path)
    assert ran.returncode == 0
    assert inflate.load_video_decoder(tmp_path / "v") is not None


def test_names_that_the_screen_cannot_show_are_escaped(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "größe.safetensors").write_bytes(pair[0].read_bytes())
    ran = shell(
        f"{INFLATE} convert größe.safetensors --dry-run; echo $?; {INFLATE} inspect größt; echo $?",
        tmp_path, PYTHONIOENCODING="ascii",
    )  # fmt: skip
    assert "Traceback" not in ran.stderr
    assert [line for line in ran.stdout.splitlines() if line.isdigit()] == ["0", "2"]


def test_values_beyond_all_limits_are_refused(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image, video = pair
    large, long = f"1{'0' * 400}", "n" * 300
    for line in ("convert IMAGE --dry-run --set=alpha=LARGE", "convert IMAGE --config LONG",
                 "convert IMAGE -o LONG", "verify IMAGE LONG", "verify IMAGE VIDEO --latents LONG",
                 "verify IMAGE VIDEO --images LONG", "verify IMAGE VIDEO --save-outputs LONG",
                 "verify IMAGE VIDEO --report LONG", "inspect LONG", "report LONG", "batch LONG",
                 "batch IMAGE --ledger LONG", "batch IMAGE --ledger .",
                 "batch IMAGE --dry-run -o LONG"):  # fmt: skip
        for name, value in {"IMAGE": image, "VIDEO": video, "LARGE": large, "LONG": long}.items():
            line = line.replace(name, str(value))
        refused(tmp_path, *line.split())


def test_quant_convs_that_are_incomplete_are_refused(pair: Pair, tmp_path: Path) -> None:
    fold = ("--layout", "sgm", "--post-quant", "fold", "--allow-inexact", *CPU_FLAGS)
    for lost in ("decoder.conv_in.bias", "post_quant_conv.bias", "quant_conv.bias"):
        tensors = {key: value for key, value in load_file(pair[0]).items() if key != lost}
        image = write_safetensors(tmp_path / "img.safetensors", tensors)
        assert lost in refused(tmp_path, "convert", image, *fold)


def test_a_manifest_with_nul_or_nested_beyond_any_stack_is_refused(
    pair: Pair, tmp_path: Path
) -> None:
    path, image = tmp_path / "manifest.yaml", json.dumps(str(pair[0]))
    for content in (
        '{"jobs": ["a\\u0000b"]}', f'{{"jobs": [{image}], "ledger": "a\\u0000b"}}',
        f'{{"jobs": [{{"source": {image}, "output": "a\\u0000b"}}]}}', "jobs: " + "[" * 100_000,
    ):  # fmt: skip
        path.write_text(content)
        refused(tmp_path, "batch", path)
    refused(tmp_path, "convert", pair[0], "--config", path)


CORRUPTIONS = ["content = replace(content, 'held', 'failed')", "content = x'ff00'",
               "content = NULL", "digest = 'x'", "output = 7"]  # fmt: skip


def test_a_changed_ledger_is_refused(pair: Pair, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.sqlite"
    words = ["batch", pair[0], "-o", f"{tmp_path}/out/", "--skip-parity", *CPU_FLAGS,
             "--ledger", ledger]  # fmt: skip
    assert command(words)[0] == 0
    sound = ledger.read_bytes()
    for corrupt in CORRUPTIONS:
        for path in tmp_path.glob("ledger.sqlite*"):
            path.unlink()
        ledger.write_bytes(sound)
        db = sqlite3.connect(ledger)
        with db:
            db.execute(f"UPDATE jobs SET {corrupt}")
        db.close()
        code, out, err = command([*words, "--overwrite"])
        assert (code, out) == (2, ""), corrupt
        assert is_one_message(err), corrupt
        assert str(ledger) in err, corrupt


def test_a_deleted_working_directory(pair: Pair, tmp_path: Path, server: Server) -> None:
    program = (
        "import os, sys; from inflate.cli.app import main\n"
        "os.mkdir(sys.argv[1]); os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])\n"
        "sys.exit(main(sys.argv[2:]))"
    )
    image = pair[0]
    for words in (("convert", image, "-o", "v.safetensors"), ("batch", image, "-o", "out/")):
        arguments = [str(word) for word in (tmp_path / "gone", *words)]
        (answer,) = server.run({"python": program, "arguments": arguments})
        assert answer.code == 2, answer.err
        assert is_one_message(answer.err), words


@pytest.mark.parametrize(
    ("function", "arguments", "options"),
    [
        *(("convert", words, {}) for words in ((None, "OUT"), ("a\0b", "OUT"), ("IMAGE", 3))),
        *(("convert", ("IMAGE", "OUT"), {key: value}) for key, value in (
            ("set_", [2]), ("set_", 3), ("device", 3), ("config", "a\0b"), ("prefix", 3),
            ("seed", 10**5000))),
        ("verify", ("IMAGE", 3), {}),
        *(("verify", ("IMAGE", "IMAGE"), {key: value}) for key, value in (
            ("atol", "x"), ("seed", "x"), ("latents", "a\0b"), ("device", None))),
        ("load_video_decoder", (None,), {}), ("load_video_decoder", ("IMAGE",), {"device": []}),
        ("load_video_autoencoder", (3,), {}),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value)[:30],
)  # fmt: skip
def test_arguments_of_another_type_are_refused_by_name(
    function: str, arguments: tuple[Any, ...], options: dict[str, Any], pair: Pair, tmp_path: Path
) -> None:
    places = {"IMAGE": pair[0], "OUT": tmp_path / "v.safetensors"}
    with pytest.raises((InflateError, TypeError)) as caught:
        getattr(inflate, function)(*(places.get(word, word) for word in arguments), **options)
    assert "NoneType' object" not in str(caught.value)
    assert "attribute" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


class _Foreign(BaseException):
    """As bindings of other languages raise for their own crashes."""


@pytest.mark.parametrize("error", [BrokenPipeError, _Foreign])
def test_a_bug_ends_with_70_and_its_traceback(
    error: type[BaseException], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error("a bug")

    monkeypatch.setattr("inflate.inspect", broken)
    assert main(["inspect", "x"]) == BUG == 70
    assert f"{error.__name__}: a bug" in capsys.readouterr().err


def test_ctrl_c_while_the_command_loads(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import builtins, os, signal\n"
        "load = builtins.__import__\n"
        "def interrupted(name, *more, **named):\n"
        "    if name == 'inflate.cli.app':\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return load(name, *more, **named)\n"
        "builtins.__import__ = interrupted\n"
    )
    ran = shell(f"exec {INFLATE} --version", ROOT, PYTHONPATH=str(tmp_path))
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU"])
def test_a_signal_removes_staged_files(
    pair: Pair, tmp_path: Path, name: str, server: Server
) -> None:
    number = getattr(signal, name)
    output = tmp_path / "out" / "v.safetensors"
    output.parent.mkdir()
    words = ("convert", pair[0], "-o", output, "--skip-parity")
    answer = server.command(*words, die=("fsync", "before", 0, number))
    assert answer.code == 128 + number, answer.err
    assert "Traceback" not in answer.err
    assert list(output.parent.iterdir()) == []


def test_signals_after_the_work_change_no_exit_code(tmp_path: Path) -> None:
    program = (
        "import atexit, os, signal, sys; from inflate.__main__ import run\n"
        "for name in ('SIGINT', 'SIGTERM', 'SIGHUP'):\n"
        "    atexit.register(os.kill, os.getpid(), getattr(signal, name))\n"
        "sys.argv[1:] = ['presets', '-h']; run()"
    )
    ran = shell(f'{sys.executable} -c "{program}"', tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_an_ignored_signal_stays_ignored(server: Server) -> None:
    program = (
        "import signal; from inflate.cli.app import main\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); main(['presets', '-h'])\n"
        "assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN"
    )
    (answer,) = server.run({"python": program, "arguments": []})
    assert answer.code == 0, answer.err
