"""No output replaces an input, and no result comes from an input that changes meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import inflate
from inflate.errors import CheckpointError, OutputError
from inflate.io.protected import ReadFiles, conflicts, place_of
from inflate.workflow import conversion, verification

from ..checkpoints import write_safetensors
from ..conversions import CPU
from ..media import clip, picture
from .ground import Ground
from .refusals import refused
from .serving import EXPORT

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
FOLDER_WEIGHTS = "diffusion_pytorch_model.safetensors"
CPU_FLAGS = ("--device", "cpu")
ONTO = ("--overwrite", *CPU_FLAGS)


@pytest.fixture
def files(ground: Ground, tmp_path: Path) -> Path:
    """A folder with a valid file of every kind."""
    for name, content in ground.stock.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.fixture
def sharded(files: Path) -> Path:
    """An index of two shards."""
    return files / "parts" / INDEX


@pytest.fixture
def folder(files: Path) -> Path:
    """A folder as diffusers writes it."""
    return files / "folder"


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where the work begins: refusals must come before it."""

    def begun(*_args: Any, **_options: Any) -> None:
        raise AssertionError("the work has begun")

    for module, name in ((conversion, "prepare"), (verification, "fingerprint_of"),
                         (verification, "run_check")):  # fmt: skip
        monkeypatch.setattr(module, name, begun)


@pytest.mark.usefixtures("no_work")
def test_no_file_of_a_source_is_a_destination(
    sharded: Path, folder: Path, single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("temporal: {alpha: 0.25}")
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").symlink_to(single)
    report = ("-o", tmp_path / "out.json", *CPU_FLAGS, "--report")
    for words in (
        *((sharded, "-o", sharded.with_name(name), *ONTO) for name in (INDEX, *SHARDS)),
        *((folder, "-o", folder / name, *ONTO) for name in ("config.json", FOLDER_WEIGHTS)),
        (folder / FOLDER_WEIGHTS, "-o", folder, *EXPORT, "--overwrite"),
        (single, "--config", config, "-o", config, *ONTO),
        (single, "-o", out, *EXPORT, "--overwrite"),
        (sharded, *report, sharded),
        (folder, *report, folder / "config.json"),
        (sharded, *report, tmp_path / "out.json"),
    ):
        refused(tmp_path, "convert", *words)
    # A source with the name of a leftover
    staged = single.rename(tmp_path / ".x.safetensors.0123abcd.staged")
    refused(tmp_path, "convert", staged, "-o", tmp_path / "x.safetensors", *ONTO)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(sharded.with_name(SHARDS[1])))
    refused(tmp_path, "convert", sharded, *report[:-1], "--github-summary")


