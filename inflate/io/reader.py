"""A checkpoint as an index of its tensors, which are read lazily."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from inflate.errors import CheckpointError, about
from inflate.io.arrays import Array, Bytes, aligned, aligned_zeros, np, numpy_dtype
from inflate.io.files import CheckpointFiles, find_files
from inflate.io.folder import first_names
from inflate.io.header import read_header
from inflate.io.index import WIDTHS, TensorInfo
from inflate.io.stored import Extent, Place, SourceFile
from inflate.io.unpickling import read_pickled
from inflate.progress import Progress

_PIECE = 1 << 18


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: an index of tensors by key, with methods to read them.

    Keys are the names in the file, or those of a view (see ``views``). ``foreign`` lists the
    classes in a torch file that were not loaded.
    """

    path: Path
    files: CheckpointFiles
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    foreign: tuple[str, ...]
    places: Mapping[str, Place] = field(repr=False)

    def read(self, key: str) -> Array:
        """Read a tensor into a new aligned, contiguous array."""
        info, place = self.tensors[key], self.places[key]
        if not isinstance(place, Extent):
            return aligned(place())
        if info.dtype not in WIDTHS:
            raise CheckpointError(
                f"{self.path}: {info.name} is stored as {info.dtype}, which is not supported; "
                f"expected one of {', '.join(WIDTHS)}"
            )
        try:
            return place.read().view(numpy_dtype(info.dtype)).reshape(info.shape)
        except ValueError as error:  # A shape beyond numpy's limits.
            raise CheckpointError(f"{self.path}: {info.name} cannot be read: {error}") from error

    def download(self, progress: Progress) -> None:
        """Download every tensor of a remote file now instead of when it is read."""
        spans: dict[SourceFile, list[tuple[int, int]]] = {}
        for place in self.places.values():
            if isinstance(place, Extent):
                wanted = spans.setdefault(place.file, [])
                wanted.append((place.offset, place.offset + place.nbytes))
        for file, wanted in spans.items():
            if file.partial is not None:
                file.partial.fetch(wanted, progress)

    def pieces(self, key: str, buffer: Bytes) -> Iterator[Array]:
        """The values of a tensor in flat pieces, each valid until the next is taken.

        Pieces are read into ``buffer``; its size is a multiple of every element size. Values of an
        unsupported type are bytes.
        """
        place, dtype = self.places[key], self.tensors[key].dtype
        if not isinstance(place, Extent):
            yield from _in_parts(self.read(key), len(buffer))
            return
        for start in range(0, place.nbytes, len(buffer)):
            part = buffer[: place.nbytes - start]
            place.file.read_into(part.data, place.offset + start)
            yield part.view(numpy_dtype(dtype if dtype in WIDTHS else "uint8"))


def same_bytes(checkpoint: Checkpoint, key: str, other: Checkpoint | Array) -> bool:
    """Whether a tensor's bytes equal those of an array, or of the other checkpoint's tensor.

    Both are read in pieces into small buffers: touching new memory costs more than reading.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    if isinstance(other, Checkpoint):
        dtype, pieces = other.tensors[key].dtype, other.pieces(key, aligned_zeros(_PIECE))
    else:
        dtype, pieces = other.dtype.name, _in_parts(other, _PIECE)
    if dtype != checkpoint.tensors[key].dtype:
        return False
    own = checkpoint.pieces(key, aligned_zeros(_PIECE))
    pairs = zip_longest(own, pieces, fillvalue=aligned_zeros(0))
    return all(
        np.array_equal(first.view(np.uint8), second.view(np.uint8)) for first, second in pairs
    )


def _in_parts(array: Array, nbytes: int) -> Iterator[Array]:
    flat, step = array.reshape(-1), nbytes // array.itemsize
    return (flat[start : start + step] for start in range(0, len(flat), step))


@contextmanager
def open_checkpoint(path: Path, *, bare: bool = False) -> Iterator[Checkpoint]:
    """Open a file of safetensors or of torch, an index of shards, or a diffusers folder.

    ``bare`` also accepts a torch file with a single unnamed tensor.

    Raises:
        CheckpointError: a file is missing, empty, damaged or in an unknown format; or, at the end,
            a file has changed while it was read.
        FamilyError: the files are valid, but hold no named tensors.
    """
    tensors: dict[str, TensorInfo] = {}
    places: dict[str, Place] = {}
    metadata: dict[str, str] = {}
    foreign: set[str] = set()
    with ExitStack() as stack:
        with about(path):
            files = find_files(path)
            for weights in files.weights:
                file = SourceFile(weights)
                stack.enter_context(file.stream)
                torch = files.format == "torch"
                contents = read_pickled(file, bare=bare) if torch else read_header(file)
                metadata.update(contents.metadata)
                foreign.update(contents.foreign)
                for name, info in contents.tensors.items():
                    if not files.shards or files.shards.get(name) == weights:
                        tensors[name], places[name] = info, contents.places[name]
            lost = sorted(name for name in files.shards if name not in tensors)
            if lost:
                raise CheckpointError(
                    f"{path} names tensors that its shards lack: {first_names(lost)}"
                )
        yield Checkpoint(path, files, tensors, metadata, tuple(sorted(foreign)), places)
    files.read.check_unchanged()
