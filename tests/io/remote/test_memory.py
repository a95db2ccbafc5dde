"""Fetching and publishing by way of fsspec, in memory; and the cache."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from inflate.io.caching import cache_folder

from inflate.errors import CheckpointError, OutputError
from inflate.io.remote import check_destination, fetch, publish

from .conftest import Told, parts, whole_files

BODY = bytes(range(256)) * 64


def test_a_file_goes_there_and_back(tmp_path: Path, told: Told) -> None:
    ours = tmp_path / "a.safetensors"
    ours.write_bytes(BODY)
    check_destination("memory://out/b.safetensors", overwrite=False)
    publish(ours, "memory://out/b.safetensors", overwrite=False, progress=told)
    assert told.calls[0] == ("uploading", 0, len(BODY))
    assert told.last == ("uploading", len(BODY), len(BODY))
    copy = fetch("memory://out/b.safetensors", told)
    assert copy.name == "b.safetensors"
    assert copy.read_bytes() == BODY
    assert told.last == ("downloading", len(BODY), len(BODY))


def test_nothing_but_the_file_is_left_there(tmp_path: Path, memory: Any) -> None:
    ours = tmp_path / "a"
    ours.write_bytes(BODY)
    publish(ours, "memory://out/a", overwrite=False)
    assert list(memory.store) == ["/out/a"]


def test_a_name_that_is_taken_is_refused_without_overwrite(tmp_path: Path, memory: Any) -> None:
    ours = tmp_path / "a"
    ours.write_bytes(BODY)
    memory.pipe("/out/a", b"theirs")
    with pytest.raises(OutputError, match="memory://out/a exists; pass --overwrite"):
        check_destination("memory://out/a", overwrite=False)
    with pytest.raises(OutputError, match="memory://out/a exists; pass --overwrite"):
        publish(ours, "memory://out/a", overwrite=False)
    assert memory.cat("/out/a") == b"theirs"
    check_destination("memory://out/a", overwrite=True)
    publish(ours, "memory://out/a", overwrite=True)
    assert memory.cat("/out/a") == BODY


def test_a_name_that_is_taken_meanwhile_is_refused(tmp_path: Path, memory: Any) -> None:
    ours = tmp_path / "a"
    ours.write_bytes(BODY)

    def steal(phase: str, done: int, total: int) -> None:
        if done:
            memory.pipe("/out/a", b"theirs")

    with pytest.raises(OutputError, match="exists since a moment ago"):
        publish(ours, "memory://out/a", overwrite=False, progress=steal)
    assert {name: memory.cat(name) for name in memory.store} == {"/out/a": b"theirs"}


def test_an_upload_that_fails_leaves_nothing(tmp_path: Path, memory: Any) -> None:
    ours = tmp_path / "a"
    ours.write_bytes(BODY)
    memory.pipe("/out/a", b"before")

    def fail(phase: str, done: int, total: int) -> None:
        if done:
            raise ConnectionResetError

    with pytest.raises(OutputError, match="cannot be written: the connection broke off; try again"):
        publish(ours, "memory://out/a", overwrite=True, progress=fail)
    assert {name: memory.cat(name) for name in memory.store} == {"/out/a": b"before"}


def test_an_interrupted_upload_leaves_nothing(tmp_path: Path, memory: Any) -> None:
    ours = tmp_path / "a"
    ours.write_bytes(BODY)

    def interrupt(phase: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(ours, "memory://out/a", overwrite=False, progress=interrupt)
    assert not memory.store


def test_a_folder_is_published_with_its_index_last(
    tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "vae"
    (folder / "more").mkdir(parents=True)
    for name in ("a.json", "b.safetensors", "more/c.safetensors", ".hidden"):
        (folder / name).write_bytes(name.encode())
    seen: list[str] = []
    original = memory.mv

    def mv(self: Any, old: str, new: str, **options: Any) -> None:
        seen.append(new)
        original(old, new, **options)

    monkeypatch.setattr(type(memory), "mv", mv)
    check_destination("memory://out/vae/", overwrite=False, folder=True)
    publish(folder, "memory://out/vae/", overwrite=False)
    assert [name.rpartition("vae/")[2] for name in seen] == [
        "b.safetensors", "more/c.safetensors", "a.json"
    ]  # fmt: skip
    assert memory.cat("/out/vae/more/c.safetensors") == b"more/c.safetensors"
    with pytest.raises(OutputError, match="memory://out/vae exists"):
        publish(folder, "memory://out/vae", overwrite=False)
    publish(folder, "memory://out/vae", overwrite=True)


def test_a_folder_that_stops_half_way_says_so(tmp_path: Path, memory: Any) -> None:
    folder = tmp_path / "vae"
    folder.mkdir()
    (folder / "a").write_bytes(b"12")
    (folder / "b").write_bytes(b"34")

    def fail(phase: str, done: int, total: int) -> None:
        if done > 2:
            raise ConnectionResetError

    with pytest.raises(OutputError, match="1 of 2 files are there already; pass --overwrite"):
        publish(folder, "memory://vae", overwrite=False, progress=fail)
    assert list(memory.store) == ["/vae/a"]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no files"):
        publish(tmp_path, "memory://vae", overwrite=False)


def test_a_folder_is_no_destination_for_a_file(tmp_path: Path, memory: Any) -> None:
    memory.pipe("/out/x", b"")
    for location in ("memory://out", "memory://out/"):
        with pytest.raises(OutputError, match=r"folder; expected the name .* out/video|out/video"):
            check_destination(location, overwrite=True)


def test_an_upload_that_arrives_changed_is_noticed(
    tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = tmp_path / "a"
    ours.write_bytes(BODY)
    original = type(memory).put_file

    def cut(self: Any, local: str, remote: str, **options: Any) -> None:
        original(self, local, remote, **options)
        self.pipe(remote, BODY[:-1])

    monkeypatch.setattr(type(memory), "put_file", cut)
    with pytest.raises(OutputError, match="differs from what was uploaded"):
        publish(ours, "memory://out/a", overwrite=False)
    assert not memory.store


def test_what_does_not_exist_cannot_be_fetched(cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"memory://a\.ckpt does not exist; expected a check"):
        fetch("memory://a.ckpt")
    with pytest.raises(CheckpointError, match="neither a file nor a folder of diffusers"):
        fetch("memory://a")
    assert whole_files(cache) == []


def test_an_unchanged_object_is_not_downloaded_again(memory: Any, told: Told) -> None:
    memory.pipe("/a.ckpt", BODY)
    first = fetch("memory://a.ckpt", told)
    told.calls.clear()
    assert fetch("memory://a.ckpt", told) == first
    assert told.calls == []


def test_a_changed_object_is_downloaded_anew(memory: Any) -> None:
    memory.pipe("/a.ckpt", BODY)
    first = fetch("memory://a.ckpt")
    memory.pipe("/a.ckpt", BODY[::-1])
    second = fetch("memory://a.ckpt")
    assert second.read_bytes() == BODY[::-1]
    assert first.read_bytes() == BODY, "whoever reads the old one goes on reading it"


@pytest.mark.parametrize("harm", ["cut", "changed", "gone", "no record", "bad record"])
def test_a_harmed_copy_is_downloaded_again(memory: Any, harm: str) -> None:
    memory.pipe("/a.ckpt", BODY)
    copy = fetch("memory://a.ckpt")
    record = copy.with_name(".a.ckpt.json")
    if harm == "cut":
        copy.write_bytes(BODY[:-1])
    elif harm == "changed":
        copy.write_bytes(BODY[::-1])
        os.utime(copy, ns=(0, 0))
    elif harm == "gone":
        copy.unlink()
    elif harm == "no record":
        record.unlink()
        copy.write_bytes(b"half")
    else:
        record.write_text("[]")
        copy.write_bytes(b"half")
    again = fetch("memory://a.ckpt")
    assert again == copy
    assert again.read_bytes() == BODY


def test_a_copy_that_was_merely_touched_is_kept(memory: Any, told: Told) -> None:
    memory.pipe("/a.ckpt", BODY)
    os.utime(fetch("memory://a.ckpt"), ns=(0, 0))
    fetch("memory://a.ckpt", told)
    assert told.calls == []


def test_an_object_that_changes_meanwhile_is_not_used(memory: Any, cache: Path) -> None:
    memory.pipe("/a.ckpt", BODY)

    def change(phase: str, done: int, total: int) -> None:
        if done == total:
            memory.pipe("/a.ckpt", BODY[::-1])

    with pytest.raises(CheckpointError, match="changed while it was downloaded"):
        fetch("memory://a.ckpt", change)
    assert whole_files(cache) == parts(cache) == []


def test_an_interrupted_download_leaves_nothing(memory: Any, cache: Path) -> None:
    memory.pipe("/a.ckpt", BODY)

    def interrupt(phase: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("memory://a.ckpt", interrupt)
    assert whole_files(cache) == parts(cache) == []
    assert fetch("memory://a.ckpt").read_bytes() == BODY


def test_what_a_killed_download_left_is_removed(memory: Any, cache: Path) -> None:
    memory.pipe("/a.ckpt", BODY)
    copy = fetch("memory://a.ckpt")
    left = copy.with_name(".0123abcd.part")
    left.mkdir()
    (left / "a.ckpt").write_bytes(BODY)
    copy.unlink()
    fetch("memory://a.ckpt")
    assert parts(cache) == []


def test_an_empty_file_is_fetched(memory: Any) -> None:
    memory.pipe("/a.ckpt", b"")
    assert fetch("memory://a.ckpt").read_bytes() == b""


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("INFLATE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "inflate"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "inflate"


def test_a_home_that_does_not_exist_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLATE_CACHE", "~no-such-user-at-all/cache")
    with pytest.raises(CheckpointError, match=r"has no place: .*; set INFLATE_CACHE to a folder"):
        cache_folder()


def test_a_cache_that_cannot_be_written_is_said(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe("/a.ckpt", BODY)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("INFLATE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CheckpointError, match=r"cannot be used: Not a directory; .*INFLATE_CACHE"):
        fetch("memory://a.ckpt")


def test_the_record_says_where_a_file_is_from(memory: Any) -> None:
    memory.pipe("/a.ckpt", BODY)
    record = fetch("memory://a.ckpt").with_name(".a.ckpt.json")
    assert json.loads(record.read_bytes())["url"] == "memory://a.ckpt"
    assert stat.S_ISREG(record.stat().st_mode)
