"""Archives that lie about what is in them, and where."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from inflate.io.reader import open_checkpoint

from ..conversions import snapshot
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
from .refusals import refused, said_of
from .serving import MIB, Server

CONTENT = dict_of({"state_dict": dict_of({"a": tensor()})})
SOUND = [Entry(name, data) for name, data in records(CONTENT).items()]


def changed(index: int, **changes: object) -> list[Entry]:
    """A sound archive with one record changed."""
    entries = list(SOUND)
    entries[index] = replace(entries[index], **changes)  # type: ignore[arg-type]
    return entries


def packed(content: bytes) -> bytes:
    """Content as archives usually compress it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


PICKLE, ORDER, NUMBERS = 0, 1, 2

LIES: dict[str, Callable[[Path], Path]] = {
    "two pickles": lambda path: write_raw_zip(path, [*SOUND, SOUND[PICKLE]]),
    "two pickles in two folders": lambda path: write_raw_zip(
        path, [*SOUND, Entry("b/data.pkl", SOUND[PICKLE].data)]
    ),
    "two storages of a name": lambda path: write_raw_zip(
        path, [*SOUND, Entry("a/data/0", bytes(16))]
    ),
    "two byte orders": lambda path: write_raw_zip(path, [*SOUND, SOUND[ORDER]]),
    "no pickle": lambda path: write_raw_zip(path, SOUND[1:]),
    "a pickle in no folder": lambda path: write_raw_zip(path, changed(PICKLE, name="data.pkl")),
    "a pickle too deep": lambda path: write_raw_zip(path, changed(PICKLE, name="a/b/data.pkl")),
    "a pickle above": lambda path: write_raw_zip(path, changed(PICKLE, name="../data.pkl")),
    "no numbers": lambda path: write_raw_zip(path, SOUND[:2]),
    "numbers in another folder": lambda path: write_raw_zip(
        path, changed(NUMBERS, name="b/data/0")
    ),
    "numbers above": lambda path: write_raw_zip(path, changed(NUMBERS, name="../a/data/0")),
    "numbers by an absolute path": lambda path: write_raw_zip(
        path, changed(NUMBERS, name="/a/data/0")
    ),
    "fewer numbers": lambda path: write_raw_zip(path, changed(NUMBERS, data=DATA[:-1])),
    "numbers that are compressed": lambda path: write_raw_zip(
        path, changed(NUMBERS, data=packed(DATA), method=8, claimed=16)
    ),
    "numbers that are encrypted": lambda path: write_raw_zip(path, changed(NUMBERS, flags=1)),
    "numbers of another size packed": lambda path: write_raw_zip(
        path, changed(NUMBERS, claimed_packed=8)
    ),
    "more numbers than there are": lambda path: write_raw_zip(
        path, changed(NUMBERS, claimed=1 << 20, claimed_packed=1 << 20)
    ),
    "numbers up to the end": lambda path: write_raw_zip(
        path, changed(NUMBERS, claimed=17, claimed_packed=17)
    ),
    "numbers of nearly 4 GiB": lambda path: write_raw_zip(
        path, changed(NUMBERS, claimed=0xFFFFFFFE, claimed_packed=0xFFFFFFFE)
    ),
    "a size that stands elsewhere, and does not": lambda path: write_raw_zip(
        path, changed(NUMBERS, claimed=0xFFFFFFFF, claimed_packed=0xFFFFFFFF)
    ),
    "a pickle of nearly 4 GiB": lambda path: write_raw_zip(
        path, changed(PICKLE, claimed=0xFFFFFFFE, claimed_packed=0xFFFFFFFE)
    ),
    "a pickle that is cut": lambda path: write_raw_zip(
        path, changed(PICKLE, claimed=40, claimed_packed=40)
    ),
    "a pickle that is a bomb": lambda path: write_raw_zip(
        path,
        changed(PICKLE, data=packed(b"]" * (256 * MIB)), method=8, claimed=256 * MIB),
    ),
    "numbers that are a bomb": lambda path: write_raw_zip(
        path, changed(NUMBERS, data=packed(bytes(256 * MIB)), method=8, claimed=256 * MIB)
    ),
    "an order that is a bomb": lambda path: write_raw_zip(
        path, changed(ORDER, data=packed(bytes(256 * MIB)), method=8, claimed=256 * MIB)
    ),
    "numbers outside": lambda path: write_raw_zip(path, changed(NUMBERS, offset=1 << 30)),
    "numbers nowhere": lambda path: write_raw_zip(path, changed(NUMBERS, offset=0xFFFFFFFF)),
    "numbers in the pickle": lambda path: write_raw_zip(path, changed(NUMBERS, offset=10)),
    "numbers over the pickle": lambda path: write_raw_zip(path, changed(NUMBERS, offset=0)),
    "numbers without a header": lambda path: write_raw_zip(path, changed(NUMBERS, magic=b"PK\0\0")),
    "a directory elsewhere": lambda path: write_raw_zip(path, SOUND, directory=1 << 30),
    "a directory too early": lambda path: write_raw_zip(path, SOUND, directory=0),
    "more entries than there are": lambda path: write_raw_zip(
        path, [*SOUND[:2], Entry("a/data/0", DATA, absent=True)], count=60000
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LIES)
def test_an_archive_that_lies_is_refused(case: str, tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "one" / "two"
    folder.mkdir(parents=True)
    path = LIES[case](folder / "a.ckpt")
    (answer,) = server.open([path], memory=512 * MIB)
    assert (answer["said"] or "opened").startswith(str(path)), answer
    assert answer["peak"] < 8 * MIB
    assert answer["seconds"] < 5.0
    assert str(path) in refused(tmp_path, "convert", path)


def test_a_sound_archive_is_read(tmp_path: Path) -> None:
    for path in (
        write_raw_zip(tmp_path / "a.ckpt", SOUND),
        write_raw_zip(tmp_path / "b.ckpt", SOUND[::-1]),
        write_zip(tmp_path / "c.ckpt", records(CONTENT)),
    ):
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.read("a").tolist() == [1.0, 2.0, 3.0, 4.0]


STRANGE: dict[str, Entry] = {
    "above": Entry("../../outside", b"x"),
    "far above": Entry("a/../../../../../../tmp/inflate-outside", b"x"),
    "absolute": Entry("/outside", b"x"),
    "of another system": Entry("C:\\outside", b"x"),
    "in another folder": Entry("b/data/0", bytes(16)),
    "a link": Entry("a/link", b"/etc/passwd", attributes=(stat.S_IFLNK | 0o777) << 16),
    "a link as numbers": Entry("a/data/1", b"/etc/passwd", attributes=(stat.S_IFLNK | 0o777) << 16),
    "a device": Entry("a/device", b"", attributes=(stat.S_IFBLK | 0o666) << 16),
    "a folder": Entry("a/data/", b""),
    "code": Entry("a/code/evil.py", b"import os"),
    "with another name of its own": Entry("a/x", b"x", local_name="../../outside"),
    "without a name": Entry("", b"x"),
    "with a name of nothing": Entry("\0", b"x"),
    "compressed, in another folder": Entry("b/x", packed(b"x" * 100), method=8, claimed=100),
}


@pytest.mark.parametrize("case", STRANGE)
def test_records_that_nobody_asked_for_are_never_unpacked(case: str, tmp_path: Path) -> None:
    folder = tmp_path / "one" / "two"
    folder.mkdir(parents=True)
    path = write_raw_zip(folder / "a.ckpt", [*SOUND, STRANGE[case]])
    before = snapshot(tmp_path)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.read("a").tolist() == [1.0, 2.0, 3.0, 4.0]
    refused(tmp_path, "convert", path)
    assert snapshot(tmp_path) == before
    assert not Path("/tmp/inflate-outside").exists()
    assert not Path("/outside").exists()


def test_a_link_in_an_archive_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(DATA)
    link = str(secret).encode()
    content = dict_of({"a": tensor((4,), over=storage(4))})
    entries = [
        Entry("a/data.pkl", program(content)),
        Entry("a/data/0", link.ljust(16, b"\0"), attributes=(stat.S_IFLNK | 0o777) << 16),
    ]
    with open_checkpoint(write_raw_zip(tmp_path / "a.ckpt", entries)) as checkpoint:
        assert checkpoint.read("a").tolist() != [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("order", [b"big", b"little", b"", b"middle", b"big" * 1000])
def test_the_order_of_bytes_is_heeded(order: bytes, tmp_path: Path) -> None:
    path = write_raw_zip(tmp_path / "a.ckpt", changed(ORDER, data=order))
    with open_checkpoint(path) as checkpoint:
        read = checkpoint.read("a")
    swapped = order == b"big"
    assert (read.tobytes() == DATA) is not swapped


def test_a_record_reads_nothing_of_its_neighbours(tmp_path: Path) -> None:
    content = dict_of({"a": tensor((5,), over=storage(5)), "b": tensor((4,), over=storage(4, "1"))})
    entries = [*SOUND, Entry("a/data/1", b"\x7f" * 16)]
    entries[PICKLE] = replace(entries[PICKLE], data=program(content))
    said = said_of(write_raw_zip(tmp_path / "a.ckpt", entries))
    assert "a reaches beyond the numbers that the file holds for it" in (said or "")


def test_a_file_that_is_two_things_is_read_as_one(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", records(CONTENT)).read_bytes()
    for start in (b"\x80\x02", b"#!/bin/sh\n", b"\x1f\x8b", b"MZ"):
        path = tmp_path / "a.ckpt"
        path.write_bytes(start + archive)
        assert zipfile.is_zipfile(path)
        assert said_of(path) is not None
