"""Safetensors files, written tensor by tensor under a hidden name and published when all is well.

The library's own ``save_file`` wants every tensor in memory at once and its metadata before the
first byte; here tensors come one at a time, and the verdict enters the header after the file was
read back and checked. Each file is read with the library's reader before it is published.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from inflate.checkpoint.index import TensorInfo
from inflate.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows: an abandoned staged file is left for its user to remove.
    fcntl = None  # type: ignore[assignment]

_STORED_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_ENDING = ".staged"
_SPARE = 256
"""Bytes left free in the header, so that the verdict fits in after the check."""


@dataclass
class StagedFile:
    """A file under a hidden name beside its destination, until it is published."""

    path: Path
    destination: Path
    overwrite: bool
    file: BinaryIO
    published: bool = False
    _header_size: int = 0
    _index: Mapping[str, object] | None = None

    def write(
        self,
        index: Sequence[TensorInfo],
        tensors: Iterable[Tensor],
        metadata: Mapping[str, str],
    ) -> None:
        """Write a safetensors file of ``tensors``, which come in the order of ``index``.

        Raises:
            OutputError: the disk is full, or the file cannot be written.
        """
        entries: dict[str, object] = {}
        offset = 0
        for info in index:
            entries[info.name] = {
                "dtype": _STORED_NAMES[info.dtype],
                "shape": list(info.shape),
                "data_offsets": [offset, offset + info.nbytes],
            }
            offset += info.nbytes
        self._index = entries
        self._header_size = -(-(len(self._header(metadata)) + _SPARE) // 8) * 8
        with self._saying_why(offset):
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
            OutputError: the file cannot be written.
        """
        with self._saying_why(0):
            self.file.seek(0)
            self._write_header(metadata)
            self.file.flush()

    def publish(self) -> None:
        """Give the file its name, atomically, once its bytes are on the disk.

        Raises:
            OutputError: another file took the name meanwhile, or the disk refuses.
        """
        with self._saying_why(0):
            os.fsync(self.file.fileno())
            if self.overwrite:
                os.replace(self.path, self.destination)
            else:
                _rename_new(self.path, self.destination)
            self.published = True
            _sync_folder(self.destination.parent)

    def _header(self, metadata: Mapping[str, str]) -> bytes:
        assert self._index is not None
        header = {"__metadata__": dict(sorted(metadata.items())), **self._index}
        return json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()

    def _write_header(self, metadata: Mapping[str, str]) -> None:
        header = self._header(metadata)
        assert len(header) <= self._header_size, "the metadata outgrew the space left for it"
        self.file.write(self._header_size.to_bytes(8, "little"))
        self.file.write(header.ljust(self._header_size))

    @contextmanager
    def _saying_why(self, nbytes: int) -> Iterator[None]:
        try:
            yield
        except FileExistsError as error:
            raise OutputError(_exists(self.destination)) from error
        except OSError as error:
            size = f" ({nbytes:,} bytes to write)" if nbytes else ""
            raise OutputError(
                f"{self.destination} cannot be written{size}: {error.strerror}. Nothing was left "
                "behind; free some space or choose another place with -o"
            ) from error


@contextmanager
def stage(destination: Path, *, overwrite: bool) -> Iterator[StagedFile]:
    """Open a hidden file beside ``destination``; whatever was not published in it is removed.

    Raises:
        OutputError: the destination exists and ``overwrite`` is off, or its folder cannot be
            written.
    """
    check_destination(destination, overwrite=overwrite)
    _remove_abandoned(destination)
    path = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}{_ENDING}")
    try:
        file = path.open("x+b")
    except OSError as error:
        raise OutputError(f"{destination} cannot be written: {error.strerror}") from error
    with file:
        if fcntl:
            # Held while the file is being made: a staged file that nobody holds is abandoned.
            fcntl.flock(file, fcntl.LOCK_EX)
        staged = StagedFile(path, destination, overwrite, file)
        try:
            yield staged
        finally:
            if not staged.published:
                path.unlink(missing_ok=True)
                with suppress(OSError):  # What a full disk left in the buffer has no place to go.
                    file.close()


def check_destination(destination: Path, *, overwrite: bool) -> None:
    """Find out before any work whether a file can get this name.

    Raises:
        OutputError: it cannot, and why.
    """
    folder = destination.parent
    if not folder.is_dir():
        raise OutputError(f"the folder {folder} does not exist; make it, or choose another with -o")
    if destination.is_dir():
        raise OutputError(f"{destination} is a directory; expected the name of a file")
    if destination.exists() and not overwrite:
        raise OutputError(_exists(destination))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"the folder {folder} cannot be written; choose another with -o")


def _exists(destination: Path) -> str:
    return f"{destination} exists; pass --overwrite to replace it, or choose another name with -o"


def _rename_new(path: Path, destination: Path) -> None:
    """Rename, and fail where the name is taken, even if it was taken a moment ago."""
    try:
        os.link(path, destination)
    except FileExistsError:
        raise
    except OSError:  # A file system without hard links: look, then rename.
        if destination.exists():
            raise FileExistsError(destination) from None
        os.rename(path, destination)
    else:
        path.unlink()


def _remove_abandoned(destination: Path) -> None:
    """Remove what an earlier run that was killed left staged for this destination."""
    if not fcntl:
        return
    folder, start = destination.parent, f".{destination.name}."
    for entry in os.scandir(folder):
        if not (entry.name.startswith(start) and entry.name.endswith(_ENDING)):
            continue
        token = entry.name.removeprefix(start).removesuffix(_ENDING)
        if len(token) != 8 or set(token) - set("0123456789abcdef") or not entry.is_file():
            continue
        with suppress(OSError), open(entry.path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(entry.path)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # Not every system lets a folder be opened; the rename stands anyway.
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a dense CPU tensor, uncopied; they are the tensor's own, and live as long."""
    nbytes = tensor.numel() * tensor.element_size()
    if not nbytes:
        return memoryview(b"")
    return memoryview((ctypes.c_char * nbytes).from_address(tensor.data_ptr()))
