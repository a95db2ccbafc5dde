"""Bad input: exit code 2, one plain message that names it, the source untouched, nothing left."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ..checkpoints import (
    autoencoder,
    video_autoencoder,
    write_lightning,
    write_safetensors,
    write_torch,
)
from ..conversions import snapshot
from .conftest import Ran, Run

CPU = ("--device", "cpu")
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


def cut(path: Path, share: float) -> Path:
    """The same file without its end."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def overwritten(path: Path, start: int, length: int) -> Path:
    """The same file with other bytes in a place of it."""
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\x5a" * length)
    return path


def safetensors_header(path: Path, header: dict[str, Any]) -> Path:
    """A safetensors file that consists of this header."""
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def text_file(path: Path) -> Path:
    path.write_text("this is a text file, whatever its name says\n" * 10)
    return path


def directory(path: Path) -> Path:
    path.mkdir()
    (path / "file").write_text("in it")
    return path


def empty(path: Path) -> Path:
    path.touch()
    return path


def plain(path: Path, **changes: Any) -> Path:
    """A sound image autoencoder, in the format of the path's ending."""
    weights = autoencoder(**TINY, **changes)
    if path.suffix == ".safetensors":
        return write_safetensors(path, weights)
    return write_lightning(path, weights)


def diffusers(path: Path) -> Path:
    names = ("decoder.mid_block.resnets.0.conv1.weight", "encoder.conv_in.weight")
    return write_safetensors(path, {name: torch.zeros(4, 4, 3, 3) for name in names})


Make = Callable[[Path], Path]

