"""A torch file gets no more tensors and memory than its bytes account for."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from .hostile import (
    REBUILD,
    STATE,
    WRITERS,
    call,
    dict_of,
    list_of,
    named,
    number,
    storage,
    tensor,
    tensor_arguments,
    text,
    tuple_of,
    write_legacy,
)
from .refusals import FOUR, read
from .serving import MIB, Server

SLACK = 8 * MIB
"""Memory that any small file may take: the allocator's, and what is loaded at first use."""
HUGE = 1 << 40

every_format = pytest.mark.parametrize("format", WRITERS)


def opened(
    server: Server, folder: Path, format: str, contents: Sequence[bytes]
) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Write and open files with these contents: each is refused by name, or read, in bounds."""
    paths = [WRITERS[format](folder / str(i), content) for i, content in enumerate(contents)]
    for path, content, answer in zip(paths, contents, server.open(paths), strict=True):
        assert (answer["error"] or str(path)).startswith(str(path)), (content[:200], answer)
        # One byte of a file makes an empty dict, which takes 64 bytes and a place.
        assert answer["peak"] < SLACK + 100 * path.stat().st_size, (content[:200], answer)
        yield content, answer


# Tensors that reach outside

OUTSIDE = [
    tensor((5,)), tensor((2,), (4,)), tensor((1,), (1,), 4), tensor((0,), (1,), 5),
    tensor((1,), (1,), -1), tensor((2,), (-1,), 3), tensor((-4,)),
    # Shapes and strides that overflow, or do not match
    tensor((1 << 61, 16), (0, 0)), tensor((3, 3), (1 << 61, 1 << 61)), tensor((4,), (1, 1)),
    tensor((2, 2), (1,)), tensor((1,) * 65, (1,) * 65),
    # Shapes, storages and arguments of other types
    call(REBUILD, storage(), number(0), b"\x88\x85", b"\x88\x85"),
    call(REBUILD, storage(), number(0), b"N", b"N"),
    call(REBUILD, b"N", number(0), tuple_of(number(1)), tuple_of(number(1))), call(REBUILD),
    # Storages that claim more than their record, or another one
    *(tensor(over=over) for over in (
        storage(HUGE), storage(5), storage(-4), storage(kind="torch.DoubleStorage"),
        storage(key="1"), storage(key="../../../etc/passwd"), storage(kind="torch.NoStorage"),
        storage().replace(text("storage"), text("module")), tuple_of(text("storage")) + b"Q",
        number(3) + b"Q")),
    # Types that do not fit, and numbers that repeat
    *(call("torch._utils._rebuild_tensor_v3", *tensor_arguments(), named(kind))
      for kind in ("torch.float64", "torch._dynamo")),
    tensor((HUGE,), (0,)), tensor((3, 3), (0, 1)),
]  # fmt: skip


@every_format
def test_a_tensor_that_reaches_outside_is_refused(
    format: str, tmp_path: Path, server: Server
) -> None:
    contents = [dict_of({"state_dict": dict_of({"a": content})}) for content in OUTSIDE]
    for content, answer in opened(server, tmp_path, format, contents):
        assert answer["error"] is not None, content


@every_format
def test_a_tensor_within_its_storage_is_read(format: str, tmp_path: Path) -> None:
    content = dict_of({
        "all": tensor(), "part": tensor((2,), (2,), 1), "square": tensor((2, 2), (1, 2)),
        "none": tensor((0,), (1,), 4), "one": tensor((), (), 3),
    })  # fmt: skip
    assert read(WRITERS[format](tmp_path / "a", content)) == {
        "all": FOUR, "part": [2, 4], "square": [[1, 3], [2, 4]], "none": [], "one": 4,
    }  # fmt: skip


def test_false_lists_and_lengths_of_storages_are_refused(tmp_path: Path) -> None:
    content = dict_of({"a": tensor()})
    for keys in ([], ["0", "0"], ["1"], ["0", "1"]):
        assert read(write_legacy(tmp_path / "a.ckpt", content, keys)) is None
    for count in (-1, 0, 3, 5, 1 << 40, (1 << 63) - 1):
        assert read(write_legacy(tmp_path / "a.ckpt", content, count=count)) is None


HEX = functools.reduce(
    lambda content, _: call("_codecs.encode", content, text("hex")), range(60), text("x")
)
"""Bytes that double with each call."""
PAIRS = b")" + b"q\x01h\x01\x86" * 100
"""A tuple of twice a tuple of twice a tuple, and so on."""

BOMBS = [
    HEX,
    call("builtins.bytearray", number(1 << 36)),
    call("torch.FloatTensor", number(1 << 34)),
    call("torch.storage.UntypedStorage", number(1 << 36)),
    call("builtins.set", tensor((1 << 30,), (0,))),
    call("torch._utils._rebuild_device_tensor_from_cpu_tensor", tensor((1 << 33,), (0,)),
         named("torch.float64"), text("cpu"), b"\x89"),
    # Containers
    PAIRS, b"}" + PAIRS + b"Ns", call("builtins.set", list_of(PAIRS)),
    b"]" * 100_000 + b"a" * 99_999, b"(" + b"]" * 300_000 + b"t",
    b"}N" * 50_000 + b"}" + b"s" * 50_000, b"}" * 50_000 + b"Ns" * 50_000,
    named("builtins.dict") + b"q\x01" + b"h\x01" * 50_000 + b")" + b"R\x85" * 49_999 + b"R",
    # Single instructions
    b"Nr\xff\xff\xff\xff", b"X\xff\xff\xff\xffab", b"\x8a\xff" + b"\x7f" * 255, b"(" * 200_000,
]  # fmt: skip


@every_format
def test_a_bomb_takes_memory_in_proportion_to_its_file(
    format: str, tmp_path: Path, server: Server
) -> None:
    contents = []
    for bomb in BOMBS:
        sound = dict_of({"a": tensor()})
        contents += [bomb, dict_of({"state_dict": dict_of({"a": tensor(), "b": bomb})}),
                     dict_of({"state_dict": sound, "b": bomb})]  # fmt: skip
    assert len(list(opened(server, tmp_path, format, contents))) == 3 * len(BOMBS)


@pytest.mark.slow
@every_format
def test_no_instruction_is_harmful(format: str, tmp_path: Path) -> None:
    starts = (b"", b"N", b"NN", b"](", b"}(N", b"}(NN", b"(", named(STATE) + b")", tensor())
    for code in range(256):
        for before in starts:
            content = before + bytes([code]) + b"\x00" * 9
            assert read(WRITERS[format](tmp_path / "a.ckpt", content)) is None


@every_format
def test_unprintable_names_are_refused(format: str, tmp_path: Path) -> None:
    names = ("a\nb", "a\x1b[2Jb", "a\x00", "x" * 1001, "\u202eb", "\x7f")
    contents = [dict_of({name: tensor()}) for name in names]
    for name in (b"\xed\xa0\x80", b"\xff", b"\x00"):
        contents.append(dict_of([(b"X" + struct.pack("<I", len(name)) + name, tensor())]))
    for name in (b"c\x1b[2J\nx\n", b"cx\ny\x00\n", b"c\xff\nx\n", b"cx\ny"):
        contents.append(dict_of({"a": tensor(), "b": name}))
    for content in contents:
        assert read(WRITERS[format](tmp_path / "a.ckpt", content)) is None, content
