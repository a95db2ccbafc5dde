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
import torch
from safetensors.torch import load_file

import inflate
from inflate.cli.app import BUG, main
from inflate.errors import InflateError

from ..checkpoints import write_safetensors
from ..conversions import metadata_of
from .conftest import ROOT
from .refusals import command, is_one_message, refused
from .serving import Server

CPU_FLAGS = ("--device", "cpu")
INFLATE = f"{sys.executable} -m inflate"
Trio = tuple[Path, ...]

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


def shell(script: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a script that calls the command."""
    path = os.pathsep.join((more.pop("PYTHONPATH", ""), str(ROOT))).strip(os.pathsep)
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env={**os.environ, "PYTHONPATH": path, **more},
        text=True, capture_output=True, timeout=300,
    )  # fmt: skip


# Pipes and screens


def test_a_reader_that_leaves_changes_no_exit_code(trio: Trio) -> None:
    ran = shell(
        f"{INFLATE} convert {trio[0]} --dry-run --json | true; echo ${{PIPESTATUS[0]}}",
        trio[0].parent,
    )
    assert (ran.stdout.split(), ran.stderr) == (["0"], "")


@needs_full
def test_a_full_stdout_is_one_error_and_the_output_is_published(trio: Trio, tmp_path: Path) -> None:
    output = tmp_path / "v.safetensors"
    ran = shell(f"{INFLATE} convert {trio[0]} -o {output} --skip-parity > /dev/full", tmp_path)
    assert ran.returncode == 2
    assert sum(line.startswith("error: ") for line in ran.stderr.splitlines()) == 1
    assert str(output) in ran.stderr
    assert output.exists()


def test_the_work_is_done_where_streams_are_closed(trio: Trio, tmp_path: Path) -> None:
    ran = shell(f"{INFLATE} convert {trio[0]} -o v --skip-parity <&- >&- 2>&-", tmp_path)
    assert ran.returncode == 0
    assert inflate.load_video_decoder(tmp_path / "v") is not None


@pytest.mark.slow
@needs_full
def test_a_batch_continues_where_its_lines_cannot_be_written(trio: Trio, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(trio[0].read_bytes())
    words = "'*.safetensors' -o out/ --skip-parity --device cpu"
    assert shell(f"{INFLATE} batch {words} > /dev/full", tmp_path).returncode == 2
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 2


def test_names_that_the_screen_cannot_show_are_escaped(trio: Trio, tmp_path: Path) -> None:
    (tmp_path / "größe.safetensors").write_bytes(trio[0].read_bytes())
    ran = shell(
        f"{INFLATE} convert größe.safetensors --dry-run; echo $?; {INFLATE} inspect größt; echo $?",
        tmp_path, PYTHONIOENCODING="ascii",
    )  # fmt: skip
    assert "Traceback" not in ran.stderr
    assert [line for line in ran.stdout.splitlines() if line.isdigit()] == ["0", "2"]


# Values that no number, name or table can hold


def test_values_beyond_all_limits_are_refused(
    trio: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image, video = trio[:2]
    large, long = f"1{'0' * 400}", "n" * 300
    for words in (
        *(("convert", image, "--dry-run", "--set", f"{key}={large}")
          for key in ("alpha", "scaling_factor")),
        ("convert", image, "--dry-run", "--config", long),
        ("convert", image, "-o", long),
        *(("verify", image, video, f"--{option}", long)
          for option in ("latents", "images", "video", "save-outputs", "report")),
        ("verify", image, long),
        ("inspect", long),
        ("report", long),
        ("batch", long, "--dry-run"),
        ("batch", image, "--dry-run", "--ledger", long),
        ("batch", image, "--dry-run", "-o", long),
    ):  # fmt: skip
        refused(tmp_path, *words)
    for words in (("--set", f"seed={large}"), ("--seed", large)):  # Any integer is a seed.
        code, _, err = command(["convert", image, "--dry-run", *words])
        assert code == 0 or is_one_message(err)


@pytest.mark.parametrize(
    "lost",
    ["decoder.conv_in.bias", "post_quant_conv.bias", "quant_conv.bias", "encoder.conv_out.bias"],
)
def test_a_fold_of_incomplete_convolutions_is_refused(
    trio: Trio, tmp_path: Path, lost: str
) -> None:
    tensors = {key: value for key, value in load_file(trio[0]).items() if key != lost}
    image = write_safetensors(tmp_path / "img.safetensors", tensors)
    fold = ("--layout", "sgm", "--post-quant", "fold", "--allow-inexact")
    assert lost in refused(tmp_path, "convert", image, *fold, *CPU_FLAGS)


@pytest.mark.parametrize("shape", [(), (1, 1, 1, 1, 1), (0, 4, 1, 1)])
def test_quant_convs_of_any_shape_are_refused(
    trio: Trio, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    for name in ("quant_conv.weight", "post_quant_conv.weight"):
        image, bad = (
            write_safetensors(tmp_path / path.name, {**load_file(path), name: torch.zeros(shape)},
                              metadata_of(path))
            for path in trio[:2]
        )  # fmt: skip
        refused(tmp_path, "convert", image, *CPU_FLAGS)
    for pair in ((image, bad), (trio[0], bad), (bad,)):
        refused(tmp_path, "verify", *pair, *CPU_FLAGS)


# Batches


@pytest.mark.slow
def test_more_workers_than_any_machine_has(trio: Trio, tmp_path: Path) -> None:
    words = ["batch", trio[0], "-o", f"{tmp_path}/out/", "--skip-parity", "--jobs", "9" * 400]
    assert command(words)[0] == 0
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 1


@pytest.mark.parametrize("key", ["output", "source", "ledger"])
def test_a_manifest_with_nul_is_refused(trio: Trio, tmp_path: Path, key: str) -> None:
    job = {"source": str(trio[0]), "output": "out/{stem}.safetensors"}
    manifest: dict[str, Any] = {"jobs": [job]}
    (manifest if key == "ledger" else job)[key] = "a\0b"
    path = tmp_path / "manifest.yaml"
    path.write_text(json.dumps(manifest))
    for more in ((), ("--dry-run",)):
        refused(tmp_path, "batch", path, *more)


SPOILED = [
    "content = replace(content, 'held', 'failed')", "content = '{}'", "content = '['",
    "content = x'ff00'", "content = NULL", "digest = 'x'", "output = 'x'", "output = 7",
]  # fmt: skip


def test_a_changed_ledger_is_refused(trio: Trio, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.sqlite"
    words = ["batch", trio[0], "-o", f"{tmp_path}/out/", "--skip-parity", *CPU_FLAGS,
             "--ledger", ledger]  # fmt: skip
    assert command(words)[0] == 0
    sound = ledger.read_bytes()
    for corrupt in SPOILED:
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


def test_a_deleted_working_directory(trio: Trio, tmp_path: Path, server: Server) -> None:
    program = (
        "import os, sys; from inflate.cli.app import main\n"
        "os.mkdir(sys.argv[1]); os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])\n"
        "sys.exit(main(sys.argv[2:]))"
    )
    for words in (
        ("inspect", trio[0]), ("inspect", "x"), ("convert", trio[0], "-o", "v.safetensors"),
        ("batch", trio[0], "-o", "out/"),
    ):  # fmt: skip
        arguments = [str(word) for word in (tmp_path / "gone", *words)]
        (answer,) = server.run({"python": program, "arguments": arguments})
        assert answer.code in (0, 2), answer.err
        assert "Traceback" not in answer.err, words
        assert answer.code == 0 or is_one_message(answer.err), words


# Python


@pytest.mark.parametrize(
    ("function", "arguments", "options"),
    [
        *(("convert", (source, "OUT"), {}) for source in (None, 3, "a\0b")),
        *(("convert", ("IMAGE", out), {}) for out in (3, "a\0b")),
        *(("convert", ("IMAGE", "OUT"), {key: value}) for key, value in (
            ("set_", [2]), ("set_", 3), ("device", 3), ("config", 3), ("config", "a\0b"),
            ("prefix", 3), ("alpha", "much"), ("seed", "x"), ("seed", 10**5000))),
        ("verify", (None, "IMAGE"), {}),
        ("verify", ("IMAGE", 3), {}),
        *(("verify", ("IMAGE", "IMAGE"), {key: value}) for key, value in (
            ("atol", "x"), ("seed", "x"), ("latents", 3), ("seed", 10**5000),
            ("latents", "a\0b"), ("device", None))),
        *(("load_video_decoder", (path,), {}) for path in ("a\0b", None)),
        *(("load_video_decoder", ("IMAGE",), {"device": device}) for device in ([], "gpu")),
        ("load_video_autoencoder", (3,), {}),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value)[:30],
)  # fmt: skip
def test_arguments_of_another_type_are_refused_by_name(
    function: str, arguments: tuple[Any, ...], options: dict[str, Any], trio: Trio, tmp_path: Path
) -> None:
    places = {"IMAGE": trio[0], "OUT": tmp_path / "v.safetensors"}
    with pytest.raises((InflateError, TypeError)) as caught:
        getattr(inflate, function)(*(places.get(word, word) for word in arguments), **options)
    assert "NoneType' object" not in str(caught.value)
    assert "attribute" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# Bugs and signals


class _Foreign(BaseException):
    """As bindings of other languages raise for their own crashes."""


@pytest.mark.parametrize("error", [ZeroDivisionError, BrokenPipeError, _Foreign])
def test_a_bug_ends_with_70_and_its_traceback(
    error: type[BaseException], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error("a bug")

    monkeypatch.setattr("inflate.workflow.inspect", broken)
    assert main(["inspect", "x"]) == BUG == 70
    assert f"{error.__name__}: a bug" in capsys.readouterr().err


def test_yaml_nested_beyond_any_stack_is_refused(trio: Trio, tmp_path: Path) -> None:
    deep = tmp_path / "deep.yaml"
    deep.write_text("jobs: " + "[" * 100_000)
    for words in (("batch", deep), ("convert", trio[0], "--config", deep)):
        refused(tmp_path, *words)


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


STOPPED = """
import os, sys
from contextlib import contextmanager
from pathlib import Path
import inflate.cli.convert as command
from inflate.io.staging import Staged
from inflate.cli.app import main

number, source, output, moment = int(sys.argv[1]), *sys.argv[2:]
waiting = [moment]

def arrive(now):
    if waiting == [now]:
        waiting.clear()
        os.kill(os.getpid(), number)

@contextmanager
def watched(*_):
    yield lambda *_: any(Path(output).parent.iterdir()) and arrive("read")

def publish(self, publish=Staged.publish):
    arrive("written")
    publish(self)

command.progress_bar, Staged.publish = watched, publish
sys.exit(main(["convert", source, "-o", output, "--device", "cpu"]))
"""
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU")
           if hasattr(signal, name)]  # fmt: skip


@pytest.mark.parametrize(("moment", "signals"), [("read", SIGNALS[:2]), ("written", SIGNALS[2:])])
def test_a_signal_removes_staged_files(
    trio: Trio, tmp_path: Path, moment: str, signals: list[int], server: Server
) -> None:
    for number in signals:
        output = tmp_path / str(int(number)) / "v.safetensors"
        output.parent.mkdir()
        arguments = [str(int(number)), str(trio[0]), str(output), moment]
        (answer,) = server.run({"python": STOPPED, "arguments": arguments})
        assert answer.code == 128 + number, answer.err
        assert "Traceback" not in answer.err
        assert list(output.parent.iterdir()) == []


def test_an_ignored_signal_stays_ignored(server: Server) -> None:
    program = (
        "import signal; from inflate.cli.app import main\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); main(['presets', '-h'])\n"
        "assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN"
    )
    (answer,) = server.run({"python": program, "arguments": []})
    assert answer.code == 0, answer.err
