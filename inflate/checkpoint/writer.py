"""Safetensors files, written tensor by tensor.

The library's own ``save_file`` wants every tensor in memory at once and its metadata before the
first byte; here tensors come one at a time, and the verdict enters the header after the file was
read back and checked. Each file is read with the library's reader before it is published.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from torch import Tensor

from inflate.checkpoint.header import STORED_NAMES
from inflate.checkpoint.index import TensorInfo

_STORED_AS = {ours: theirs for theirs, ours in STORED_NAMES.items()}
_SPARE = 256
"""Bytes left free in the header, so that the verdict fits in after the check."""
_AT_ONCE = 1 << 20


@dataclass
class SafetensorsWriter:
    """Writes one safetensors file into an open one, and its metadata again when more is known."""

    file: BinaryIO
    _entries: dict[str, object] = field(default_factory=dict)
    _header_size: int = 0

    def write(
        self,
        index: Sequence[TensorInfo],
        tensors: Iterable[Tensor],
        metadata: Mapping[str, str],
        reached: Callable[[int], None] | None = None,
    ) -> None:
        """Write ``tensors``, which come in the order of ``index``, behind their header.

        Args:
            index: what is written, in the order of the file, which is empty so far.
            tensors: the tensors themselves, taken one at a time.
            metadata: of the header, as far as it is known.
            reached: told up to which byte the file holds what it will hold, now and then and at the
                end.

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
        position = 8 + self._header_size
        reserve(self.file, position + offset)
        self._write_header(metadata)
        self._tell(reached, position)
        told = position
        for info, tensor in zip(index, tensors, strict=True):
            assert tuple(tensor.shape) == info.shape, info.name
            assert str(tensor.dtype) == f"torch.{info.dtype}", info.name
            position += info.nbytes
            if is_repeated(tensor) and not any(bytes(_bytes_of(one_of(tensor)))):
                self.file.seek(position)  # The room that was reserved holds zeros already.
            else:
                dense = tensor.detach().cpu().contiguous()
                content = _bytes_of(dense)
                for start in range(0, info.nbytes, _AT_ONCE):
                    self.file.write(content[start : start + _AT_ONCE])
            if position - told >= _AT_ONCE:
                self._tell(reached, position)
                told = position
        self._tell(reached, position)

    def _tell(self, reached: Callable[[int], None] | None, position: int) -> None:
        self.file.flush()
        if reached:
            reached(position)

    def set_metadata(self, metadata: Mapping[str, str]) -> None:
        """Replace the metadata of the header in place.

        Raises:
            OSError: the file cannot be written.
        """
        self.file.seek(0)
        self._write_header(metadata)
        self.file.flush()

    def header(self, metadata: Mapping[str, str]) -> bytes:
        """The first bytes of the file, before those of its tensors, with this metadata."""
        header = self._header(metadata)
        assert len(header) <= self._header_size, "the metadata outgrew the space left for it"
        return self._header_size.to_bytes(8, "little") + header.ljust(self._header_size)

    def _header(self, metadata: Mapping[str, str]) -> bytes:
        header = {"__metadata__": dict(sorted(metadata.items())), **self._entries}
        return json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()

    def _write_header(self, metadata: Mapping[str, str]) -> None:
        self.file.write(self.header(metadata))


def reserve(file: BinaryIO, size: int) -> None:
    """Make an empty file as long as it will be: all zeros, and sure of its room where that can be.

    Blocks that are laid out at once are also written faster, several times so on some systems.
    """
    if sys.platform == "linux" and size:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
    file.truncate(size)


def is_repeated(tensor: Tensor) -> bool:
    """Whether a tensor is one number, expanded to a shape."""
    extents = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.numel() > 1 and all(step == 0 or extent == 1 for extent, step in extents)


def one_of(tensor: Tensor) -> Tensor:
    """The first number of a tensor, which has one."""
    return tensor.detach()[(0,) * tensor.dim()]


def _bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a dense CPU tensor, uncopied; they are the tensor's own, and live as long."""
    nbytes = tensor.numel() * tensor.element_size()
    if not nbytes:
        return memoryview(b"")
    return memoryview((ctypes.c_char * nbytes).from_address(tensor.data_ptr()))
