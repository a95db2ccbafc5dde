"""Fetching and publishing through fsspec, in memory; and the cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from inflate.errors import CheckpointError, OutputError
from inflate.io.caching import cache_folder
from inflate.io.remote import check_destination, fetch, publish

from .conftest import ProgressRecord, parts, raising, whole_files

BODY = bytes(range(256)) * 64


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A finished file."""
    path = tmp_path / "a"
    path.write_bytes(BODY)
    return path


def contents(memory: Any) -> dict[str, bytes]:
    """Everything that the store holds."""
    return {name: memory.cat(name) for name in memory.store}


def test_a_file_goes_there_and_back(ours: Path, memory: Any, progress: ProgressRecord) -> None:
    check_destination("memory://out/b.ckpt", overwrite=False)
    publish(ours, "memory://out/b.ckpt", overwrite=False, progress=progress)
    assert progress.calls[0] == ("uploading", 0, len(BODY))
    assert progress.last == ("uploading", len(BODY), len(BODY))
    assert contents(memory) == {"/out/b.ckpt": BODY}
    copy = fetch("memory://out/b.ckpt", progress)
    assert (copy.name, copy.read_bytes()) == ("b.ckpt", BODY)
    assert progress.last == ("downloading", len(BODY), len(BODY))
    progress.calls.clear()
    assert fetch("memory://out/b.ckpt", progress) == copy
    assert progress.calls == []


def test_a_name_that_is_taken_is_refused_without_overwrite(ours: Path, memory: Any) -> None:
    memory.pipe("/out/a", b"theirs")
    with pytest.raises(OutputError):
        check_destination("memory://out/a", overwrite=False)
    with pytest.raises(OutputError):
        publish(ours, "memory://out/a", overwrite=False)
    assert contents(memory) == {"/out/a": b"theirs"}
    memory.rm("/out/a")

    def steal(phase: str, done: int, total: int) -> None:
        if done:
            memory.pipe("/out/a", b"theirs")

    with pytest.raises(OutputError):
        publish(ours, "memory://out/a", overwrite=False, progress=steal)
    assert contents(memory) == {"/out/a": b"theirs"}
    check_destination("memory://out/a", overwrite=True)
    publish(ours, "memory://out/a", overwrite=True)
    assert contents(memory) == {"/out/a": BODY}


@pytest.mark.parametrize(
    ("error", "raised"),
    [(ConnectionResetError, OutputError), (KeyboardInterrupt, KeyboardInterrupt)],
)
def test_an_upload_that_stops_leaves_what_was_there(
    error: type[BaseException], raised: type[BaseException], ours: Path, memory: Any
) -> None:
    memory.pipe("/out/a", b"before")
    with pytest.raises(raised):
        publish(ours, "memory://out/a", overwrite=True, progress=raising(error))
    assert contents(memory) == {"/out/a": b"before"}


def test_a_folder_is_published_with_its_index_last(
    tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "vae"
    folder.mkdir()
    names = ["b.safetensors", "a.json"]
    for name in names:
        (folder / name).write_bytes(name.encode())
    seen: list[str] = []
    original = memory.mv

    def mv(self: Any, old: str, new: str, **options: Any) -> None:
        seen.append(new)
        original(old, new, **options)

    monkeypatch.setattr(type(memory), "mv", mv)
    check_destination("memory://out/vae/", overwrite=False, folder=True)
    publish(folder, "memory://out/vae/", overwrite=False)
    assert [name.rpartition("vae/")[2] for name in seen] == names
    assert contents(memory) == {f"/out/vae/{name}": name.encode() for name in names}
    with pytest.raises(OutputError):
        publish(folder, "memory://out/vae", overwrite=False)
    publish(folder, "memory://out/vae", overwrite=True)


@pytest.mark.parametrize("location", ["foo://b/x", "file:///x", "hf://owner/repo/x", "https://h/x"])
def test_a_url_that_cannot_be_written_is_refused_without_a_connection(location: str) -> None:
    with pytest.raises(OutputError):
        check_destination(location, overwrite=True, connect=False)


@pytest.mark.parametrize("location", ["memory://out", "memory://out/"])
def test_a_folder_is_not_a_destination_for_a_file(memory: Any, location: str) -> None:
    memory.pipe("/out/x", b"")
    with pytest.raises(OutputError):
        check_destination(location, overwrite=True)


def test_an_upload_that_arrives_changed_is_noticed(
    ours: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = type(memory).put_file

    def cut(self: Any, local: str, remote: str, **options: Any) -> None:
        original(self, local, remote, **options)
        self.pipe(remote, BODY[:-1])

    monkeypatch.setattr(type(memory), "put_file", cut)
    with pytest.raises(OutputError):
        publish(ours, "memory://out/a", overwrite=False)
    assert not memory.store


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_damaged_copy_is_downloaded_again(memory: Any, harm: str) -> None:
    memory.pipe("/a.ckpt", BODY)
    copy = fetch("memory://a.ckpt")
    copy.unlink() if harm == "gone" else os.truncate(copy, 5)
    assert fetch("memory://a.ckpt").read_bytes() == BODY


def test_an_object_that_changes_meanwhile_is_not_used(memory: Any, cache: Path) -> None:
    memory.pipe("/a.ckpt", BODY)

    def change(phase: str, done: int, total: int) -> None:
        if done == total:
            memory.pipe("/a.ckpt", BODY[::-1])

    with pytest.raises(CheckpointError):
        fetch("memory://a.ckpt", change)
    assert whole_files(cache) == parts(cache) == []


def test_a_download_that_stops_leaves_nothing(memory: Any, cache: Path) -> None:
    memory.pipe("/a.ckpt", BODY)
    with pytest.raises(KeyboardInterrupt):
        fetch("memory://a.ckpt", raising(KeyboardInterrupt))
    assert whole_files(cache) == parts(cache) == []
    (folder,) = cache.iterdir()
    (folder / ".unfinished0123").mkdir()  # As a download that was killed leaves it.
    fetch("memory://a.ckpt")
    assert parts(cache) == []


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("INFLATE_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "inflate"


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
@pytest.mark.parametrize("place", ["~no-such-user-at-all/cache", "file/cache"])
def test_a_cache_that_cannot_be_used_is_reported(
    name: str, place: str, memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe(f"/{name}", BODY)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INFLATE_CACHE", place)
    with pytest.raises(CheckpointError, match="INFLATE_CACHE"):
        fetch(f"memory://{name}")
