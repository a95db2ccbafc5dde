"""Nothing that a run reads is replaced by what it writes, and none of it changes meanwhile."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

import inflate
from inflate.cli import demo
from inflate.errors import CheckpointError, OutputError
from inflate.io.protected import conflicts, place_of
from inflate.workflow import checking, conversion, production, verification

from ..checkpoints import autoencoder, write_safetensors
from ..conversions import CPU, sha256, snapshot
from ..media import clip, picture
from ..report.building import document_of
from .refusals import check_refusal, command, refused
from .serving import EXPORT

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
FOLDER_WEIGHTS = "diffusion_pytorch_model.safetensors"
CPU_OPTIONS = ("--device", "cpu")
ONTO = ("--overwrite", *CPU_OPTIONS)


@pytest.fixture(scope="session")
def weights() -> dict[str, Any]:
    return autoencoder(ch_mult=[1], num_res_blocks=2)


@pytest.fixture
def single(tmp_path: Path, weights: dict[str, Any]) -> Path:
    return write_safetensors(tmp_path / "img.safetensors", weights)


@pytest.fixture
def sharded(tmp_path: Path, weights: dict[str, Any]) -> Path:
    """An index of two shards."""
    names = dict.fromkeys(weights, SHARDS[0]) | {"decoder.conv_in.weight": SHARDS[1]}
    for shard in SHARDS:
        save_file({k: v for k, v in weights.items() if names[k] == shard}, tmp_path / shard)
    index = tmp_path / INDEX
    index.write_text(json.dumps({"weight_map": names}))
    return index


@pytest.fixture
def folder(tmp_path: Path, weights: dict[str, Any]) -> Path:
    """A folder as diffusers writes it."""
    path = tmp_path / "vae"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    write_safetensors(path / FOLDER_WEIGHTS, weights)
    return path


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work begins with these."""

    def begun(*_args: Any, **_options: Any) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(conversion, "prepare", begun)
    monkeypatch.setattr(verification, "run_check", begun)


# What is read is not replaced


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", [INDEX, *SHARDS])
def test_no_file_of_an_index_is_a_destination(name: str, sharded: Path, tmp_path: Path) -> None:
    refused(tmp_path, "convert", sharded, "-o", tmp_path / name, *ONTO)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", ["config.json", FOLDER_WEIGHTS])
def test_no_file_of_a_folder_is_a_destination(name: str, folder: Path, tmp_path: Path) -> None:
    refused(tmp_path, "convert", folder, "-o", folder / name, *ONTO)
    refused(tmp_path, "convert", folder / FOLDER_WEIGHTS, "-o", folder, *EXPORT, "--overwrite")