@pytest.mark.usefixtures("no_work")
def test_no_report_replaces_an_input_or_output(
    single: Path, pair: tuple[Path, Path], files: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("{}")
    export = [word for word in EXPORT if word != "--skip-parity"]
    more = ("--overwrite", "--report", out / "config.json")
    refused(tmp_path, "convert", single, "-o", out, *export, *more)
    kept = tmp_path / "kept.json"
    refused(tmp_path, "verify", *pair, "--save-outputs", kept, "--report", kept, *CPU_FLAGS)
    refused(tmp_path, "report", (files / "pass.json").rename(files / "pass.html"), "--to", "html")

    candidate = files / "video.safetensors"
    image, video = picture(tmp_path / "images" / "a.png", 16, 16), clip(tmp_path / "a.mkv")
    latents = files / "latents.safetensors"
    given = ("--images", image.parent, "--video", video, "--latents", latents)
    report = tmp_path / "report.md"
    for path in (single, candidate, image, video, latents):
        report.unlink(missing_ok=True)
        report.symlink_to(path)
        refused(tmp_path, "verify", single, candidate, *given, "--report", report, *CPU_FLAGS)


@pytest.mark.usefixtures("no_work")
def test_no_remote_source_is_replaced(
    weights: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: Any
) -> None:
    monkeypatch.setenv("INFLATE_CACHE", str(tmp_path / "cache"))
    path = write_safetensors(tmp_path / "img.safetensors", weights)
    config = json.dumps({"_class_name": "AutoencoderKL"}).encode()
    memory.pipe({f"/vae/{FOLDER_WEIGHTS}": path.read_bytes(), "/vae/config.json": config})
    before = memory.cat("/vae/*")
    url = f"memory://vae/{FOLDER_WEIGHTS}"
    export = {"layout": "diffusers", "skip_parity": True}
    for source, output, more in (
        (url, f"memory:///vae//{FOLDER_WEIGHTS}", CPU),
        ("memory://vae", "memory://vae/config.json", CPU),
        (url, "memory://vae", export),
    ):
        with pytest.raises(OutputError):
            inflate.convert(source, output, overwrite=True, **more)
    assert memory.cat("/vae/*") == before


def test_a_file_has_one_place_under_all_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    new = place_of(tmp_path / "real" / "new")
    for name in (tmp_path / "link" / "new", str(tmp_path / "link" / "a" / ".." / "new")):
        assert place_of(name) == new
    assert new not in (place_of(tmp_path / "real" / "other"), place_of(tmp_path / "real/no/new"))
    (tmp_path / "real" / "new").touch()
    os.link(tmp_path / "real" / "new", tmp_path / "hard")
    assert place_of(tmp_path / "hard") == place_of(tmp_path / "link" / "new")
    assert place_of("s3a://b/x/../a") == place_of("S3://b//a") != place_of("s3://b/x")
    assert len(conflicts(["a\0b", "c" * 300], ["a\0c"])) == 2  # No system has such files.


def test_devices_pipes_sockets_and_links_to_them_are_not_destinations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # The whole path may be too long for a socket.
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
    Path("device").symlink_to("/dev/null")
    Path("link").symlink_to("pipe")
    assert len(conflicts(["pipe", "socket", "device", "link"], [])) == 4


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def replace(path: Path) -> None:
    """Change the inode, and keep the size and time."""
    times = path.stat()
    new = path.with_suffix(".new")
    new.write_bytes(bytes(times.st_size))
    os.utime(new, ns=(times.st_atime_ns, times.st_mtime_ns))
    new.rename(path)


def cut(path: Path) -> None:
    """Leave the first half; a mapping would then kill the process."""
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("change", [touch, replace, cut, Path.unlink])
def test_every_change_of_a_file_is_noticed(change: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(8))
    files = ReadFiles()
    files.look(path)
    change(path)
    with pytest.raises(CheckpointError):
        files.check_unchanged()


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        *(("folder", f"folder/{name}") for name in ("config.json", FOLDER_WEIGHTS)),
        *((f"parts/{INDEX}", f"parts/{name}") for name in (INDEX, *SHARDS)),
        ("video.safetensors", "video.safetensors"),  # It is copied to another layout.
        ("img.safetensors", "img.safetensors"),
    ],
)
def test_nothing_is_published_of_a_source_that_changes(
    source: str, changed: str, files: Path
) -> None:
    checked = source == "img.safetensors"
    options: dict[str, Any] = {"skip_parity": not checked}
    if source == "video.safetensors":
        options["layout"] = "decoder"

    def progress(phase: str, count: int, total: int) -> None:
        if (phase, count) == ("writing", 1):
            (cut if checked else touch)(files / changed)

    with pytest.raises(CheckpointError):
        inflate.convert(files / source, files / "out", progress=progress, **options, **CPU)
    assert not (files / "out").exists()


@pytest.mark.parametrize("victim", [0, 1], ids=["reference", "candidate"])
def test_there_is_no_verdict_on_files_that_changed(
    victim: int, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = [Path(shutil.copy(path, tmp_path)) for path in pair]
    check = verification.run_check

    def late(*arguments: Any, **options: Any) -> Any:
        cut(copies[victim])
        return check(*arguments, **options)

    monkeypatch.setattr(verification, "run_check", late)
    with pytest.raises(CheckpointError):
        inflate.verify(*copies, **CPU)


def test_a_failed_parity_of_a_source_that_changed_is_not_a_verdict(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = verification.check

    def failing(*arguments: Any, **options: Any) -> Any:
        touch(single)
        report = check(*arguments, **options)
        object.__setattr__(report, "verdict", "fail")
        return report

    monkeypatch.setattr(verification, "check", failing)
    with pytest.raises(CheckpointError):
        inflate.convert(single, tmp_path / "out", **CPU)
    assert not (tmp_path / "out").exists()
