"""Files read at offsets, and the locations of tensors in them.

Files are read, never memory-mapped. If a file is truncated while in use, a read raises an error,
but access to a mapping kills the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from inflate.errors import CheckpointError
from inflate.io.arrays import Array, Bytes, aligned_zeros, np
from inflate.io.index import TensorInfo
from inflate.io.ranges import partial_of

_PIECE = 1 << 18


class SourceFile:
    """A file that threads read at any offset; errors are raised as CheckpointError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.stream = path.open("rb")
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        self.size = os.fstat(self.stream.fileno()).st_size
        self.partial = partial_of(path)

    def fetch(self, nbytes: int, offset: int) -> None:
        """Download the missing parts of a range, if the file is a partial download."""
        if self.partial is not None:
            self.partial.fetch([(offset, offset + nbytes)])

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer with the bytes that begin at an offset."""
        self.fetch(buffer.nbytes, offset)
        left = buffer
        while left:
            try:
                count = os.preadv(self.stream.fileno(), [left], offset)
            except OSError as error:
                raise CheckpointError(f"{self.path} cannot be read: {error.strerror}") from error
            if not count:
                raise self._cut_short(offset, len(left))
            left, offset = left[count:], offset + count

    def read(self, count: int, offset: int) -> bytes:
        """Read ``count`` bytes from an offset."""
        if not 0 <= offset <= offset + count <= self.size:  # Check before allocating memory.
            raise self._cut_short(offset, count)
        buffer = bytearray(count)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def _cut_short(self, offset: int, count: int) -> CheckpointError:
        return CheckpointError(
            f"{self.path} does not hold the {count} bytes expected at byte {offset}: it is cut "
            "short, or was changed while it was read. Copy or download it again"
        )


@dataclass(frozen=True)
class Extent:
    """A range of bytes in a file."""

    file: SourceFile
    offset: int
    nbytes: int

    def read(self) -> Bytes:
        """The bytes, in an aligned buffer.

        Leading zeros are not copied: the buffer already reads as zeros, and takes memory only where
        it is written. Half the temporal weights start as zeros.
        """
        self.file.fetch(self.nbytes, self.offset)  # Otherwise each piece is a request.
        buffer, start = aligned_zeros(self.nbytes), 0
        piece = aligned_zeros(min(_PIECE, self.nbytes))
        while start + _PIECE <= self.nbytes:
            self.file.read_into(piece.data, self.offset + start)
            if piece.view(np.uint64).any():
                break
            start += _PIECE
        self.file.read_into(buffer[start:].data, self.offset + start)
        return buffer


Place = Extent | Callable[[], Array]
"""The source of a tensor: contiguous little-endian bytes, or a computation."""


@dataclass
class Contents:
    """The content of one file: its tensors by name, the source of each, and its metadata.

    ``foreign`` lists the classes in a torch file that were not loaded.
    """

    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    foreign: frozenset[str] = frozenset()
