"""Destinations on full disks, of two runs at once, behind links, and their permissions."""

from __future__ import annotations

import resource
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from ..conversions import metadata_of, snapshot
from .refusals import command, refused
from .serving import EXPORT, Server

QUICK = ("--device", "cpu", "--skip-parity")
CONFIG = "config.json"

both = pytest.mark.parametrize("options", [QUICK, EXPORT], ids=["file", "folder"])
either = pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwritten"])


def convert(source: Path, out: Path, *options: str) -> None:
    """Convert successfully."""
    code, _, err = command(["convert", source, "-o", out, *options])
    assert code == 0, err


# Full disks


@both
@either
def test_nothing_is_left_on_a_full_disk(
    options: tuple[str, ...], overwrite: bool, single: Path, out: Path
) -> None:
    convert(single, out, *options)
    if not overwrite:
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    more = ["--overwrite"] * overwrite
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        refused(out.parent, "convert", single, "-o", out, *options, *more)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Two at once


@pytest.mark.slow
@both
@either
def test_two_conversions_to_one_destination(
    options: tuple[str, ...], overwrite: bool, single: Path, out: Path, server: Server
) -> None:
    words = ["convert", single, "-o", out, *options, *["--overwrite"] * overwrite]
    job: dict[str, Any] = {"arguments": [str(word) for word in words]}
    alone = server.run(job)[0]
    assert alone.code == 0, alone.err
    expected = snapshot(out.parent)
    for _ in range(3):
        if not overwrite:
            shutil.rmtree(out) if out.is_dir() else out.unlink()
        answers = server.run(job, job, job)
        # One publishes the name, and the others are refused.
        codes = sorted(answer.code for answer in answers)
        assert codes == ([0, 0, 0] if overwrite else [0, 2, 2]), [answer.err for answer in answers]
        assert snapshot(out.parent) == expected


# Permissions


@both
def test_permissions_are_those_of_any_new_file(
    options: tuple[str, ...], single: Path, out: Path, server: Server
) -> None:
    for more in ((), ("--overwrite",)):
        answer = server.command("convert", single, "-o", out, *options, *more, umask=0o027)
        assert answer.code == 0, answer.err
        for path in (out, *out.rglob("*")):
            assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640)
            path.chmod(0o700)  # The file that is overwritten must not matter.


def test_links_are_followed_on_reading(single: Path, out: Path) -> None:
    folder = out.parent / "links"
    folder.mkdir()
    (folder / "one.safetensors").symlink_to(single)
    (folder / "two.safetensors").symlink_to("one.safetensors")
    (out.parent / "folder").symlink_to(folder)
    convert(out.parent / "folder" / "two.safetensors", out, *QUICK)
    assert metadata_of(out)["inflate.source.name"] == "two.safetensors"
    # The default destination is next to the link.
    assert command(["convert", folder / "two.safetensors", *QUICK])[0] == 0
    names = ["one.safetensors", "two.safetensors", "two.video.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names


@pytest.mark.parametrize("kind", ["file", "folder", "nowhere"])
def test_a_destination_that_is_a_link_is_replaced_and_not_its_target(
    kind: str, single: Path, out: Path
) -> None:
    options = EXPORT if kind == "folder" else QUICK
    target = out.parent / "precious"
    if kind != "nowhere":
        old = target / CONFIG if kind == "folder" else target
        old.parent.mkdir(exist_ok=True)
        old.write_text("precious")
    out.symlink_to(target)
    before = snapshot(out.parent)
    refused(out.parent, "convert", single, "-o", out, *options)
    convert(single, out, *options, "--overwrite")
    assert not out.is_symlink()
    after = snapshot(out.parent)
    assert all(after[name] == before[name] for name in before if name.startswith("precious"))
