"""A checkpoint as an index of its tensors, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from inflate.checkpoint.files import CheckpointFiles, find_files
from inflate.checkpoint.header import check_shards, read_index
from inflate.checkpoint.index import TensorInfo
from inflate.checkpoint.unpickling import ONE_MAPPING, MappedTensors, load_pickled
from inflate.errors import CheckpointError


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: an index of tensors by key, and the way to read one.

    Keys are the names in the file, or what a view (see ``views``) calls them. ``foreign`` names the
    classes that a torch file mentions and that inert stand-ins took the place of.
    """

    path: Path
    files: CheckpointFiles
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    foreign: tuple[str, ...]
    _read: Callable[[str], Tensor] = field(repr=False)

    def read(self, key: str) -> Tensor:
        """The tensor of a key, mapped from the file where it lies aligned in it.

        It is laid out in the order of its axes, whatever it was in the file (training scripts
        leave channels-last weights behind): convolutions choose their algorithm by the layout of
        their weights, and so their rounding. For the same reason it is :func:`aligned`.

        Raises:
            CheckpointError: its bytes cannot be read.
        """
        try:
            tensor = self._read(key)
            # Flattened and back: contiguous() alone leaves the odd strides of axes of extent one.
            return aligned(tensor.contiguous().view(-1).view(self.tensors[key].shape))
        except (SafetensorError, RuntimeError, OSError) as error:
            raise CheckpointError(f"{self.path}: {key} cannot be read: {error}") from error


@contextmanager
def open_checkpoint(path: Path) -> Iterator[Checkpoint]:
    """Open a file of safetensors or of torch, an index of shards, or a diffusers folder.

    Raises:
        CheckpointError: a file is missing, empty, damaged or of another format; or, at the end, a
            file has changed while it was read.
        FamilyError: the files are sound, and hold no named tensors.
    """
    files = find_files(path)
    yield _open(path, files)
    files.read.check_unchanged()


def _open(path: Path, files: CheckpointFiles) -> Checkpoint:
    if files.format == "torch":
        held: dict[str, MappedTensors] = {}
        index: dict[str, TensorInfo] = {}
        foreign: set[str] = set()
        for file in files.weights:
            state_dict, names = load_pickled(file)
            foreign.update(names)
            for name, value in state_dict.items():
                if not files.shards or files.shards.get(name) == file:
                    held[name] = state_dict
                    index[name] = _info(name, value, file)
        check_shards(files, index)

        def read_mapped(name: str) -> Tensor:
            return held[name].fresh(name)

        return Checkpoint(path, files, index, {}, tuple(sorted(foreign)), read_mapped)
    index, metadata = read_index(files)
    opened = {file: _Mapped(file) for file in files.weights}

    def read(name: str) -> Tensor:
        return opened[files.shards.get(name, files.weights[0])].read(name)

    return Checkpoint(path, files, index, metadata, (), read)


class _Mapped:
    """A safetensors file, mapped anew by and by, so that the pages of what was read can go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = self._open()
        self._read = 0

    def read(self, name: str) -> Tensor:
        if self._read > ONE_MAPPING:
            self._handle, self._read = self._open(), 0
        tensor: Tensor = self._handle.get_tensor(name)
        self._read += tensor.nbytes
        return tensor

    def _open(self) -> Any:
        try:
            return safe_open(self.path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{self.path} is damaged: {error}. Copy or download it again"
            ) from error


ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register of any processor that torch knows."""


def aligned(tensor: Tensor) -> Tensor:
    """The tensor at a multiple of :data:`ALIGNMENT` bytes in memory: itself, or a copy.

    Kernels sum the numbers up to the first aligned one apart. The product of a matrix and a vector
    (MKL's, without AVX2) thus rounds the same numbers differently at another address.
    """
    # Memory that torch itself allocates on a CPU begins at such a multiple.
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def _info(name: str, tensor: Tensor, path: Path) -> TensorInfo:
    nbytes = tensor.numel() * tensor.element_size()
    stored = (
        tensor.untyped_storage().nbytes()
        if tensor.layout == torch.strided and tensor.device.type == "cpu"
        else -1
    )
    if nbytes > stored:
        raise CheckpointError(
            f"{path}: {name} claims the shape {tuple(tensor.shape)}, and the file does not hold "
            "that many numbers; expected dense tensors with their data"
        )
    return TensorInfo(name, tuple(tensor.shape), dtype_name(tensor.dtype), nbytes)