@pytest.mark.usefixtures("no_work")
def test_an_export_replaces_no_file_of_its_source(single: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").symlink_to(single)
    refused(tmp_path, "convert", single, "-o", out, *EXPORT, "--overwrite")


@pytest.mark.usefixtures("no_work")
def test_the_configuration_is_not_a_destination(single: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("temporal: {alpha: 0.25}")
    refused(tmp_path, "convert", single, "--config", config, "-o", config, *ONTO)


@pytest.mark.usefixtures("no_work")
def test_a_source_that_looks_like_a_leftover_is_kept(single: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    source = single.rename(tmp_path / f".{out.name}.0123abcd.staged")
    refused(tmp_path, "convert", source, "-o", out, *ONTO)


@pytest.mark.usefixtures("no_work")
def test_no_report_replaces_a_file_of_the_source(
    sharded: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ("-o", tmp_path / "out.json", *CPU_OPTIONS)
    refused(tmp_path, "convert", sharded, *out, "--report", sharded)
    refused(tmp_path, "convert", folder, *out, "--report", folder / "config.json")
    refused(tmp_path, "convert", sharded, *out, "--report", tmp_path / "out.json")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / SHARDS[1]))
    refused(tmp_path, "convert", sharded, *out, "--github-summary")
    with pytest.raises(OutputError):
        inflate.convert(sharded, tmp_path / "out.json", reports=[sharded], **CPU)


@pytest.mark.usefixtures("no_work")
def test_no_report_replaces_what_is_published(single: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("{}")
    options = [word for word in EXPORT if word != "--skip-parity"]
    arguments = ("--overwrite", "--report", out / "config.json")
    refused(tmp_path, "convert", single, "-o", out, *options, *arguments)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("read", ["reference", "candidate", "image", "video", "latents"])
def test_no_report_replaces_what_verify_reads(read: str, single: Path, tmp_path: Path) -> None:
    files = {
        "reference": single,
        "candidate": write_safetensors(tmp_path / "video.safetensors", autoencoder()),
        "image": picture(tmp_path / "images" / "a.png", 16, 16),
        "video": clip(tmp_path / "a.mkv"),
        "latents": write_safetensors(tmp_path / "latents.safetensors", {}),
    }
    report = tmp_path / "report.md"
    report.symlink_to(files[read])
    given = {
        "images": files["image"].parent, "video": files["video"], "latents": files["latents"],
    }  # fmt: skip
    options = [word for key, path in given.items() for word in (f"--{key}", path)]
    pair = (files["reference"], files["candidate"])
    refused(tmp_path, "verify", *pair, *options, "--report", report, *CPU_OPTIONS)
    with pytest.raises(OutputError):
        inflate.verify(*pair, **given, reports=[report], **CPU)


@pytest.mark.usefixtures("no_work")
def test_kept_outputs_and_a_report_are_not_one_file(
    image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    kept = tmp_path / "kept.json"
    options = ("--save-outputs", kept, "--report", kept, *CPU_OPTIONS)
    refused(tmp_path, "verify", image, videos["all"], *options)


def test_a_document_is_not_replaced_by_its_page(tmp_path: Path) -> None:
    document = tmp_path / "report.html"
    document.write_text(json.dumps(document_of("equal")))
    refused(tmp_path, "report", document, "--to", "html")


@pytest.mark.usefixtures("no_work")
def test_no_remote_source_is_replaced(
    weights: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("fsspec", reason="the extra remote is not installed")
    monkeypatch.setenv("INFLATE_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    path = write_safetensors(tmp_path / "img.safetensors", weights)
    config = json.dumps({"_class_name": "AutoencoderKL"}).encode()
    try:
        memory.pipe({f"/vae/{FOLDER_WEIGHTS}": path.read_bytes(), "/vae/config.json": config})
        before = memory.cat("/vae/*")
        weights_url = f"memory://vae/{FOLDER_WEIGHTS}"
        for source, output in (
            (weights_url, weights_url),
            (weights_url, f"memory:///vae//{FOLDER_WEIGHTS}"),
            ("memory://vae", weights_url),
            ("memory://vae", "memory://vae/config.json"),
        ):
            with pytest.raises(OutputError):
                inflate.convert(source, output, overwrite=True, **CPU)
        with pytest.raises(OutputError):
            inflate.convert(
                weights_url, "memory://vae", layout="diffusers", overwrite=True, skip_parity=True
            )
        assert memory.cat("/vae/*") == before
    finally:
        memory.store.clear()
        memory.pseudo_dirs[:] = [""]


# Places


def test_a_file_has_one_place_however_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    new = place_of(tmp_path / "real" / "new")
    assert place_of(tmp_path / "link" / "new") == new
    assert place_of(str(tmp_path / "link" / "a" / ".." / "new")) == new
    assert place_of(f"file://{tmp_path}/link/new") == new
    assert place_of(tmp_path / "real" / "other") != new
    assert place_of(tmp_path / "real" / "no" / "new") != new
    (tmp_path / "real" / "new").touch()
    os.link(tmp_path / "real" / "new", tmp_path / "hard")
    assert place_of(tmp_path / "hard") == place_of(tmp_path / "link" / "new")
    assert place_of("s3a://b/x/../a") == place_of("S3://b//a") != place_of("s3://b/x")
    assert len(conflicts(["a\0b", "c" * 300], ["a\0c"])) == 2  # No system has such files.


# Neither a file nor a folder


@pytest.fixture(params=["pipe", "socket", "device", "link"])
def special(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Something that exists, and is not a regular file."""
    place = tmp_path / "special"
    place.mkdir()
    path = place / "r.md"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "socket":
        monkeypatch.chdir(place)  # Its whole path may be too long for one.
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    else:
        if request.param == "link":
            os.mkfifo(place / "pipe")
        path.symlink_to("/dev/null" if request.param == "device" else place / "pipe")
    return path


@pytest.mark.usefixtures("no_work")
def test_nothing_replaces_a_device_pipe_or_socket(
    special: Path, single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(special))
    document = tmp_path / "document.json"
    document.write_text(json.dumps(document_of("equal")))
    mode, to = special.lstat(), (special.readlink() if special.is_symlink() else None)
    for arguments in (
        ("convert", single, "-o", special, *ONTO),
        ("convert", single, "-o", special, *EXPORT, "--overwrite"),
        ("convert", single, "--report", special, *CPU_OPTIONS),
        ("convert", single, "--github-summary", *CPU_OPTIONS),
        ("verify", single, "--report", special, *CPU_OPTIONS),
        ("verify", single, "--save-outputs", special, *CPU_OPTIONS),
        ("report", document, "-o", special),
        ("batch", single, "-o", tmp_path / "out", "--ledger", special),
        ("batch", single, "-o", f"{special.parent}/r{{prefix}}.md", "--overwrite"),
        ("batch", single, "-o", tmp_path / "out", "--github-summary"),
    ):
        code, out, err = command(arguments)
        check_refusal(code, out, err)
        assert special.lstat() == mode
        assert (special.readlink() if special.is_symlink() else None) == to
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "document.json", "img.safetensors", "special",
    ]  # fmt: skip


def test_the_demo_writes_through_no_link(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "DEMO_CHECKPOINT", single)
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "demo.ckpt").symlink_to(precious)
    assert command(["demo", tmp_path, "-q", *CPU_OPTIONS])[0] == 0
    assert precious.read_text() == "precious"
    assert sha256(tmp_path / "demo.ckpt") == sha256(single)


# What is read does not change


def grow(path: Path) -> None:
    """Another size."""
    with path.open("ab") as file:
        file.write(b" ")


def touch(path: Path) -> None:
    """Another time."""
    os.utime(path, ns=(1, 1))


def replace(path: Path) -> None:
    """Another inode, of the same size and time."""
    times = path.stat()
    path.with_suffix(".new").write_bytes(bytes(times.st_size))
    os.utime(path.with_suffix(".new"), ns=(times.st_atime_ns, times.st_mtime_ns))
    path.with_suffix(".new").rename(path)


CHANGES = (grow, touch, replace, Path.unlink)


def while_writing(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> None:
    """Change something after the first tensor of a conversion was written."""
    carry_out = production.carry_out

    def changing(plan: Any, checkpoint: Any, writer: Any, progress: Any) -> Any:
        def changes(phase: str, done: int, total: int) -> None:
            progress(phase, done, total)
            if done == 1:
                change()

        return carry_out(plan, checkpoint, writer, changes)

    monkeypatch.setattr(production, "carry_out", changing)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("skip_parity", [False, True])
def test_nothing_is_published_of_a_source_that_changed(
    change: Callable[[Path], None],
    skip_parity: bool,
    single: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    while_writing(monkeypatch, lambda: change(single))
    with pytest.raises(CheckpointError):
        inflate.convert(single, out / "v.safetensors", skip_parity=skip_parity, **CPU)
    assert snapshot(out) == {}


def test_neither_is_a_copy(
    videos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "video.safetensors"
    source.write_bytes(videos["all"].read_bytes())
    while_writing(monkeypatch, lambda: touch(source))
    with pytest.raises(CheckpointError):
        inflate.convert(source, tmp_path / "copy", layout="decoder", **CPU)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("name", ["config.json", FOLDER_WEIGHTS, INDEX, *SHARDS])
def test_every_file_of_a_source_counts(
    name: str, folder: Path, sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sharded if (tmp_path / name).exists() else folder
    changed = (sharded.parent if source == sharded else folder) / name
    while_writing(monkeypatch, lambda: touch(changed))
    with pytest.raises(CheckpointError):
        inflate.convert(source, tmp_path / "out", skip_parity=True, **CPU)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changed", ["reference", "candidate"])
def test_there_is_no_verdict_on_files_that_changed(
    changed: str,
    image: Path,
    videos: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = {"reference": tmp_path / "img.ckpt", "candidate": tmp_path / "video.safetensors"}
    for path, original in zip(pair.values(), (image, videos["all"]), strict=True):
        path.write_bytes(original.read_bytes())
    check = verification.run_check

    def changing(*arguments: Any, **options: Any) -> Any:
        touch(pair[changed])
        return check(*arguments, **options)

    monkeypatch.setattr(verification, "run_check", changing)
    with pytest.raises(CheckpointError):
        inflate.verify(*pair.values(), **CPU)


def test_a_failed_parity_of_a_source_that_changed_is_not_a_verdict(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = checking.check

    def failing(*arguments: Any, **options: Any) -> Any:
        touch(single)
        report = check(*arguments, **options)
        object.__setattr__(report, "verdict", "fail")
        return report

    monkeypatch.setattr(checking, "check", failing)
    with pytest.raises(CheckpointError):
        inflate.convert(single, tmp_path / "out", **CPU)


def test_a_source_may_change_once_it_is_published(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result_of = conversion.ConversionResult
    out = tmp_path / "out"

    def changing(*arguments: Any, **options: Any) -> Any:
        if out.exists():
            touch(single)
        return result_of(*arguments, **options)

    monkeypatch.setattr(conversion, "ConversionResult", changing)
    assert inflate.convert(single, out, **CPU).output == out
