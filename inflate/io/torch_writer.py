"""Torch's own files, written in parts and without torch.

Records of numbers come first in the archive, each at a multiple of 64 bytes; the pickle over them
and the directory follow, and are written again when the verdict is known.

Source: ``torch/serialization.py`` for the records, ``torch/_utils.py`` for the calls.
"""

from __future__ import annotations

import os
import pickle
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from inflate.errors import OutputError
from inflate.io.arrays import ALIGNMENT
from inflate.io.index import TensorInfo
from inflate.io.pickles import STORAGE_TYPES
from inflate.io.unpickling import METADATA
from inflate.io.writer import Container, SafetensorsWriter, TensorWriter, reserve

_LARGEST = (1 << 32) - (1 << 24)
"""Bytes of tensors that fit an archive with 32-bit offsets, the pickle included."""

_PIECE = 1 << 20
_DATE = (1 << 5) | 1
"""1980-01-01, where the dates of the format begin."""


@dataclass
class _Record:
    """A record of the archive: its name, where its header begins, and its bytes."""

    name: bytes
    start: int
    nbytes: int
    checksum: int = 0

    @property
    def data(self) -> int:
        """Where its bytes begin: at a multiple of 64, behind at least four bytes of padding."""
        return -(-(self.start + 34 + len(self.name)) // ALIGNMENT) * ALIGNMENT

    @property
    def end(self) -> int:
        return self.data + self.nbytes

    def _fields(self) -> bytes:
        sizes = (self.checksum, self.nbytes, self.nbytes, len(self.name))
        return struct.pack("<HHHHHIIIH", 10, 0, 0, 0, _DATE, *sizes)

    def header(self) -> bytes:
        """The header before its bytes; an extra field of the kind that torch uses pads it."""
        extra = self.data - self.start - 30 - len(self.name)
        padding = struct.pack("<HH", 0x4246, extra - 4) + b"Z" * (extra - 4)
        return b"PK\3\4" + self._fields() + struct.pack("<H", extra) + self.name + padding

    def entry(self) -> bytes:
        """Its entry in the directory."""
        rest = struct.pack("<HHHHII", 0, 0, 0, 0, 0, self.start)
        return b"PK\1\2" + struct.pack("<H", 10) + self._fields() + rest + self.name


class TorchWriter(TensorWriter):
    """One torch file: ``{"state_dict": tensors, "inflate": metadata}``."""

    def __init__(
        self, file: BinaryIO, tensors: Iterable[TensorInfo], metadata: Mapping[str, str]
    ) -> None:
        """Lay out an empty file and reserve its room; its metadata may still change.

        Raises:
            OutputError: the tensors do not fit such a file.
        """
        super().__init__(file)
        self._tensors = list(tensors)
        nbytes = sum(info.nbytes for info in self._tensors)
        if nbytes > _LARGEST:
            raise OutputError(
                f"{nbytes:,} bytes do not fit a torch file as written here ({_LARGEST:,} at most); "
                "choose a name that ends in .safetensors, or a smaller --dtype"
            )
        self._records: dict[str, _Record] = {}
        self._end = 0
        for number, info in enumerate(self._tensors):
            record = _Record(f"archive/data/{number}".encode(), self._end, info.nbytes)
            self._records[info.name], self._end = record, record.end
        reserve(file, self._end)
        self._write_directory(metadata)

    def position(self, name: str) -> int:
        """Where a tensor begins in the file."""
        return self._records[name].data

    def set_metadata(self, metadata: Mapping[str, str]) -> None:
        """Replace the metadata of the file, once all tensors are written."""
        for record in self._records.values():
            record.checksum = 0
            for start in range(record.data, record.end, _PIECE):
                piece = os.pread(self._handle, min(_PIECE, record.end - start), start)
                record.checksum = zlib.crc32(piece, record.checksum)
        self._write_directory(metadata)

    def _write_directory(self, metadata: Mapping[str, str]) -> None:
        """Write all that is not numbers: headers, small records, and the directory."""
        records, at = list(self._records.values()), self._end
        for record in records:
            self.write(memoryview(record.header()), record.start)
        program = _pickled(self._tensors, metadata)
        small = {b"data.pkl": program, b"byteorder": b"little", b"version": b"3\n"}
        for name, content in small.items():
            record = _Record(b"archive/" + name, at, len(content), zlib.crc32(content))
            self.write(memoryview(record.header() + content), record.start)
            records.append(record)
            at = record.end
        entries = b"".join(record.entry() for record in records)
        count = len(records)
        end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, len(entries), at, 0)
        self.write(memoryview(entries + end), at)
        os.ftruncate(self._handle, at + len(entries) + len(end))


def open_writer(
    container: Container,
    file: BinaryIO,
    tensors: Iterable[TensorInfo],
    metadata: Mapping[str, str],
) -> TensorWriter:
    """The writer of a kind of file; see the classes for arguments and errors."""
    kind = TorchWriter if container == "torch" else SafetensorsWriter
    return kind(file, tensors, metadata)


def _pickled(tensors: Iterable[TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """The content of a file as a pickle: each tensor is a call over a record of numbers."""
    state_dict = {info.name: _tensor(number, info) for number, info in enumerate(tensors)}
    entries = {name: _text(text) for name, text in sorted(metadata.items())}
    content = _mapping({"state_dict": _mapping(state_dict), METADATA: _mapping(entries)})
    return pickle.PROTO + b"\x02" + content + pickle.STOP


def _tensor(number: int, info: TensorInfo) -> bytes:
    kind = _global("torch", STORAGE_TYPES[info.dtype])
    parts = (_text("storage"), kind, _text(str(number)), _text("cpu"), _number(info.parameters))
    strides: list[int] = []
    step = 1
    for extent in reversed(info.shape):
        strides.insert(0, step)
        step *= max(extent, 1)
    arguments = _tuple(
        _tuple(*parts) + pickle.BINPERSID,
        _number(0),
        _tuple(*map(_number, info.shape)),
        _tuple(*map(_number, strides)),
        pickle.NEWFALSE,  # requires_grad
        _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE,  # hooks
    )
    return _global("torch._utils", "_rebuild_tensor_v2") + arguments + pickle.REDUCE


def _mapping(items: Mapping[str, bytes]) -> bytes:
    pairs = b"".join(_text(key) + value for key, value in items.items())
    return pickle.EMPTY_DICT + pickle.MARK + pairs + pickle.SETITEMS


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    content = text.encode("utf-8", "surrogatepass")
    return pickle.BINUNICODE + struct.pack("<I", len(content)) + content


def _number(number: int) -> bytes:
    if number < 1 << 31:
        return pickle.BININT + struct.pack("<i", number)
    content = pickle.encode_long(number)
    return pickle.LONG1 + bytes([len(content)]) + content
