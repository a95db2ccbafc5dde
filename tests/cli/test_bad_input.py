"""Bad input: exit code 2, one message that names it, files untouched, nothing left behind."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ..checkpoints import autoencoder, write_lightning, write_safetensors, write_torch
from ..conversions import snapshot
from .conftest import CPU, Ran, Run

TINY = {"ch_mult": [1]}


def refused(run: Run, folder: Path, *arguments: object, named: object) -> Ran:
    """Run a command that cannot work, and check all that holds for every one of them."""
    before = snapshot(folder)
    ran = run(*arguments)
    assert ran.code == 2
    if "--json" in arguments:
        assert json.loads(ran.out)["schema"] == "inflate/error/1"
    else:
        assert ran.out == ""
    assert ran.err.startswith("error: ")
    assert ran.err.count("error:") == 1
    assert str(named) in ran.err
    assert "Traceback" not in ran.err
    assert snapshot(folder) == before
    return ran


def cut(path: Path) -> Path:
    """A file that ends too early."""
    weights = autoencoder(**TINY)
    write = write_safetensors if path.suffix == ".safetensors" else write_lightning
    content = write(path, weights).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def directory(path: Path) -> Path:
    path.mkdir()
    (path / "file").write_text("content")
    return path


def several(path: Path) -> Path:
    weights = autoencoder(**TINY)
    return write_torch(path, {f"{p}.{k}": v for p in ("a", "b") for k, v in weights.items()})


UNREADABLE: dict[str, Callable[[Path], Any]] = {
    "gone.ckpt": lambda path: path,
    "empty.safetensors": lambda path: path.touch(),
    "cut.ckpt": cut,
    "cut.safetensors": cut,
    "folder.ckpt": directory,
    "text.safetensors": lambda path: path.write_text("no tensors\n" * 10),
    "other.pt": lambda path: write_torch(path, {"model.out.weight": torch.zeros(2)}),
    "several.pt": several,
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_no_command_can_read(
    run: Run, name: str, image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    bad = tmp_path / name
    UNREADABLE[name](bad)
    for arguments in (
        ("convert", bad),
        ("convert", bad, "--dry-run", "--json"),
        ("verify", bad, videos["all"]),
        ("verify", image, bad, "--json"),
    ):
        refused(run, tmp_path, *arguments, *CPU, named=bad)


def test_a_missing_file_gets_the_nearest_name(run: Run, source: Path, tmp_path: Path) -> None:
    for name, like in (("imgg.pt", True), ("xyzzy.ckpt", False)):
        ran = refused(run, tmp_path, "convert", tmp_path / name, named=name)
        assert (f"did you mean '{source.name}'" in ran.err) == like


def test_a_file_that_may_not_be_read(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = Path.open

    def forbidden(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self == source:  # chmod would not stop an administrator.
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return really(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", forbidden)
        ran = run("convert", source)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"error: {source} cannot be read: Permission denied\n"
    assert list(snapshot(tmp_path)) == ["img.pt"]


Weights = dict[str, torch.Tensor]

MISFITS: dict[str, tuple[Callable[[Weights], Any], list[str]]] = {
    "missing keys": (
        lambda w: [w.pop("decoder.mid.block_1.conv1.bias"), w.pop("encoder.norm_out.weight")],
        ["decoder.mid.block_1.conv1.bias", "encoder.norm_out.weight"],
    ),
    "an extra key": (
        lambda w: w.update({"decoder.mid.block_3.conv1.bias": torch.zeros(2)}),
        ["decoder.mid.block_3.conv1.bias"],
    ),
    "a wrong shape": (
        lambda w: w.update({"decoder.norm_out.weight": torch.zeros(7)}),
        ["decoder.norm_out.weight", "[7]", "[32]"],
    ),
    "a misspelt key": (
        lambda w: w.update({"decoder.norm_out.wieght": w.pop("decoder.norm_out.weight")}),
        ["decoder.norm_out.weight", "did you mean 'decoder.norm_out.wieght'"],
    ),
    "integers": (
        lambda w: w.update({"decoder.norm_out.weight": torch.zeros(32, dtype=torch.int64)}),
        ["decoder.norm_out.weight", "int64"],
    ),
    "no levels": (
        lambda w: [w.pop(k) for k in list(w) if k.startswith("decoder.up.")],
        ["decoder.up.0.block.0.conv1.weight"],
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_tensors_that_fit_no_architecture(run: Run, tmp_path: Path, case: str) -> None:
    change, named = MISFITS[case]
    weights = autoencoder(**TINY)
    change(weights)
    bad = write_torch(tmp_path / "misfit.pt", weights)
    ran = refused(run, tmp_path, "convert", bad, named=named[0])
    assert all(text in ran.err for text in named)


@pytest.mark.parametrize(
    ("bad", "options"),
    [
        (math.nan, ["--skip-parity"]),
        (-math.inf, []),
        (1e5, ["--dtype", "float16"]),
    ],
)
def test_weights_that_cannot_be_stored(
    run: Run, tmp_path: Path, bad: float, options: list[str]
) -> None:
    weights = autoencoder(**TINY)
    keys = ["decoder.conv_in.weight", "encoder.conv_out.bias"]
    for key in keys:
        weights[key].view(-1)[-1] = bad
    path = write_torch(tmp_path / "bad.pt", weights)
    ran = refused(run, tmp_path, "convert", path, *options, *CPU, named=keys[0])
    assert all(f"\n  - {key} " in ran.err for key in keys)


# Where the output goes


@pytest.mark.parametrize(
    "output",
    ["gone/v.safetensors", "img.pt/v.safetensors", "folder.safetensors", "img.pt", "v" * 250],
)
def test_a_destination_that_cannot_be(run: Run, source: Path, tmp_path: Path, output: str) -> None:
    directory(tmp_path / "folder.safetensors")
    for options in ((), ("--overwrite",)):
        arguments = ("convert", source, "-o", tmp_path / output, *options)
        refused(run, tmp_path, *arguments, named=tmp_path / Path(output).parts[0])


@pytest.mark.parametrize("layout", ["autoencoder", "comfyui", "temporal"])
@pytest.mark.parametrize("ending", [".pt", ".ckpt", ".PT", ".json"])
def test_an_ending_of_another_type_of_file(
    run: Run, source: Path, tmp_path: Path, layout: str, ending: str
) -> None:
    output = tmp_path / f"v{ending}"
    for more in ((), ("--dry-run",)):
        arguments = ("convert", source, "-o", output, "--layout", layout, *more)
        ran = refused(run, tmp_path, *arguments, named=output)
        assert ".safetensors" in ran.err


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder without write permission, for an administrator too."""
    folder = tmp_path / "kept"
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):
        monkeypatch.setattr(os, "access", lambda path, *_: Path(path) != folder)
    yield folder
    folder.chmod(0o755)


