"""Staged files: hidden until they are published, gone if they are not."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from inflate.errors import OutputError
from inflate.io import staging
from inflate.io.protected import ReadFiles
from inflate.io.staging import Staged, check_destination, saying_why, stage, write_atomically

from .opening import assert_same, write_all

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.float16)}
CONFIGS = pytest.mark.parametrize("config", [None, {}], ids=["file", "folder"])


def write(staged: Staged) -> None:
    """Write ``TENSORS`` into a staged file, as conversions do."""
    with saying_why(staged.destination, sum(tensor.nbytes for tensor in TENSORS.values())):
        write_all(staged.file, TENSORS)


def make(path: Path, *, overwrite: bool = False, config: dict[str, Any] | None = None) -> Path:
    """A published file or folder."""
    with stage(path, ReadFiles(), overwrite=overwrite, folder_config=config) as staged:
        write(staged)
        staged.publish()
    return path


def fail_for_want_of_space(*_: Any) -> None:
    """A system call on a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "img.video.safetensors"


# Hidden, then published or removed


@CONFIGS
@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt()])
@pytest.mark.parametrize("written", [False, True])
def test_what_is_not_published_is_removed(
    config: dict[str, Any] | None, error: BaseException, written: bool, out: Path
) -> None:
    def run() -> None:
        with stage(out, ReadFiles(), overwrite=False, folder_config=config) as staged:
            if written:
                write(staged)
            raise error

    with pytest.raises(type(error)):
        run()
    assert list(out.parent.iterdir()) == []


@CONFIGS
def test_ctrl_c_names_what_was_published(
    config: dict[str, Any] | None, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(folder: Path) -> None:
        if folder == out.parent:
            raise KeyboardInterrupt

    def run() -> None:
        with stage(out, ReadFiles(), overwrite=False, folder_config=config) as staged:
            write(staged)
            monkeypatch.setattr(staging, "_sync_folder", interrupt)
            staged.publish()

    with pytest.raises(KeyboardInterrupt) as stopped:
        run()
    assert str(out) in str(stopped.value)
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_an_old_folder_comes_back_where_the_new_one_gets_no_name(
    error: BaseException, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out.mkdir()
    (out / "config.json").write_text("precious")
    rename = os.rename

    def run() -> None:
        with stage(out, ReadFiles(), overwrite=True, folder_config={}) as staged:
            write(staged)

            def failing(source: Path, destination: Path) -> None:
                if source == staged.path and not out.exists():
                    raise error
                rename(source, destination)

            monkeypatch.setattr(os, "rename", failing)
            staged.publish()

    with pytest.raises((OutputError, KeyboardInterrupt)):
        run()
    assert (out / "config.json").read_text() == "precious"
    assert list(out.parent.iterdir()) == [out]


# What has the name already


def test_overwrite_replaces_an_existing_file_only_when_published(out: Path) -> None:
    out.write_text("old")
    with stage(out, ReadFiles(), overwrite=True) as staged:
        write(staged)
    assert out.read_text() == "old"
    make(out, overwrite=True)
    assert_same(load_file(out), TENSORS)
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("links", [True, False], ids=["links", "no hard links"])
def test_a_name_taken_meanwhile_is_not_taken_over(
    links: bool, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", fail_for_want_of_space)
    with stage(out, ReadFiles(), overwrite=False) as staged:
        write(staged)
        out.write_text("quicker")
        with pytest.raises(OutputError):
            staged.publish()
    assert out.read_text() == "quicker"
    out.unlink()
    assert_same(load_file(make(out)), TENSORS)
    assert list(out.parent.iterdir()) == [out]


def test_destinations_that_cannot_be_written_are_refused(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (out.parent / "folder").mkdir()
    (out.parent / "folder" / "other").touch()
    out.touch()
    for path, folder in (
        (out.parent / "folder", False),
        (out.parent / "folder", True),
        (out, True),
        (out.parent / "no" / "a", False),
    ):
        with pytest.raises(OutputError):
            check_destination(path, overwrite=True, folder=folder)
    with pytest.raises(OutputError):
        make(out.parent / ("x" * 250))
    monkeypatch.setattr(os, "access", lambda path, *_: Path(path) != out.parent)
    with pytest.raises(OutputError):
        check_destination(out, overwrite=True)


# Disks that refuse


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_disk_that_fails_while_publishing_leaves_nothing(
    call: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (call, "rename"):
        monkeypatch.setattr(os, name, fail_for_want_of_space)
    with pytest.raises(OutputError):
        make(out)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_small_file_is_written_whole_or_not_at_all(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "a", b"old")
    monkeypatch.setattr(os, call, fail_for_want_of_space)
    with pytest.raises(OutputError):
        write_atomically(tmp_path / "a", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_the_bytes_are_on_the_disk_before_the_name_is(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, link = os.fsync, os.link
    monkeypatch.setattr(os, "fsync", lambda *args: (calls.append("fsync"), fsync(*args)))
    monkeypatch.setattr(os, "link", lambda *args: (calls.append("link"), link(*args)))
    make(out)
    assert calls[:2] == ["fsync", "link"]


# What killed runs leave behind


def abandoned(out: Path) -> Path:
    """The name of a staged file of another run."""
    return out.with_name(f".{out.name}.0123abcd.staged")


@CONFIGS
def test_what_is_staged_is_held_while_it_is_made(config: dict[str, Any] | None, out: Path) -> None:
    with stage(out, ReadFiles(), overwrite=False, folder_config=config) as first:
        handle = os.open(first.path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)
        make(out, config=config)
        assert first.path.exists()


@CONFIGS
def test_what_a_killed_run_left_is_removed_and_all_else_is_kept(
    config: dict[str, Any] | None, out: Path
) -> None:
    for ending in ("0123abc.staged", "0123ABCD.staged", "0123abcd.backup", "v2.0123abcd.staged"):
        out.with_name(f".{out.name}.{ending}").write_text("mine")
    (out.parent / abandoned(out).name[1:]).write_text("mine")
    # Of another kind than what is made
    abandoned(out).mkdir() if config is None else abandoned(out).write_text("mine")
    out.with_name(f".{out.name}.0123abce.staged").symlink_to(out.parent / "precious")
    os.mkfifo(out.with_name(f".{out.name}.0123abcf.staged"))
    before = set(out.parent.iterdir())
    left = out.with_name(f".{out.name}.0123abcc.staged")
    left.write_text("left by a run that was killed") if config is None else left.mkdir()
    make(out, config=config)
    assert set(out.parent.iterdir()) == {*before, out}
