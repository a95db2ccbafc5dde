"""Torch's own files, written in parts and without torch.

Tensor records come first in the archive, each at a multiple of 64 bytes. The pickle and the
directory follow; they are written again when the verdict is known.

Source: ``torch/serialization.py`` for the records, ``torch/_utils.py`` for the calls.
"""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from typing import BinaryIO

from inflate.io.arrays import ALIGNMENT
from inflate.io.index import TensorInfo, dense_strides
from inflate.io.pickles import STORAGE_TYPES
from inflate.io.unpickling import METADATA
from inflate.io.writer import Container, SafetensorsWriter, TensorWriter, reserve

_PIECE = 1 << 20


class TorchWriter(TensorWriter):
    """One torch file: ``{"state_dict": tensors, "inflate": metadata}``."""

    def __init__(
        self, file: BinaryIO, tensors: Iterable[TensorInfo], metadata: Mapping[str, str]
    ) -> None:
        """Lay out an empty file and reserve its disk space; its metadata may still change."""
        super().__init__(file)
        self._file = file
        self._tensors = list(tensors)
        self._records: list[zipfile.ZipInfo] = []
        self._end = 0
        for number, info in enumerate(self._tensors):
            record = _record(f"archive/data/{number}", self._end, info.nbytes)
            self._records.append(record)
            self._starts[info.name] = _start(record)
            self._end = _start(record) + info.nbytes
        reserve(file, self._end)
        self._write_directory(metadata)

    def set_metadata(self, metadata: Mapping[str, str]) -> None:
        """Replace the metadata of the file, once all tensors are written."""
        for record in self._records:
            record.CRC, at = 0, _start(record)
            end = at + record.file_size
            for start in range(at, end, _PIECE):
                piece = os.pread(self._handle, min(_PIECE, end - start), start)
                record.CRC = zlib.crc32(piece, record.CRC)
        self._write_directory(metadata)

    def _write_directory(self, metadata: Mapping[str, str]) -> None:
        """Write everything except tensor data: headers, small records, and the directory."""
        for record in self._records:
            self.write(memoryview(record.FileHeader()), record.header_offset)
        program = _pickled(self._tensors, metadata)
        with zipfile.ZipFile(self._file, "w") as archive:
            archive.filelist += self._records
            archive.start_dir = self._end
            small = {"data.pkl": program, "byteorder": b"little", "version": b"3\n"}
            for name, content in small.items():
                archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
        self._file.truncate()


def _record(name: str, start: int, nbytes: int) -> zipfile.ZipInfo:
    """A record whose header begins at ``start`` and whose bytes begin at a multiple of 64."""
    record = zipfile.ZipInfo(name)
    record.header_offset, record.CRC = start, 0
    record.file_size = record.compress_size = nbytes
    # Pad the header with an extra field, as torch does.
    padding = -(_start(record) + 4) % ALIGNMENT
    record.extra = struct.pack("<HH", 0x4246, padding) + b"Z" * padding
    return record


def _start(record: zipfile.ZipInfo) -> int:
    """The offset of the bytes of a record."""
    return record.header_offset + len(record.FileHeader())


def open_writer(
    container: Container, file: BinaryIO, tensors: Iterable[TensorInfo], metadata: Mapping[str, str]
) -> TensorWriter:
    """The writer for a kind of file; see the classes for arguments and errors."""
    kind = TorchWriter if container == "torch" else SafetensorsWriter
    return kind(file, tensors, metadata)


def _pickled(tensors: Iterable[TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """The content of a file as a pickle: each tensor is a call that refers to a record."""
    state_dict = {info.name: _tensor(number, info) for number, info in enumerate(tensors)}
    entries = {name: _text(text) for name, text in sorted(metadata.items())}
    content = _mapping({"state_dict": _mapping(state_dict), METADATA: _mapping(entries)})
    return pickle.PROTO + b"\x02" + content + pickle.STOP


def _tensor(number: int, info: TensorInfo) -> bytes:
    kind = _global("torch", STORAGE_TYPES[info.dtype])
    parts = (_text("storage"), kind, _text(str(number)), _text("cpu"), _number(info.parameters))
    arguments = _tuple(
        _tuple(*parts) + pickle.BINPERSID,
        _number(0),
        _tuple(*map(_number, info.shape)),
        _tuple(*map(_number, dense_strides(info.shape))),
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
