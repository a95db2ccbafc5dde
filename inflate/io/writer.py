"""Writers for tensor files: safetensors here, torch files in ``torch_writer``.

The library's ``save_file`` needs all tensors in memory, and metadata before the first byte. These
writers accept tensors in any order and from several threads, and write the verdict last.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import BinaryIO, Literal

from inflate.io.arrays import ALIGNMENT
from inflate.io.header import STORED_NAMES
from inflate.io.index import TensorInfo

_STORED_AS = {ours: theirs for theirs, ours in STORED_NAMES.items()}
_SPARE = 512
"""Free bytes in the header: hashes and the verdict are known only after the tensors are written."""

Container = Literal["safetensors", "torch"]
"""The kinds of file that can be written."""


class TensorWriter(ABC):
    """A tensor file that is written in parts, from any thread; the header comes last.

    Every method raises OSError if the disk is full or refuses.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._handle = file.fileno()
        self._starts: dict[str, int] = {}

    def position(self, name: str) -> int:
        """The offset of a tensor in the file."""
        return self._starts[name]

    @abstractmethod
    def set_metadata(self, metadata: Mapping[str, str]) -> None:
        """Replace the metadata of the file, once all tensors are written."""

    def write(self, content: memoryview, position: int) -> None:
        """Write bytes at a position of the file."""
        while content:
            count = os.pwrite(self._handle, content, position)
            content, position = content[count:], position + count

    def sync(self) -> None:
        """Wait until everything written so far is on the disk."""
        getattr(os, "fdatasync", os.fsync)(self._handle)  # macOS lacks fdatasync.


class SafetensorsWriter(TensorWriter):
    """One safetensors file: its layout, its header, and writing its parts.

    A tensor whose size is a multiple of 64 bytes begins at such a multiple. Any other begins at a
    multiple of the largest power of two that divides its size. The format allows no gaps, so
    tensors are sorted: multiples of 64 first, in the given order, then by decreasing powers.
    """

    def __init__(
        self, file: BinaryIO, tensors: Iterable[TensorInfo], metadata: Mapping[str, str]
    ) -> None:
        """Lay out an empty file, reserve its disk space, and write its header."""
        super().__init__(file)
        self._entries: dict[str, object] = {}
        end = 0
        for info in sorted(tensors, key=lambda info: -_alignment_of(info.nbytes)):
            self._starts[info.name] = end
            self._entries[info.name] = {
                "dtype": _STORED_AS.get(info.dtype, info.dtype),
                "shape": list(info.shape),
                "data_offsets": [end, end := end + info.nbytes],
            }
        length = 8 + len(self._json(metadata)) + _SPARE
        self._data = -(-length // ALIGNMENT) * ALIGNMENT
        self._starts = {name: self._data + start for name, start in self._starts.items()}
        reserve(file, self._data + end)
        self.set_metadata(metadata)

    def set_metadata(self, metadata: Mapping[str, str]) -> None:
        """Replace the metadata of the header in place."""
        header = self._json(metadata).ljust(self._data - 8)
        assert len(header) == self._data - 8, "the metadata outgrew the space left for it"
        self.write(memoryview(len(header).to_bytes(8, "little") + header), 0)

    def _json(self, metadata: Mapping[str, str]) -> bytes:
        header = {"__metadata__": dict(sorted(metadata.items())), **self._entries}
        return json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()


def _alignment_of(nbytes: int) -> int:
    return min(nbytes & -nbytes, ALIGNMENT) or ALIGNMENT


def reserve(file: BinaryIO, size: int) -> None:
    """Create a file of zeros of the final size, with its disk space reserved if possible.

    Writing to reserved space is also faster, several times on some systems.
    """
    if sys.platform == "linux" and size:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
    file.truncate(size)
