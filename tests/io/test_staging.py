"""Staged files: hidden until they are published, gone if they are not."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from inflate.errors import OutputError
from inflate.io import leftovers, staging
from inflate.io.protected import ReadFiles
from inflate.io.staging import Staged, check_destination, saying_why, stage

from .opening import assert_same, write_all

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.float16)}


def write(staged: Staged, tensors: dict[str, Tensor] = TENSORS) -> None:
    """Write tensors into a staged file, as conversions do."""
    with saying_why(staged.destination, sum(tensor.nbytes for tensor in tensors.values())):
        write_all(staged.file, tensors)


def make(path: Path, *, overwrite: bool = False) -> Path:
    """A published file."""
    with stage(path, ReadFiles(), overwrite=overwrite) as staged:
        write(staged)
        staged.publish()
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "img.video.safetensors"


# Hidden, then published or removed


def test_a_staged_file_is_hidden_beside_its_destination(out: Path) -> None:
    with stage(out, ReadFiles(), overwrite=False) as staged:
        assert staged.path.parent == out.parent
        assert staged.path.name.startswith(f".{out.name}.")
        assert list(out.parent.iterdir()) == [staged.path]
        write(staged)
        staged.publish()
        assert list(out.parent.iterdir()) == [out]
    assert list(out.parent.iterdir()) == [out]


class Stop(BaseException):
    """As Ctrl-C."""


@pytest.mark.parametrize("error", [RuntimeError("bug"), OutputError("full"), Stop()])
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_not_published_is_removed(error: BaseException, when: str, out: Path) -> None:
    def run() -> None:
        with stage(out, ReadFiles(), overwrite=False) as staged:
            if when == "after":
                write(staged)
            raise error

    with pytest.raises(type(error)):
        run()
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("config", [None, {}], ids=["file", "folder"])
@pytest.mark.parametrize("published", [False, True])
def test_ctrl_c_says_whether_it_was_published(
    published: bool, config: dict[str, Any] | None, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(folder: Path) -> None:
        if folder == out.parent:
            raise KeyboardInterrupt

    def run() -> None:
        with stage(out, ReadFiles(), overwrite=False, folder_config=config) as staged:
            write(staged)
            if published:
                monkeypatch.setattr(staging, "_sync_folder", interrupt)
                staged.publish()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        run()
    expected = f"{out} was published" if published else "nothing was left behind"
    assert str(stopped.value) == expected
    assert list(out.parent.iterdir()) == [out] * published


def test_ctrl_c_promises_nothing_of_what_cannot_be_removed(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> None:
        with stage(out, ReadFiles(), overwrite=False):
            monkeypatch.setattr(staging, "remove", str)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        run()
    assert str(stopped.value) == ""


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


def test_a_file_that_nobody_publishes_is_removed(out: Path) -> None:
    with stage(out, ReadFiles(), overwrite=False) as staged:
        write(staged)
    assert list(out.parent.iterdir()) == []


def test_two_files_for_one_destination_do_not_meet(out: Path) -> None:
    with (
        stage(out, ReadFiles(), overwrite=True) as one,
        stage(out, ReadFiles(), overwrite=True) as two,
    ):
        assert one.path != two.path
        write(one, {"a": torch.zeros(2)})
        write(two, {"a": torch.ones(2)})
        one.publish()
        two.publish()
    assert_same(load_file(out), {"a": torch.ones(2)})
    assert list(out.parent.iterdir()) == [out]


# What is in the way


def test_an_existing_file_is_kept(out: Path) -> None:
    out.write_text("precious")
    with pytest.raises(OutputError) as caught, stage(out, ReadFiles(), overwrite=False):
        pass
    assert str(caught.value) == (
        f"{out} exists; pass --overwrite to replace it, or choose another name with -o"
    )
    assert out.read_text() == "precious"
    assert list(out.parent.iterdir()) == [out]


def test_overwrite_replaces_an_existing_file_only_when_published(out: Path) -> None:
    out.write_text("old")
    with stage(out, ReadFiles(), overwrite=True) as staged:
        write(staged)
        assert out.read_text() == "old"
    assert out.read_text() == "old"
    make(out, overwrite=True)
    assert_same(load_file(out), TENSORS)
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("links", [True, False])
def test_a_name_taken_meanwhile_is_not_taken_over(
    links: bool, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        without_links(monkeypatch)
    with stage(out, ReadFiles(), overwrite=False) as staged:
        write(staged)
        out.write_text("quicker")
        with pytest.raises(OutputError) as caught:
            staged.publish()
    assert str(caught.value).startswith(f"{out} exists; pass --overwrite")
    assert out.read_text() == "quicker"
    assert list(out.parent.iterdir()) == [out]


def test_a_file_system_without_links_will_do(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_links(monkeypatch)
    assert_same(load_file(make(out)), TENSORS)
    assert list(out.parent.iterdir()) == [out]


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)


def test_a_dangling_link_in_the_way_is_kept(out: Path) -> None:
    out.symlink_to("nowhere")
    with pytest.raises(OutputError, match="exists; pass --overwrite"):
        make(out)
    assert out.is_symlink()
    assert list(out.parent.iterdir()) == [out]


def test_a_directory_in_the_way(tmp_path: Path) -> None:
    for overwrite in (False, True):
        with pytest.raises(OutputError) as caught:
            check_destination(tmp_path, overwrite=overwrite)
        assert str(caught.value) == f"{tmp_path} is a directory; expected the name of a file"


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError) as caught,
        stage(tmp_path / "no" / "a", ReadFiles(), overwrite=False),
    ):
        pass
    assert str(caught.value) == (
        f"the folder {tmp_path / 'no'} does not exist; make it, or choose another with -o"
    )


def test_a_folder_that_cannot_be_written(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, *_: Path(path) != out.parent)
    with pytest.raises(OutputError) as caught, stage(out, ReadFiles(), overwrite=False):
        pass
    assert str(caught.value) == (
        f"the folder {out.parent} cannot be written; choose another with -o"
    )


def test_a_name_that_cannot_be_staged(tmp_path: Path) -> None:
    name = "x" * 250
    with pytest.raises(OutputError, match="cannot be written: File name too long"):
        make(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


# Full disks


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """As on a disk with this much room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("shape", [(3000,), (300_000,)], ids=["small tensors", "a large one"])
def test_a_full_disk_is_told_and_leaves_nothing(shape: tuple[int, ...], out: Path) -> None:
    tensors = {str(i): torch.ones(shape) for i in range(50)}
    with file_size_limit(100_000), pytest.raises(OutputError) as caught:  # noqa: SIM117
        with stage(out, ReadFiles(), overwrite=False) as staged:
            write(staged, tensors)
    nbytes = 50 * 4 * shape[0]
    assert str(caught.value) == (
        f"{out} cannot be written ({nbytes:,} bytes to write): File too large. Nothing was left "
        "behind; free some space or choose another place with -o"
    )
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_disk_that_fails_while_publishing_is_told(
    call: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OutputError) as caught:
        make(out)
    assert str(caught.value) == (
        f"{out} cannot be written: No space left on device. Nothing was left behind; free some "
        "space or choose another place with -o"
    )
    assert list(out.parent.iterdir()) == []