UNREADABLE: dict[str, tuple[str, Make, str]] = {
    "missing": ("gone.ckpt", lambda path: path, "does not exist"),
    "empty": ("empty.ckpt", empty, "is empty"),
    "empty safetensors": ("empty.safetensors", empty, "is empty"),
    "cut ckpt": ("cut.ckpt", lambda path: cut(plain(path), 0.5), "Copy or download it again"),
    "cut safetensors": ("cut.safetensors", lambda path: cut(plain(path), 0.5), "again"),
    "cut in its header": ("cut.safetensors", lambda path: cut(plain(path), 0.005), "cut short"),
    "corrupted ckpt": (
        "corrupted.ckpt",
        lambda path: overwritten(plain(path), 0, 2000),
        "again",
    ),
    "corrupted safetensors": (
        "corrupted.safetensors",
        lambda path: overwritten(plain(path), 20, 200),
        "again",
    ),
    "a directory": ("folder.ckpt", directory, "is a directory"),
    "text as ckpt": ("text.ckpt", text_file, "it begins with"),
    "text as safetensors": ("text.safetensors", text_file, "it begins with"),
    "no tensors": ("none.safetensors", lambda path: safetensors_header(path, {}), "no tensors"),
    "no autoencoder": (
        "other.pt",
        lambda path: write_torch(path, {"model.diffusion_model.out.weight": torch.zeros(2)}),
        "no image autoencoder",
    ),
    "a single tensor": (
        "single.pt",
        lambda path: (torch.save(torch.zeros(3), path), path)[1],
        "a single tensor",
    ),
    "a whole module": (
        "module.pt",
        lambda path: (torch.save(torch.nn.Linear(2, 2), path), path)[1],
        "module.pt",
    ),
    "another family": ("taesd.safetensors", lambda path: write_safetensors(
        path, {"decoder.layers.1.conv.0.weight": torch.zeros(4, 4, 3, 3)}), "TAESD"),
    "several autoencoders": (
        "two.pt",
        lambda path: write_torch(
            path,
            {f"{p}.{k}": v for p in ("first", "second") for k, v in autoencoder(**TINY).items()},
        ),
        "several autoencoders",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_that_no_command_can_read(
    run: Run, case: str, image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    name, make, said = UNREADABLE[case]
    bad = make(tmp_path / name)
    for arguments in (
        ("convert", bad),
        ("convert", bad, "--dry-run", "--json"),
        ("convert", bad, "--skip-parity", "-o", tmp_path / "v.safetensors"),
        ("verify", bad),
        ("verify", bad, videos["all"]),
        ("verify", image, bad, "--json"),
    ):
        ran = refused(run, tmp_path, *arguments, *CPU, named=bad)
        assert said in ran.err


def test_a_file_that_may_not_be_read(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = Path.open

    def forbidden(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self == source:  # chmod would not stop an administrator
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return really(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", forbidden)
        ran = run("convert", source)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"error: {source} cannot be read: Permission denied\n"
    assert list(snapshot(tmp_path)) == ["img.pt"]


def test_an_inflated_file(run: Run, videos: dict[str, Path], tmp_path: Path) -> None:
    for path in (
        videos["attn-only"],
        write_torch(tmp_path / "sgm.pt", video_autoencoder(temporal={"time_mode": "conv-only"})),
    ):
        output = tmp_path / "v.safetensors"
        ran = refused(run, tmp_path, "convert", path, "-o", output, named=path)
        assert "inflated already" in ran.err


Change = Callable[[dict[str, torch.Tensor]], Any]

MISFITS: dict[str, tuple[Change, list[str]]] = {
    "missing keys": (
        lambda w: [w.pop("decoder.mid.block_1.conv1.bias"), w.pop("encoder.norm_out.weight")],
        ["decoder.mid.block_1.conv1.bias is missing", "encoder.norm_out.weight is missing"],
    ),
    "an extra key": (
        lambda w: w.update({"decoder.mid.block_3.conv1.bias": torch.zeros(2)}),
        ["decoder.mid.block_3.conv1.bias is not part of this architecture"],
    ),
    "a wrong shape": (
        lambda w: w.update({"decoder.norm_out.weight": torch.zeros(7)}),
        ["decoder.norm_out.weight has the shape [7]; expected [32]"],
    ),
    "a key misspelt": (
        lambda w: w.update({"decoder.norm_out.wieght": w.pop("decoder.norm_out.weight")}),
        ["decoder.norm_out.weight is missing", "(did you mean 'decoder.norm_out.wieght'?)"],
    ),
    "integers": (
        lambda w: w.update({"decoder.norm_out.weight": torch.zeros(32, dtype=torch.int64)}),
        ["decoder.norm_out.weight is stored as int64"],
    ),
    "no levels": (
        lambda w: [w.pop(k) for k in list(w) if k.startswith("decoder.up.")],
        ["decoder.up.0.block.0.conv1.weight is missing"],
    ),
    "channels of no norm": (
        lambda w: w.update({
            k: v[:20] if v.shape[0] == 32 else v for k, v in w.items() if k.startswith("decoder.")
        }),
        ["multiple of 32"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_tensors_that_fit_no_architecture(run: Run, tmp_path: Path, case: str) -> None:
    change, said = MISFITS[case]
    weights = autoencoder(**TINY)
    change(weights)
    bad = write_torch(tmp_path / "misfit.pt", weights)
    ran = refused(run, tmp_path, "convert", bad, named=said[0])
    for text in said:
        assert text in ran.err


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("skip", [[], ["--skip-parity"]])
def test_weights_that_are_not_finite(run: Run, tmp_path: Path, bad: float, skip: list[str]) -> None:
    weights = autoencoder(**TINY)
    keys = ["decoder.conv_in.weight", "encoder.conv_out.bias"]
    for key in keys:
        weights[key].view(-1)[-1] = bad
    path = write_torch(tmp_path / "bad.pt", weights)
    ran = refused(run, tmp_path, "convert", path, *skip, *CPU, named=keys[0])
    assert f"  - {keys[0]} holds NaN or infinity" in ran.err
    assert f"  - {keys[1]} holds NaN or infinity" in ran.err


def test_weights_that_the_stored_type_cannot_hold(run: Run, tmp_path: Path) -> None:
    weights = autoencoder(**TINY)
    weights["decoder.conv_in.bias"][0] = 1e5
    path = write_torch(tmp_path / "large.pt", weights)
    ran = refused(
        run, tmp_path, "convert", path, "--dtype", "float16", *CPU, named="decoder.conv_in.bias"
    )
    assert "overflows in float16" in ran.err


# Where the output goes


def test_a_missing_folder(run: Run, source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    ran = refused(run, tmp_path, "convert", source, "-o", folder / "v.safetensors", named=folder)
    assert "does not exist; make it, or choose another with -o" in ran.err


def test_a_folder_that_is_a_file(run: Run, source: Path, tmp_path: Path) -> None:
    refused(run, tmp_path, "convert", source, "-o", source / "v.safetensors", named=source)


def test_a_folder_as_the_output(run: Run, source: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for options in ((), ("--overwrite",)):
        arguments = ("convert", source, "-o", tmp_path / "folder", *options)
        ran = refused(run, tmp_path, *arguments, named=tmp_path / "folder")
        assert "expected the name of a file" in ran.err


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that cannot be written, by an administrator neither."""
    folder = tmp_path / "kept"
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):
        monkeypatch.setattr(os, "access", lambda path, *_: Path(path) != folder)
    yield folder
    folder.chmod(0o755)


def test_a_read_only_folder(run: Run, source: Path, tmp_path: Path, read_only: Path) -> None:
    output = read_only / "v.safetensors"
    ran = refused(run, tmp_path, "convert", source, "-o", output, named=read_only)
    assert "cannot be written; choose another with -o" in ran.err


def test_a_folder_that_refuses_when_it_is_written(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = Path.open

    def refusing(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "x" in mode:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        return really(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refusing)
    output = tmp_path / "v.safetensors"
    ran = run("convert", source, "-o", output)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"error: {output} cannot be written: Read-only file system. ")


@pytest.mark.parametrize("length", [250, 300])
def test_a_name_that_is_too_long(run: Run, source: Path, tmp_path: Path, length: int) -> None:
    output = tmp_path / ("v" * length)
    ran = refused(run, tmp_path, "convert", source, "-o", output, named=output)
    assert "File name too long" in ran.err


@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_the_source_as_the_destination(
    run: Run, source: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    refused(run, tmp_path, "convert", source, "-o", source, *options, named=source)


@pytest.fixture
def disk_of() -> Iterator[Callable[[int], None]]:
    """Makes the disk full for every file at so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# In the header, among large tensors, and among small ones that a buffer gathers to the end.
@pytest.mark.parametrize("size", [0, 5_000, 400_000, *range(1_300_000, 1_340_000, 4_001)])
def test_a_full_disk(
    run: Run, source: Path, tmp_path: Path, disk_of: Callable[[int], None], size: int
) -> None:
    (tmp_path / "v.safetensors").write_text("of before")
    disk_of(size)
    output = tmp_path / "v.safetensors"
    ran = refused(run, tmp_path, "convert", source, "-o", output, "--overwrite", *CPU, named=output)
    assert "bytes to write): File too large. Nothing was left behind" in ran.err


def test_a_disk_that_is_full_at_the_last_moment(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    output = tmp_path / "v.safetensors"
    ran = refused(run, tmp_path, "convert", source, "-o", output, *CPU, named=output)
    assert "No space left on device. Nothing was left behind" in ran.err


# Values of options


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--config", "kl-f9"), "--config is 'kl-f9'"),
        (("--config", "kl-f4"), "the configuration says"),
        (("--set", "temporal.alpa=1"), "(did you mean 'temporal.alpha'?)"),
        (("--set", "alpha"), "--set 'alpha': expected key=value"),
        (("--set", "alpha=[1"), "--set 'alpha=[1'"),
        (("--alpha", "1e39"), "overflows in float32"),
        (("--alpha", "2", "--merge-strategy", "fixed"), "temporal.alpha is 2.0; expected 0 to 1"),
        (("--attn-type", "none"), "attn_type: the configuration says 'none'"),
        (("--device", "tpu"), "--device is 'tpu'"),
    ],
)
def test_options_of_convert(
    run: Run, source: Path, tmp_path: Path, options: tuple[str, ...], named: str
) -> None:
    refused(run, tmp_path, "convert", source, *CPU, *options, named=named)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--device", "gpu"), "--device is 'gpu'"),
    ],
)
def test_options_of_verify(
    run: Run,
    image: Path,
    videos: dict[str, Path],
    tmp_path: Path,
    options: tuple[str, ...],
    named: str,
) -> None:
    refused(run, tmp_path, "verify", image, videos["all"], *CPU, *options, named=named)


@pytest.mark.parametrize("command", ["convert", "verify", "demo"])
@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps"])
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
    refused(run, tmp_path, "verify", video, image, named=image)
    refused(run, tmp_path, "verify", image, image, named=image)
    refused(run, tmp_path, "verify", image, named=image)
    refused(run, tmp_path, "verify", video, video, named=video)


def test_decoders_that_cannot_be_compared(
    run: Run, source: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    ran = refused(run, tmp_path, "verify", source, videos["all"], *CPU, named=source)
    assert "level_channels: the reference has (32,), the candidate (32, 64)" in ran.err
