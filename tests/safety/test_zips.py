"""Zip archives with false headers and strange records."""

from __future__ import annotations

import stat
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from .hostile import (
    DATA,
    Entry,
    dict_of,
    program,
    records,
    storage,
    tensor,
    write_raw_zip,
    write_zip,
)
from .refusals import FOUR, read, refused
from .serving import MIB, Server

CONTENT = dict_of({"state_dict": dict_of({"a": tensor()})})
SOUND = [Entry(name, data) for name, data in records(CONTENT).items()]
PICKLE, ORDER, NUMBERS = 0, 1, 2


def changed(index: int, **changes: Any) -> list[Entry]:
    return [replace(entry, **changes) if i == index else entry for i, entry in enumerate(SOUND)]


def packed(index: int, content: bytes) -> list[Entry]:
    return changed(index, data=content, method=zipfile.ZIP_DEFLATED)


LIES: list[list[Entry]] = [
    # Records that are twice there, or missing
    [*SOUND, SOUND[PICKLE]], [*SOUND, Entry("b/data.pkl", SOUND[PICKLE].data)],
    [*SOUND, Entry("a/data/0", bytes(16))], [*SOUND, SOUND[ORDER]], SOUND[1:], SOUND[:2],
    # Names
    *(changed(PICKLE, name=name) for name in ("data.pkl", "a/b/data.pkl", "../data.pkl")),
    *(changed(NUMBERS, name=name) for name in ("b/data/0", "../a/data/0", "/a/data/0")),
    # Sizes, places and methods
    changed(NUMBERS, data=DATA[:-1]), packed(NUMBERS, DATA),
    changed(NUMBERS, claims={"flag_bits": 1}), changed(NUMBERS, claims={"compress_size": 8}),
    *(changed(record, claims={"file_size": size, "compress_size": size}) for record, size in (
        (NUMBERS, 1 << 20), (NUMBERS, 17), (NUMBERS, 0xFFFFFFFE), (NUMBERS, 0xFFFFFFFF),
        (PICKLE, 40), (PICKLE, 0xFFFFFFFE))),
    *(changed(NUMBERS, claims={"header_offset": at}) for at in (1 << 30, 0xFFFFFFFF, 10, 0)),
    # Bombs
    packed(PICKLE, b"]" * (256 * MIB)), packed(NUMBERS, bytes(256 * MIB)),
    packed(ORDER, bytes(256 * MIB)),
]  # fmt: skip


def test_an_archive_that_lies_is_refused(tmp_path: Path, server: Server) -> None:
    paths = [write_raw_zip(tmp_path / str(i), entries) for i, entries in enumerate(LIES)]
    paths += [write_raw_zip(tmp_path / f"at {at}", SOUND, directory=at) for at in (0, 1 << 30)]
    paths.append(write_raw_zip(tmp_path / "no headers", SOUND))
    sound = paths[-1].read_bytes()
    paths[-1].write_bytes(sound[:4] + sound[4:].replace(b"PK\3\4", b"PK\0\0"))
    for path, answer in zip(paths, server.open(paths), strict=True):
        assert (answer["error"] or "opened").startswith(str(path)), answer
        assert answer["peak"] < 8 * MIB, path
    assert str(paths[0]) in refused(tmp_path, "convert", paths[0])


def test_a_sound_archive_is_read(tmp_path: Path) -> None:
    for entries in (SOUND, SOUND[::-1]):
        assert read(write_raw_zip(tmp_path / "a.ckpt", entries)) == {"a": FOUR}
    assert read(write_zip(tmp_path / "c.ckpt", CONTENT)) == {"a": FOUR}


LINK = (stat.S_IFLNK | 0o777) << 16
STRANGE = [
    *(Entry(name, b"x") for name in ("../../outside", "a/../../../../../../tmp/inflate-outside",
                                     "/outside", "C:\\outside", "b/x", "", "\0")),
    Entry("a/link", b"/etc/passwd", claims={"external_attr": LINK}),
    Entry("a/data/1", b"/etc/passwd", claims={"external_attr": LINK}),
    Entry("a/data/", b""),
    Entry("a/code/evil.py", b"import os"),
    Entry("b/data/0", bytes(16)),
]  # fmt: skip


def test_other_records_are_never_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "one" / "two" / "a.ckpt"
    path.parent.mkdir(parents=True)
    for entry in STRANGE:
        assert read(write_raw_zip(path, [*SOUND, entry])) == {"a": FOUR}
        refused(tmp_path, "convert", path)
        assert [path.name for path in tmp_path.rglob("*")] == ["one", "two", "a.ckpt"]
    assert not Path("/tmp/inflate-outside").exists()
    assert not Path("/outside").exists()


def test_the_byte_order_is_respected(tmp_path: Path) -> None:
    for order in (b"big", b"little", b"", b"middle", b"big" * 1000):
        found = read(write_raw_zip(tmp_path / "a.ckpt", changed(ORDER, data=order)))
        assert found == (None if order == b"big" else {"a": FOUR})


def test_a_record_reads_nothing_of_its_neighbours(tmp_path: Path) -> None:
    content = dict_of({"a": tensor((5,), over=storage(5)), "b": tensor((4,), over=storage(4, "1"))})
    entries = [*changed(PICKLE, data=program(content)), Entry("a/data/1", b"\x7f" * 16)]
    assert read(write_raw_zip(tmp_path / "a.ckpt", entries)) is None


def test_an_archive_behind_another_file_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.ckpt", CONTENT)
    sound = path.read_bytes()
    for start in (b"\x80\x02", b"#!/bin/sh\n", b"\x1f\x8b", b"MZ"):
        path.write_bytes(start + sound)
        assert zipfile.is_zipfile(path)
        assert read(path) is None
