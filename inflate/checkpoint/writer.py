"""Safetensors files, written tensor by tensor.

The library's own ``save_file`` wants every tensor in memory at once and its metadata before the
first byte; here tensors come one at a time, and the verdict enters the header after the file was
read back and checked. Each file is read with the library's reader before it is published.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from torch import Tensor

from inflate.checkpoint.header import STORED_NAMES
from inflate.checkpoint.index import TensorInfo

_STORED_AS = {ours: theirs for theirs, ours in STORED_NAMES.items()}
_SPARE = 256
"""Bytes left free in the header, so that the verdict fits in after the check."""


@dataclass
class SafetensorsWriter:
    """Writes one safetensors file into an open one, and its metadata again when more is known."""

    file: BinaryIO
    _entries: dict[str, object] = field(default_factory=dict)
    _header_size: int = 0

    def write(
        self, index: Sequence[TensorInfo], tensors: Iterable[Tensor], metadata: Mapping[str, str]
    ) -> None:
        """Write ``tensors``, which come in the order of ``index``, behind their header.

        Raises:
            OSError: the disk is full, or the file cannot be written.
        """
        offset = 0
        for info in index:
            self._entries[info.name] = {
                "dtype": _STORED_AS[info.dtype],
                "shape": list(info.shape),
                "data_offsets": [offset, offset + info.nbytes],
            }
            offset += info.nbytes
        self._header_size = -(-(len(self._header(metadata)) + _SPARE) // 8) * 8
        self._write_header(metadata)
        for info, tensor in zip(index, tensors, strict=True):
            assert tuple(tensor.shape) == info.shape, info.name
            assert str(tensor.dtype) == f"torch.{info.dtype}", info.name
            dense = tensor.detach().cpu().contiguous()
            self.file.write(_bytes_of(dense))
        self.file.flush()

    def set_metadata(self, metadata: Mapping[str, str]) -> None:
        """Replace the metadata of the header in place.

        Raises:
            OSError: the file cannot be written.
        """
        self.file.seek(0)
        self._write_header(metadata)
        self.file.flush()

    def _header(self, metadata: Mapping[str, str]) -> bytes:
        header = {"__metadata__": dict(sorted(metadata.items())), **self._entries}
        return json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()

    def _write_header(self, metadata: Mapping[str, str]) -> None:
        header = self._header(metadata)
        assert len(header) <= self._header_size, "the metadata outgrew the space left for it"
        self.file.write(self._header_size.to_bytes(8, "little"))
        self.file.write(header.ljust(self._header_size))


def _bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a dense CPU tensor, uncopied; they are the tensor's own, and live as long."""
    nbytes = tensor.numel() * tensor.element_size()
    if not nbytes:
        return memoryview(b"")
    return memoryview((ctypes.c_char * nbytes).from_address(tensor.data_ptr()))