def test_a_read_only_folder(run: Run, source: Path, tmp_path: Path, read_only: Path) -> None:
    output = read_only / "v.safetensors"
    refused(run, tmp_path, "convert", source, "-o", output, named=read_only)


# Values of options


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--config", "kl-f9"), "did you mean 'kl-f"),
        (("--config", "kl-f4"), "num_res_blocks"),
        (("--config", "gone.yaml"), "gone.yaml"),
        (("--set", "temporal.alpa=1"), "did you mean 'temporal.alpha'"),
        (("--set", "alpha"), "'alpha'"),
        (("--set", "alpha=[1"), "'alpha=[1'"),
        (("--alpha", "1e39"), "float32"),
        (("--alpha", "2", "--merge-strategy", "fixed"), "2.0"),
        (("--attn-type", "none"), "attn_type"),
        (("--device", "tpu"), "'tpu'"),
        (("--device", "gpu"), "did you mean 'cuda'"),
    ],
)
def test_values_that_cannot_be(
    run: Run, source: Path, tmp_path: Path, options: tuple[str, ...], named: str
) -> None:
    refused(run, tmp_path, "convert", source, *CPU, *options, named=named)


@pytest.mark.parametrize("command", ["convert", "verify", "demo"])
@pytest.mark.parametrize("device", ["cuda:7", "mps"])
def test_a_device_that_is_not_there(
    run: Run,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    device: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    argument = tmp_path / "demo" if command == "demo" else source
    ran = run(command, argument, "-q", "--device", device)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"error: --device {device}: ")
    assert not list(tmp_path.rglob("*.video.*"))


def test_files_in_the_wrong_order(
    run: Run, image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    video = videos["all"]
    both = f"inflate verify {image} {video}"
    assert both in refused(run, tmp_path, "verify", video, image, named=image).err
    for words in ((image, image), (image,), (video, video)):
        assert both not in refused(run, tmp_path, "verify", *words, named=words[0]).err
    ran = refused(run, tmp_path, "convert", video, "-o", tmp_path / "v.safetensors", named=video)
    assert "inflated already" in ran.err


def test_decoders_that_cannot_be_compared(
    run: Run, source: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    ran = refused(run, tmp_path, "verify", source, videos["all"], *CPU, named=source)
    assert "level_channels" in ran.err
