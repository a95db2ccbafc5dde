"""A checkpoint as an index of its tensors, each read when it is asked for."""

from __future__ import annotations

import hashlib
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from inflate.checkpoint.unpickling import load_pickled
from inflate.errors import CheckpointError

_PICKLE = b"\x80"
_ZIP = b"PK\x03\x04"
_KNOWN_OTHERS = {
    b"GGUF": "a GGUF file",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a gzip archive",
    b"\x7fELF": "a program",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
}


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a stored tensor without reading it; ``dtype`` as in ``float32``."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: an index of tensors, and the way to read one.

    ``format`` is ``safetensors`` or ``torch``; ``foreign`` names the classes that a torch file
    mentions and that inert stand-ins took the place of.
    """

    path: Path
    format: str
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    foreign: tuple[str, ...]
    _read: Callable[[str], Tensor] = field(repr=False)

    def read(self, name: str) -> Tensor:
        """The tensor of a name, mapped from the file where its format allows.

        It is laid out in the order of its axes, whatever it was in the file (training scripts
        leave channels-last weights behind): convolutions choose their algorithm by the layout of
        their weights, and so their rounding.

        Raises:
            CheckpointError: its bytes cannot be read.
        """
        try:
            tensor = self._read(name)
            # Flattened and back: contiguous() alone leaves the odd strides of axes of extent one.
            return tensor.contiguous().view(-1).view(tensor.shape)
        except (SafetensorError, RuntimeError, OSError) as error:
            raise CheckpointError(f"{self.path}: {name} cannot be read: {error}") from error


@contextmanager
def open_checkpoint(path: Path) -> Iterator[Checkpoint]:
    """Open a ``.safetensors`` file or one of torch's, told apart by their content.

    Raises:
        CheckpointError: the file is missing, empty, damaged or of another format.
        FamilyError: the file is sound, and holds no named tensors.
    """
    kind = detect_format(path)
    if kind == "torch":
        state_dict, foreign = load_pickled(path)
        tensors = {k: v.detach() for k, v in state_dict.items() if isinstance(v, Tensor)}
        index = {k: _info(k, v, path) for k, v in tensors.items()}
        yield Checkpoint(path, kind, index, {}, foreign, tensors.__getitem__)
        return
    try:
        opened = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file: {error}. Copy or download it again"
        ) from error
    with opened as file:
        index = {name: _slice_info(name, file.get_slice(name)) for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata() or {})
        yield Checkpoint(path, kind, index, metadata, (), file.get_tensor)


def detect_format(path: Path) -> str:
    """``safetensors`` or ``torch``, by the first bytes of the file and not by its name.

    Raises:
        CheckpointError: the file is missing, a directory, empty, unreadable or of another format.
    """
    try:
        if path.is_dir():
            raise CheckpointError(f"{path} is a directory; expected a checkpoint file")
        with path.open("rb") as file:
            head = file.read(16)
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; expected a checkpoint file") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if size == 0:
        raise CheckpointError(f"{path} is empty; copy or download it again")
    # Safetensors first: the length that it begins with may look like the start of a pickle.
    length = struct.unpack("<Q", head[:8])[0] if head[8:9] == b"{" else 0
    if 0 < length <= size - 8:
        return "safetensors"
    if head.startswith((_PICKLE, _ZIP)) or zipfile.is_zipfile(path):
        return "torch"
    if length:
        raise CheckpointError(
            f"{path} is cut short: its header claims {length} bytes, the file has {size}. "
            "Copy or download it again"
        )
    other = next((what for magic, what in _KNOWN_OTHERS.items() if head.startswith(magic)), None)
    raise CheckpointError(
        f"{path} is {other or 'neither a torch checkpoint nor a safetensors file'} (it begins with "
        f"{head[:8]!r}); expected .ckpt, .pt, .pth, .bin or .safetensors"
    )


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    buffer = bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


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


_SAFETENSORS_TYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}


def _slice_info(name: str, view: Any) -> TensorInfo:
    shape = tuple(view.get_shape())
    stored = view.get_dtype()
    dtype, size = _SAFETENSORS_TYPES.get(stored, (stored.lower(), 1))
    count = 1
    for extent in shape:
        count *= extent
    return TensorInfo(name, shape, dtype, count * size)