def test_the_bytes_are_on_the_disk_before_the_name_is(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    for name in ("fsync", "link"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))[1]
        )
    make(out)
    assert calls[:2] == ["fsync", "link"]


# Permissions


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_that_any_new_file_gets(umask: int, out: Path) -> None:
    before = os.umask(umask)
    try:
        make(out)
    finally:
        os.umask(before)
    assert stat.S_IMODE(out.stat().st_mode) == 0o666 & ~umask


# What killed runs leave behind


def test_a_staged_file_that_nobody_holds_is_removed(out: Path) -> None:
    abandoned = out.with_name(f".{out.name}.0123abcd.staged")
    abandoned.write_text("left by a run that was killed")
    make(out)
    assert list(out.parent.iterdir()) == [out]


def test_a_staged_file_that_another_process_holds_is_kept(out: Path) -> None:
    held = out.with_name(f".{out.name}.0123abcd.staged")
    code = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'x')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, held], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        make(out)
        assert held.exists()
        other.communicate()
    make(out, overwrite=True)
    assert not held.exists()


def test_a_staged_file_that_this_process_holds_is_kept(out: Path) -> None:
    with stage(out, ReadFiles(), overwrite=False) as first:
        make(out)
        assert first.path.exists()


@pytest.mark.parametrize(
    "name",
    [
        "img.video.safetensors.0123abcd.staged",
        ".img.video.safetensors.0123abc.staged",
        ".img.video.safetensors.0123ABCD.staged",
        ".img.video.safetensors.0123abcd.backup",
        ".img.video.safetensors.staged",
        ".other.safetensors.0123abcd.staged",
        ".img.video.safetensors.v2.0123abcd.staged",
    ],
)
def test_files_of_other_names_are_left_alone(name: str, out: Path) -> None:
    (out.parent / name).write_text("mine")
    make(out)
    assert (out.parent / name).read_text() == "mine"


def test_a_folder_of_such_a_name_is_left_alone(out: Path) -> None:
    folder = out.with_name(f".{out.name}.0123abcd.staged")
    folder.mkdir()
    make(out)
    assert folder.is_dir()


def test_without_file_locks_nothing_is_removed(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (staging, leftovers):
        monkeypatch.setattr(module, "fcntl", None)
    abandoned = out.with_name(f".{out.name}.0123abcd.staged")
    abandoned.touch()
    make(out)
    assert abandoned.exists()
    assert_same(load_file(out), TENSORS)


def test_a_staged_file_is_held_while_it_is_made(out: Path) -> None:
    with (
        stage(out, ReadFiles(), overwrite=False) as staged,
        staged.path.open("rb") as file,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
