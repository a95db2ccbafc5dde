"""The command ends with its own exit code and in plain words, whatever is around it."""

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
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import inflate
from inflate.cli.app import BUG, main
from inflate.errors import InflateError

from ..batch.conftest import environment
from ..checkpoints import autoencoder, write_safetensors
from ..conversions import CPU
from .refusals import check_refusal, command, is_one_message

CPU_FLAGS = ("--device", "cpu")
INFLATE = f"{sys.executable} -m inflate"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """An image checkpoint, a video checkpoint made from it, and a damaged copy of that."""
    folder = tmp_path_factory.mktemp("pair")
    image = write_safetensors(folder / "img.safetensors", autoencoder(ch_mult=[1]))
    video, bad = folder / "video.safetensors", folder / "bad.safetensors"
    inflate.convert(image, video, **CPU)
    tensors = load_file(video)
    tensors["decoder.conv_out.bias"] += 1.0
    with safe_open(video, "pt") as opened:
        save_file(tensors, bad, opened.metadata())
    return image, video, bad


def shell(script: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env={**environment(), **more}, text=True,
        capture_output=True, timeout=300,
    )  # fmt: skip


# Pipes


def test_a_reader_that_leaves_changes_no_exit_code(pair: tuple[Path, ...]) -> None:
    image, _, bad = pair
    ran = shell(
        f"{INFLATE} verify {image} {bad} --json --device cpu | true; echo ${{PIPESTATUS[0]}}\n"
        f"{INFLATE} inspect {image} | head -1 >/dev/null; echo ${{PIPESTATUS[0]}}",
        image.parent,
    )
    assert (ran.stdout.split(), ran.stderr) == (["1", "0"], "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_output_is_one_line_that_says_what_was_published(
    pair: tuple[Path, ...], tmp_path: Path
) -> None:
    output = tmp_path / "v.safetensors"
    ran = shell(
        f"{INFLATE} convert {pair[0]} -o {output} --skip-parity > /dev/full; echo $? >&2", tmp_path
    )
    said, code = ran.stderr.splitlines()[-2:]
    assert code == "2"
    assert f"{output} was published" in said
    assert len([line for line in ran.stderr.splitlines() if line.startswith("error: ")]) == 1
    assert output.exists()


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-"])
def test_with_a_stream_closed_the_work_is_done(
    pair: tuple[Path, ...], tmp_path: Path, closed: str
) -> None:
    output = tmp_path / "v.safetensors"
    ran = shell(f"{INFLATE} convert {pair[0]} -o {output} --skip-parity {closed}", tmp_path)
    assert ran.returncode == 0
    assert inflate.load_video_decoder(output) is not None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_batch_goes_on_where_its_lines_cannot_be_written(
    pair: tuple[Path, ...], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(pair[0].read_bytes())
    ran = shell(
        f"{INFLATE} batch '*.safetensors' -o out/ --skip-parity --device cpu > /dev/full; "
        "echo $? >&2",
        tmp_path,
    )
    assert ran.stderr.splitlines()[-1] == "2"
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 2


def test_names_that_the_screen_cannot_show_are_escaped(
    pair: tuple[Path, ...], tmp_path: Path
) -> None:
    path = tmp_path / "größe.safetensors"
    path.write_bytes(pair[0].read_bytes())
    for words in (f"inspect {path}", f"convert {path} --skip-parity -q", "inspect größt"):
        ran = shell(f"{INFLATE} {words}", tmp_path, PYTHONIOENCODING="ascii")
        assert "Traceback" not in ran.stderr
        assert ran.returncode == (2 if words.endswith("größt") else 0)


def test_names_that_are_not_text(pair: tuple[Path, ...], tmp_path: Path) -> None:
    tensors, stem = load_file(pair[0]), os.fsdecode(b"\xff")
    shards = [tmp_path / f"{stem}-{number}.safetensors" for number in (1, 2)]
    keys = sorted(tensors)
    for shard, own in zip(shards, (keys[:9], keys[9:]), strict=True):
        write_safetensors(tmp_path / "x", {key: tensors[key] for key in own}).rename(shard)
    weight_map = {key: shards[number >= 9].name for number, key in enumerate(keys)}
    index = tmp_path / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    video, reports = f"{tmp_path}/{stem}.video", f"{tmp_path}/{stem}/"
    for words in (
        ("inspect", index, "--json"),
        ("convert", index, "-o", video, *CPU_FLAGS),
        ("verify", index, pair[1], *CPU_FLAGS),
        ("batch", index, "--dry-run", "--report-dir", reports),
        ("batch", index, "-o", f"{tmp_path}/out/", "--report-dir", reports),
    ):
        code, out, err = command(words)
        assert code in (0, 2), err  # Not every library takes such names.
        assert "Traceback" not in out + err


# Values that no number, name or table can hold


@pytest.mark.parametrize(
    "arguments",
    [
        ("convert", "IMAGE", "--dry-run", "--set", f"alpha=1{'0' * 400}"),
        ("convert", "IMAGE", "--dry-run", "--set", f"scaling_factor=1{'0' * 400}"),
        ("convert", "IMAGE", "--dry-run", "--set", f"seed=1{'0' * 400}"),
        ("convert", "IMAGE", "--dry-run", "--seed", f"1{'0' * 400}"),
        ("convert", "IMAGE", "--dry-run", "--config", "n" * 300),
        ("convert", "IMAGE", "-o", "n" * 300),
        ("verify", "IMAGE", "VIDEO", "--latents", "n" * 300),
        ("verify", "IMAGE", "VIDEO", "--images", "n" * 300),
        ("verify", "IMAGE", "VIDEO", "--video", "n" * 300),
        ("verify", "IMAGE", "VIDEO", "--save-outputs", "n" * 300),
        ("verify", "IMAGE", "VIDEO", "--report", f"{'n' * 300}.json"),
        ("verify", "IMAGE", "n" * 300),
        ("inspect", "n" * 300),
        ("report", "n" * 300),
        ("batch", "n" * 300, "--dry-run"),
        ("batch", "IMAGE", "--dry-run", "--ledger", "n" * 300),
        ("batch", "IMAGE", "--dry-run", "-o", "n" * 300),
    ],
    ids=lambda arguments: " ".join(arguments)[:50],
)
def test_values_beyond_all_bounds_are_refused(
    arguments: tuple[str, ...], pair: tuple[Path, ...], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    places = {"IMAGE": str(pair[0]), "VIDEO": str(pair[1])}
    code, out, err = command([places.get(word, word) for word in arguments])
    if "seed" in str(arguments) and code == 0:
        return  # Any whole number is a seed.
    check_refusal(code, out, err)


def test_a_number_beyond_any_float_in_a_folder_of_diffusers(
    pair: tuple[Path, ...], tmp_path: Path
) -> None:
    config = {"_class_name": "AutoencoderKL", "scaling_factor": 10**400}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(pair[0].read_bytes())
    for command_ in ("inspect", "convert"):
        more = ("--dry-run",) if command_ == "convert" else ()
        code, out, err = command([command_, str(tmp_path), *more])
        assert code in (0, 2)
        assert "Traceback" not in out + err
    check_refusal(code, out, err)


@pytest.mark.parametrize("shape", [(4,), (), (4, 4), (1, 1, 1, 1, 1), (0, 4, 1, 1)])
@pytest.mark.parametrize("name", ["post_quant_conv.weight", "quant_conv.weight"])
def test_quant_convs_of_any_shape_are_refused(
    pair: tuple[Path, ...], tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    tensors = {**load_file(pair[1]), name: torch.zeros(shape)}
    with safe_open(pair[1], "pt") as opened:
        bad = write_safetensors(tmp_path / "bad.safetensors", tensors, opened.metadata())
    image = write_safetensors(
        tmp_path / "img.safetensors", {**load_file(pair[0]), name: torch.zeros(shape)}
    )
    for words in (
        ("verify", pair[0], bad),
        ("verify", bad),
        ("convert", image),
        ("verify", image, bad),
    ):
        code, out, err = command([*map(str, words), *CPU_FLAGS])
        if code in (0, 1) and words[0] == "verify" and name == "quant_conv.weight":
            continue  # It belongs to the encoder: both decoders run, and the weights differ.
        check_refusal(code, out, err)


@pytest.mark.parametrize(
    "lost",
    ["decoder.conv_in.bias", "post_quant_conv.bias", "quant_conv.bias", "encoder.conv_out.bias"],
)
def test_a_fold_of_convolutions_that_are_not_complete(
    pair: tuple[Path, ...], tmp_path: Path, lost: str
) -> None:
    tensors = {key: value for key, value in load_file(pair[0]).items() if key != lost}
    image = write_safetensors(tmp_path / "img.safetensors", tensors)
    fold = ("--layout", "sgm", "--post-quant", "fold", "--allow-inexact")
    code, out, err = command(["convert", str(image), *fold, *CPU_FLAGS])
    check_refusal(code, out, err)
    assert lost in err


# Batches


@pytest.mark.parametrize("key", ["output", "source", "ledger"])
def test_a_manifest_with_nul_is_refused(pair: tuple[Path, ...], tmp_path: Path, key: str) -> None:
    job = {"source": str(pair[0]), "output": "out/{stem}.safetensors"}
    manifest: dict[str, Any] = {"jobs": [job]}
    (manifest if key == "ledger" else job)[key] = "a\0b"
    path = tmp_path / "manifest.yaml"
    path.write_text(json.dumps(manifest))
    for more in ((), ("--dry-run",)):
        check_refusal(*command(["batch", str(path), *more]))


SPOILED = {
    "a mark that is not JSON": "UPDATE jobs SET output_mark = '{'",
    "a document that is not JSON": "UPDATE jobs SET document = 'x'",
    "a document of another form": "UPDATE jobs SET document = '[]'",
    "a document that lacks its parts": """UPDATE jobs SET document = '{"conversion": 3}'""",
    "a state that is unknown": "UPDATE jobs SET state = 'asleep'",
    "an owner with a slash": "UPDATE jobs SET owner = '../../x', state = 'running'",
    "attempts in words": "UPDATE jobs SET attempts = 'many'",
    "a source's mark that is not JSON": "UPDATE sources SET mark = '['",
    "a source's mark of another form": "UPDATE sources SET mark = '[3]'",
    "a revision beyond counting": "UPDATE jobs SET revision = 9223372036854775807",
    "a revision in words": "UPDATE jobs SET revision = 'x'",
    "bytes for text": "UPDATE jobs SET settings = x'ff00', document = x'ff'",
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_spoiled_ledger_is_refused_or_made_good(
    pair: tuple[Path, ...], tmp_path: Path, spoil: str
) -> None:
    words = ["batch", str(pair[0]), "-o", f"{tmp_path}/out/", "--skip-parity", *CPU_FLAGS]
    ledger = ["--ledger", str(tmp_path / "ledger.sqlite")]
    assert command([*words, *ledger])[0] == 0
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        db.execute(SPOILED[spoil])
    db.close()
    code, out, err = command([*words, *ledger])
    assert code in (0, 2)
    assert "Traceback" not in out + err
    if code == 2:
        assert str(tmp_path / "ledger.sqlite") in err


def test_more_workers_than_any_machine_has(pair: tuple[Path, ...], tmp_path: Path) -> None:
    words = ["batch", str(pair[0]), "-o", f"{tmp_path}/out/", "--skip-parity", "--jobs", "9" * 400]
    assert command(words)[0] == 0
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 1


def test_a_deleted_working_directory(pair: tuple[Path, ...], tmp_path: Path) -> None:
    video = f"{pair[0]} -o v.safetensors"
    for words in (
        f"inspect {pair[0]}",
        "inspect x",
        f"convert {video}",
        f"batch {pair[0]} -o out/",
    ):
        gone = tmp_path / "gone"
        gone.mkdir()
        ran = shell(f"rmdir {gone}; {INFLATE} {words}", gone)
        assert "Traceback" not in ran.stderr, words
        assert ran.returncode == 0 or is_one_message(ran.stderr), words
        assert ran.returncode in (0, 2), words


# Python


@pytest.mark.parametrize(
    "call",
    [
        lambda _image, out: inflate.convert(None, out),
        lambda _image, out: inflate.convert(3, out),
        lambda image, _out: inflate.convert(image, 3),
        lambda image, out: inflate.convert(image, out, set_=[2]),
        lambda image, out: inflate.convert(image, out, set_=3),
        lambda image, out: inflate.convert(image, out, device=3),
        lambda image, out: inflate.convert(image, out, config=3),
        lambda image, out: inflate.convert(image, out, prefix=3),
        lambda image, out: inflate.convert(image, out, alpha="much"),
        lambda image, out: inflate.convert(image, out, seed="x"),
        lambda image, _out: inflate.verify(None, image),
        lambda image, _out: inflate.verify(image, 3),
        lambda image, _out: inflate.verify(image, image, atol="x"),
        lambda image, _out: inflate.verify(image, image, seed="x"),
        lambda image, _out: inflate.verify(image, image, latents=3),
        lambda image, out: inflate.convert(image, out, seed=10**5000),
        lambda image, _out: inflate.verify(image, image, seed=10**5000),
        lambda image, out: inflate.convert(image, out, config="a\0b"),
        lambda _image, out: inflate.convert("a\0b", out),
        lambda image, out: inflate.convert(image, out.with_name("a\0b")),
        lambda _image, _out: inflate.load_video_decoder("a\0b"),
        lambda image, _out: inflate.verify(image, image, latents="a\0b"),
        lambda image, _out: inflate.verify(image, image, device=None),
        lambda image, _out: inflate.load_video_decoder(image, device=[]),
        lambda image, _out: inflate.load_video_decoder(image, device="gpu"),
        lambda _image, _out: inflate.load_video_decoder(None),
        lambda _image, _out: inflate.load_video_autoencoder(3),
    ],
)  # fmt: skip
def test_arguments_of_another_type_are_refused_by_name(
    call: Any, pair: tuple[Path, ...], tmp_path: Path
) -> None:
    with pytest.raises((InflateError, TypeError)) as caught:
        call(pair[0], tmp_path / "v.safetensors")
    assert "NoneType' object" not in str(caught.value)
    assert "attribute" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_device_of_torch_is_accepted(pair: tuple[Path, ...], tmp_path: Path) -> None:
    device = torch.device("cpu")
    result = inflate.convert(pair[0], tmp_path / "v.safetensors", device=device)
    assert result.parity is not None
    assert inflate.verify(pair[0], tmp_path / "v.safetensors", device=device).passed
    assert inflate.load_video_decoder(pair[1], device) is not None


# Bugs and signals


class _Foreign(BaseException):
    """As bindings of other languages raise for a crash of theirs."""


@pytest.mark.parametrize("error", [ZeroDivisionError, BrokenPipeError, _Foreign])
def test_a_bug_ends_with_70_and_its_traceback(
    error: type[BaseException],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error("a bug")

    monkeypatch.setattr("inflate.workflow.inspect", broken)
    assert main(["inspect", "x"]) == BUG == 70
    assert f"{error.__name__}: a bug" in capsys.readouterr().err


def test_yaml_nested_beyond_any_stack_is_refused(pair: tuple[Path, ...], tmp_path: Path) -> None:
    deep = tmp_path / "deep.yaml"
    deep.write_text("jobs: " + "[" * 100_000)
    ran = shell(
        f"{INFLATE} batch {deep}; echo $?; {INFLATE} convert {pair[0]} --config {deep}; echo $?",
        tmp_path,
    )
    assert ran.stdout.split() == ["2", "2"]
    assert ran.stderr.count("error: ") == 2


def test_a_worker_ends_with_a_batch_that_died_in_a_line(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    command_ = [sys.executable, "-m", "inflate.batch.worker", "0", str(lock)]
    ran = subprocess.run(command_, input='{"number": ', env=environment(), capture_output=True,
                         text=True, timeout=300)  # fmt: skip
    assert ran.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in ran.stderr


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
    path = os.pathsep.join((str(tmp_path), environment()["PYTHONPATH"]))
    ran = shell(f"exec {INFLATE} --version", Path.cwd(), PYTHONPATH=path)
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
    # Whoever reads a tensor reports progress, on whatever thread.
    yield lambda *_: any(Path(output).parent.iterdir()) and arrive("read")

def publish(self, publish=Staged.publish):
    arrive("written")
    publish(self)

command.progress_bar, Staged.publish = watched, publish
sys.exit(main(["convert", source, "-o", output, "--device", "cpu"]))
"""
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU")
    if hasattr(signal, name)
]


@pytest.mark.parametrize("number", SIGNALS, ids=str)
@pytest.mark.parametrize("moment", ["read", "written"])
def test_a_signal_removes_what_was_staged(
    pair: tuple[Path, ...], tmp_path: Path, number: int, moment: str
) -> None:
    output = tmp_path / "out" / "v.safetensors"
    output.parent.mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", STOPPED, str(int(number)), str(pair[0]), str(output), moment],
        env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 128 + number, ran.stderr
    assert "Traceback" not in ran.stderr
    assert list(output.parent.iterdir()) == []


def test_an_ignored_signal_stays_ignored(pair: tuple[Path, ...], tmp_path: Path) -> None:
    ran = shell(
        f"trap '' HUP; exec {sys.executable} -c \"import signal; from inflate.cli.app import main; "
        f"main(['presets', '-h']); print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)\"",
        tmp_path,
    )
    assert ran.stdout.splitlines()[-1] == "True"
