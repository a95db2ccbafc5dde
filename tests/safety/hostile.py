"""Pickles written instruction by instruction, and the torch files that hold them."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STATE = "collections.OrderedDict"
REBUILD = "torch._utils._rebuild_tensor_v2"
MAGIC = 0x1950A86A20F9469CFC6C
DATA = struct.pack("<4f", 1.0, 2.0, 3.0, 4.0)
"""The four numbers of the storage that these files hold."""


def named(dotted: str) -> bytes:
    """GLOBAL: a class or function."""
    module, _, name = dotted.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def number(value: int) -> bytes:
    digits = pickle.encode_long(value)
    return b"\x8a" + bytes([len(digits)]) + digits


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def list_of(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def dict_of(pairs: Mapping[str, bytes] | Iterable[tuple[bytes, bytes]]) -> bytes:
    if isinstance(pairs, Mapping):
        pairs = [(text(key), value) for key, value in pairs.items()]
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


def call(function: str | bytes, *arguments: bytes) -> bytes:
    """REDUCE: a call of a name, or of what another program makes."""
    called = named(function) if isinstance(function, str) else function
    return called + tuple_of(*arguments) + b"R"


def new(dotted: str, *arguments: bytes) -> bytes:
    """NEWOBJ: an instance made without ``__init__``."""
    return named(dotted) + tuple_of(*arguments) + b"\x81"


def storage(
    count: int = 4, key: str = "0", kind: str = "torch.FloatStorage", view: bytes = b""
) -> bytes:
    """The claim that the file holds a row of numbers."""
    words = (text("storage"), named(kind), text(key), text("cpu"), number(count), view)
    return tuple_of(*words) + b"Q"


def tensor_arguments(
    shape: Iterable[int] = (4,), strides: Iterable[int] = (1,), offset: int = 0,
    over: bytes | None = None, hooks: bytes | None = None,
) -> list[bytes]:  # fmt: skip
    return [
        storage() if over is None else over, number(offset), tuple_of(*map(number, shape)),
        tuple_of(*map(number, strides)), b"\x89", call(STATE) if hooks is None else hooks,
    ]  # fmt: skip


def tensor(*arguments: Any, **named_arguments: Any) -> bytes:
    """A tensor that is a view of a storage; the arguments are those of ``tensor_arguments``."""
    return call(REBUILD, *tensor_arguments(*arguments, **named_arguments))


def program(content: bytes) -> bytes:
    return b"\x80\x02" + content + b"."


def records(content: bytes) -> dict[str, bytes]:
    """The records of a torch zip file."""
    return {"a/data.pkl": program(content), "a/byteorder": b"little", "a/data/0": DATA,
            "a/version": b"3\n"}  # fmt: skip


def write_zip(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in records(content).items():
            archive.writestr(zipfile.ZipInfo(name), value)
    return path


def write_legacy(path: Path, content: bytes, keys: Iterable[str] = ("0",), count: int = 4) -> Path:
    """A torch file from before 1.6 with this content."""
    header = (MAGIC, 1001, {"protocol_version": 1001, "little_endian": True})
    # The claims of storages end with their view there, or with None.
    content = content.replace(b"tQ", b"NtQ").replace(b"tNtQ", b"ttQ")
    parts = [pickle.dumps(part, 2) for part in header]
    parts += [program(content), pickle.dumps(list(keys), 2)]
    parts += [struct.pack("<q", count) + DATA for _ in keys]
    path.write_bytes(b"".join(parts))
    return path


WRITERS = {"zip": write_zip, "before 1.6": write_legacy}


@dataclass(frozen=True)
class Entry:
    """A record of an archive, and what the directory claims where that is false."""

    name: str
    data: bytes
    method: int = zipfile.ZIP_STORED
    claims: Mapping[str, int] = field(default_factory=dict)
    """By the names of ``ZipInfo``."""


def write_raw_zip(path: Path, entries: Sequence[Entry], directory: int | None = None) -> Path:
    """A zip archive of these records; ``directory`` is where its end claims that to begin."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # Two records of a name
        for entry in entries:
            info = zipfile.ZipInfo()
            info.filename, info.compress_type = entry.name, entry.method
            archive.writestr(info, entry.data)
        for info, entry in zip(archive.filelist, entries, strict=True):
            for name, value in entry.claims.items():
                setattr(info, name, value)
    if directory is not None:
        path.write_bytes(path.read_bytes()[:-6] + struct.pack("<IH", directory, 0))
    return path
