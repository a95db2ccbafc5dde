"""Full disks, two runs at once, links and permissions: what a destination may meet."""

from __future__ import annotations

import os
import random
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import inflate
from inflate.io.staging import FOLDER_CONFIG, FOLDER_WEIGHTS

from ..checkpoints import autoencoder, write_safetensors
from ..conversions import metadata_of, print_of, sha256, snapshot
from .refusals import check_refusal, command, refused
from .serving import EXPORT, Server

QUICK = ("--device", "cpu", "--skip-parity")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tiny image autoencoder, in a folder of its own."""
    folder = tmp_path / "source"
    folder.mkdir()
    weights = autoencoder(ch_mult=[1], num_res_blocks=2)
    return write_safetensors(folder / "img.safetensors", weights)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A destination in a folder of its own."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "video.safetensors"


def names(folder: Path) -> list[str]:
    """What is in a folder, hidden or not."""
    return sorted(path.name for path in folder.iterdir())


# Full disks


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A folder on a disk of this many bytes."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("share", [-1, 0.0, 0.01, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("options", [QUICK, EXPORT], ids=["file", "folder"])
@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwritten"])
def test_a_full_disk_is_told_and_nothing_is_left(
    share: float, options: tuple[str, ...], overwrite: bool, source: Path, out: Path
) -> None:
    code, _, err = command(["convert", source, "-o", out, *options])
    assert code == 0, err
    files = [out] if out.is_file() else list(out.iterdir())
    whole = sum(-(-path.stat().st_size // 4096) * 4096 for path in files)
    before = snapshot(source.parent)
    disk = out.parent / "disk"
    disk.mkdir()
    room = max(4096, int(whole * share))
    with small_disk(disk, room + overwrite * 8192):
        destination, more = disk / out.name, ()
        if overwrite:
            more = ("--overwrite",)
            if out.is_dir():
                destination.mkdir()
                (destination / FOLDER_CONFIG).write_text("precious")
            else:
                destination.write_text("precious")
        if share < 0:  # Full before it begins.
            with suppress(OSError), (disk / "filling").open("wb") as filling:
                while True:
                    filling.write(bytes(4096))
                    filling.flush()
        old = snapshot(disk)
        said = refused(out.parent, "convert", source, "-o", destination, *options, *more)
        assert "No space left on device" in said
        assert "Nothing was left behind" in said
        assert snapshot(disk) == old
    assert snapshot(source.parent) == before


def test_a_disk_with_just_enough_room_will_do(source: Path, out: Path) -> None:
    assert command(["convert", source, "-o", out, *QUICK])[0] == 0
    disk = out.parent / "disk"
    disk.mkdir()
    with small_disk(disk, -(-out.stat().st_size // 4096) * 4096):
        code, _, err = command(["convert", source, "-o", disk / "a.safetensors", *QUICK])
        assert code == 0, err
        assert names(disk) == ["a.safetensors"]
        assert sha256(disk / "a.safetensors") == sha256(out)


def test_a_disk_that_may_not_be_written_is_told(source: Path, out: Path) -> None:
    disk = out.parent / "disk"
    disk.mkdir()
    with small_disk(disk, 1 << 20):
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        said = refused(out.parent, "convert", source, "-o", disk / "a.safetensors", *QUICK)
        assert "cannot be written" in said


# Two at once


@pytest.mark.slow
@pytest.mark.parametrize("options", [QUICK, EXPORT], ids=["file", "folder"])
@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwritten"])
def test_two_conversions_to_one_destination(
    options: tuple[str, ...], overwrite: bool, source: Path, out: Path, server: Server
) -> None:
    arguments = ["convert", source, "-o", out, *options, *(["--overwrite"] * overwrite)]
    job: dict[str, Any] = {"arguments": [str(argument) for argument in arguments]}
    alone = server.run(job)[0]
    assert alone.code == 0, alone.err
    expected = snapshot(out.parent)
    drawn = random.Random(0)
    for _ in range(4):
        if not overwrite:
            for path in sorted(out.rglob("*")):
                path.unlink()
            out.rmdir() if out.is_dir() else out.unlink()
        late = {**job, "wait": drawn.random() * alone.seconds * 0.5}
        answers = server.run(job, late, job)
        codes = sorted(answer.code for answer in answers)
        if overwrite:
            assert codes == [0, 0, 0], [answer.err for answer in answers]
        else:
            # One has the name, and the others are told.
            assert codes == [0, 2, 2], [answer.err for answer in answers]
            for answer in answers:
                if answer.code == 2:
                    check_refusal(answer.code, answer.out, answer.err)
                    assert "exists; pass --overwrite" in answer.err
        assert snapshot(out.parent) == expected


@pytest.mark.slow
def test_two_different_conversions_to_one_destination(
    source: Path, out: Path, server: Server
) -> None:
    jobs = []
    for mode in ("conv-only", "all"):
        arguments = ("convert", source, "-o", out, *QUICK, "--time-mode", mode, "--overwrite")
        jobs.append({"arguments": [str(argument) for argument in arguments]})
    wanted = set()
    for job in jobs:
        assert server.run(job)[0].code == 0
        wanted.add(sha256(out))
    assert len(wanted) == 2
    for _ in range(5):
        assert [answer.code for answer in server.run(*jobs, *jobs)] == [0] * 4
        assert sha256(out) in wanted
        assert names(out.parent) == [out.name]


# Permissions


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0o027, 0o000])
@pytest.mark.parametrize("options", [QUICK, EXPORT], ids=["file", "folder"])
def test_permissions_are_those_of_any_new_file(
    umask: int, options: tuple[str, ...], source: Path, out: Path, server: Server
) -> None:
    source.chmod(0o640)
    for more in ((), ("--overwrite",)):
        answer = server.command("convert", source, "-o", out, *options, *more, umask=umask)
        assert answer.code == 0, answer.err
        for path in (out, *out.rglob("*")):
            full = 0o777 if path.is_dir() else 0o666
            assert stat.S_IMODE(path.stat().st_mode) == full & ~umask
            path.chmod(0o700)  # What is overwritten has no say in it.
    assert stat.S_IMODE(source.stat().st_mode) == 0o640


# Links


def test_links_are_followed_on_reading(source: Path, out: Path) -> None:
    folder = out.parent / "links"
    folder.mkdir()
    (folder / "one.safetensors").symlink_to(source)
    (folder / "two.safetensors").symlink_to("one.safetensors")
    (out.parent / "folder").symlink_to(folder)
    before = snapshot(source.parent)
    result = inflate.convert(out.parent / "folder" / "two.safetensors", out, device="cpu")
    assert result.passed
    assert metadata_of(out)["inflate.source.name"] == "two.safetensors"
    assert metadata_of(out)["inflate.source.fingerprint"] == print_of(source)
    assert snapshot(source.parent) == before
    assert (folder / "two.safetensors").is_symlink()


def test_the_default_destination_is_beside_the_link(source: Path, out: Path) -> None:
    link = out.parent / "link.safetensors"
    link.symlink_to(source)
    assert command(["convert", link, *QUICK])[0] == 0
    assert names(out.parent) == ["link.safetensors", "link.video.safetensors"]
    assert names(source.parent) == ["img.safetensors"]


@pytest.mark.parametrize("target", ["nowhere", "link.safetensors"])
def test_a_link_that_leads_nowhere_is_refused(target: str, out: Path) -> None:
    link = out.parent / "link.safetensors"
    link.symlink_to(target)
    code, said, err = command(["convert", link])
    check_refusal(code, said, err)
    assert str(link) in err
    assert names(out.parent) == [link.name]


def test_a_destination_that_is_a_link_is_refused(source: Path, out: Path) -> None:
    precious = out.parent / "precious"
    precious.write_text("precious")
    out.symlink_to(precious)
    assert "exists; pass --overwrite" in refused(out.parent, "convert", source, "-o", out, *QUICK)
    assert out.readlink() == precious
    assert precious.read_text() == "precious"


def test_the_link_is_replaced_and_not_what_it_leads_to(source: Path, out: Path) -> None:
    precious = out.parent / "precious"
    precious.write_text("precious")
    out.symlink_to(precious)
    code, _, err = command(["convert", source, "-o", out, *QUICK, "--overwrite"])
    assert code == 0, err
    assert not out.is_symlink()
    assert load_file(out)
    assert precious.read_text() == "precious"
    assert names(out.parent) == ["precious", out.name]


def test_a_link_to_the_source_is_no_destination(source: Path, out: Path) -> None:
    out.symlink_to(source)
    for more in ((), ("--overwrite",)):
        refused(out.parent, "convert", source, "-o", out, *QUICK, *more)
    assert out.is_symlink()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_destination_that_leads_nowhere(overwrite: bool, source: Path, out: Path) -> None:
    out.symlink_to(out.parent / "nowhere")
    arguments = ["convert", source, "-o", out, *QUICK, *(["--overwrite"] * overwrite)]
    code, said, err = command(arguments)
    if overwrite:
        assert code == 0, err
        assert not out.is_symlink()
        assert load_file(out)
    else:
        check_refusal(code, said, err)
        assert "exists; pass --overwrite" in err
        assert out.is_symlink()
    assert names(out.parent) == [out.name]


def test_a_folder_that_is_a_link_is_written_into(source: Path, out: Path) -> None:
    real = out.parent / "real"
    real.mkdir()
    link = out.parent / "link"
    link.symlink_to(real)
    assert command(["convert", source, "-o", link / "a.safetensors", *QUICK])[0] == 0
    assert link.is_symlink()
    assert names(real) == ["a.safetensors"]


def test_an_export_replaces_a_link_to_a_folder(source: Path, out: Path) -> None:
    precious = out.parent / "precious"
    precious.mkdir()
    (precious / FOLDER_CONFIG).write_text("precious")
    out.symlink_to(precious)
    assert "exists" in refused(out.parent, "convert", source, "-o", out, *EXPORT)
    code, _, err = command(["convert", source, "-o", out, *EXPORT, "--overwrite"])
    assert code == 0, err
    assert not out.is_symlink()
    assert names(out) == sorted([FOLDER_CONFIG, FOLDER_WEIGHTS])
    assert names(precious) == [FOLDER_CONFIG]
    assert names(out.parent) == ["precious", out.name]


@pytest.mark.parametrize("options", [QUICK, EXPORT], ids=["file", "folder"])
def test_what_only_looks_abandoned_is_left_alone(
    options: tuple[str, ...], source: Path, out: Path
) -> None:
    hidden = out.with_name(f".{out.name}.0123abcd.staged")
    precious = out.parent / "precious"
    precious.write_text("precious")
    hidden.symlink_to(precious)
    os.mkfifo(out.with_name(f".{out.name}.0123abce.staged"))
    before = names(out.parent)
    assert command(["convert", source, "-o", out, *options])[0] == 0
    assert names(out.parent) == sorted([*before, out.name])
    assert precious.read_text() == "precious"
