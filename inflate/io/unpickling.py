"""A reader for torch files that runs no code from them.

``torch.load(weights_only=True)`` is not safe enough: it runs no foreign code, but it makes the
calls to torch that a file requests, so a few hundred bytes can use any amount of memory or time.

Source: ``torch/serialization.py`` for the layout of the files.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from inflate.errors import CheckpointError, FamilyError
from inflate.io.arrays import Array, np, numpy_dtype
from inflate.io.claims import (
    DamagedError,
    RefusedError,
    TensorRef,
    UnresolvedCall,
    described,
    items_of,
)
from inflate.io.folder import shown
from inflate.io.index import UNKNOWN, WIDTHS, TensorInfo, dense_strides
from inflate.io.pickles import PickleInterpreter
from inflate.io.stored import Contents, Extent, Place, SourceFile

_ZIP = b"PK\x03\x04"
_LEGACY_START = (0x1950A86A20F9469CFC6C, 1001)

_DEEPEST = 8
"""The depth to which nested mappings are searched for tensors."""

_ROOM_OF_NAMES, _ENTRY = 4, 64
"""Allowed bytes of names per byte of pickle, and the overhead per name: a file may refer to the
same mapping and string many times."""

METADATA = "inflate"
"""The key next to ``state_dict`` for the metadata in torch files that we write."""

BARE = "latents"
"""The name given to an unnamed tensor of a file."""

Storages = Mapping[str, Extent]
"""The locations of a file's storages, by their keys."""


def read_pickled(file: SourceFile, *, bare: bool = False) -> Contents:
    """The named tensors of a torch file; with ``bare`` also a single unnamed one, as :data:`BARE`.

    Raises:
        CheckpointError: the file is damaged, or refers to code that a checkpoint does not need.
        FamilyError: the file is valid, but is not a state dict.
    """
    path = file.path
    try:
        read = _zipped if file.read(len(_ZIP), 0) == _ZIP else _legacy
        content, interpreter, storages = read(file)
        single = bare and isinstance(content, TensorRef)
        refs = {BARE: content} if single else _named(content, interpreter.size, path)
        own = (items_of(content) or {}).get(METADATA)
        texts = own.items() if isinstance(own, dict) else ()
        metadata = {k: v for k, v in texts if isinstance(k, str) and isinstance(v, str)}
        found = Contents(foreign=frozenset(interpreter.foreign), metadata=metadata)
        for name, ref in refs.items():
            found.tensors[name], found.places[name] = _placed(name, ref, storages, path)
        return found
    except RefusedError as refused:
        raise CheckpointError(
            f"{path} asks for {refused}, which could run code; expected tensors only"
        ) from refused
    except CheckpointError:
        raise
    # Any exception that an untrusted file causes means that the file is damaged.
    except Exception as error:
        first = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise CheckpointError(
            f"{path} is damaged or not a torch checkpoint: {first}. Download it again"
        ) from error


def _zipped(file: SourceFile) -> tuple[Any, PickleInterpreter, Storages]:
    """A file of torch 1.6 or later: an uncompressed zip archive with one folder."""
    with zipfile.ZipFile(file.stream) as archive:
        entries, end = archive.infolist(), archive.start_dir
    pickles = [e.filename for e in entries if re.fullmatch(r"[^/]+/data\.pkl", e.filename)]
    if len(pickles) != 1:
        raise DamagedError(f"it holds {len(pickles) or 'no'} records data.pkl; expected one")
    folder = pickles[0].removesuffix("data.pkl")
    if folder + "constants.pkl" in (entry.filename for entry in entries):
        raise FamilyError(f"{file.path} is a TorchScript archive; expected a saved state_dict()")
    records = _records([e for e in entries if e.filename.startswith(folder)], end, file)
    order = records.get(folder + "byteorder")
    if order is not None and order.file.read(min(order.nbytes, 8), order.offset) == b"big":
        raise CheckpointError(f"{file.path} is big-endian; save it on a little-endian machine")
    program = records[pickles[0]]
    stream = io.BytesIO(file.read(program.nbytes, program.offset))
    interpreter = PickleInterpreter(stream, program.nbytes)
    storages = {name.removeprefix(f"{folder}data/"): extent for name, extent in records.items()}
    return interpreter.run(), interpreter, storages


def _records(entries: list[zipfile.ZipInfo], end: int, file: SourceFile) -> dict[str, Extent]:
    """The locations of the records of an archive, after a check that they do not overlap."""
    found: dict[str, Extent] = {}
    for entry in sorted(entries, key=lambda entry: entry.header_offset, reverse=True):
        name, size = entry.filename, entry.file_size
        head = file.read(30, entry.header_offset)
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", head[26:]))
        plain = entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1
        if name in found or not plain or entry.compress_size != size:
            raise DamagedError(f"its record {name[:100]!r} is not stored as torch stores them")
        if not head.startswith(_ZIP) or start + size > end:
            raise DamagedError(f"its record {name[:100]!r} is not where the archive claims")
        found[name] = Extent(file, start, size)
        end = entry.header_offset
    return found


def _legacy(file: SourceFile) -> tuple[Any, PickleInterpreter, Storages]:
    """A file before torch 1.6: five pickles, then the storages, each preceded by its length."""
    interpreter = PickleInterpreter(file.stream, file.size)
    if (interpreter.run(), interpreter.run()) != _LEGACY_START:
        raise DamagedError("it does not begin as a torch file does")
    interpreter.run()  # The system that wrote it; tensor data is little-endian on every system.
    content = interpreter.run()
    types = {storage.key: storage.dtype for storage in reversed(interpreter.storages)}
    storages: dict[str, Extent] = {}
    keys = interpreter.run()
    at = file.stream.tell()
    for key in keys if isinstance(keys, list) else ():
        dtype = types.get(key) if isinstance(key, str) else None
        if dtype is None or key in storages:
            raise DamagedError("its list of storages is not that of its tensors")
        (count,) = struct.unpack("<q", file.read(8, at))
        storages[key] = Extent(file, at + 8, count * WIDTHS[dtype])
        at += 8 + storages[key].nbytes
        if count < 0 or at > file.size:
            raise DamagedError("it is cut short")
    return content, interpreter, storages


def _named(content: Any, nbytes: int, path: Path) -> dict[str, TensorRef]:
    """Every tensor in a mapping, including nested mappings, by its path in the file.

    The usual container, ``state_dict`` at the top, is left out of the path if possible.
    """
    top = items_of(content)
    if top is None or (isinstance(content, UnresolvedCall) and content.is_module):
        held = "nothing" if content is None else described(content)
        raise FamilyError(f"{path} holds {held}; expected a saved state_dict()")
    found, usual = _flat(top, nbytes, skip="state_dict"), items_of(top.get("state_dict"))
    inner = _flat(usual, nbytes) if usual is not None else {}
    if found.keys() & inner.keys():
        inner = {f"state_dict.{name}": ref for name, ref in inner.items()}
    found |= inner
    if not found and top:
        raise FamilyError(f"{path} holds no named tensors; {_held_instead(top)}")
    return found


def _flat(top: Mapping[Any, Any], nbytes: int, skip: str | None = None) -> dict[str, TensorRef]:
    """Every tensor below a mapping by its path; ``nbytes`` of pickle limit the number of names."""
    room = _ROOM_OF_NAMES * nbytes
    found: dict[str, TensorRef] = {}
    # Visit each mapping once: a file may refer to it from many places.
    seen = {id(top)}
    waiting: list[tuple[str, int, Mapping[Any, Any]]] = [("", 0, top)]
    while waiting:
        place, depth, mapping = waiting.pop(0)
        for key, value in mapping.items():
            if not isinstance(key, str):
                continue
            name, inner = place + key, items_of(value)
            if isinstance(value, TensorRef):
                if shown(name) != name:
                    raise DamagedError(f"a tensor has the name {shown(name)}")
                if name in found:
                    raise DamagedError(f"two tensors have the name {name}")
                found[name] = value
                room -= len(name) + _ENTRY
                if room < 0:
                    raise DamagedError("its mappings name more tensors than it describes")
            elif inner and id(inner) not in seen and depth < _DEEPEST and (depth or key != skip):
                seen.add(id(inner))
                if shown(name) == name:  # Otherwise no name below it could be printed either.
                    waiting.append((f"{name}.", depth + 1, inner))
    return found


def _held_instead(top: Mapping[Any, Any]) -> str:
    """The content of a file without named tensors, and what to do."""
    inner = [values for value in top.values() if (values := items_of(value)) is not None]
    if any("shadow_params" in mapping for mapping in (top, *inner)):
        return (
            "its 'shadow_params' is a list of moving averages without names: copy them into the "
            "model (store(), copy_to()) and save its state_dict()"
        )
    modules = [k for k, v in top.items() if isinstance(v, UnresolvedCall) and v.is_module]
    if modules:
        return f"under {modules[0]!r} it has a whole pickled module: save its state_dict() instead"
    return f"found the keys {', '.join(repr(key)[:80] for key in list(top)[:8])}"


def _placed(name: str, ref: TensorRef, storages: Storages, path: Path) -> tuple[TensorInfo, Place]:
    """A tensor of a state dict, and its location in the file."""
    if ref.storage is None:
        return TensorInfo(name, ref.shape, UNKNOWN, 0), partial(_unreadable, path, name)
    storage, whole = ref.storage, storages.get(ref.storage.key)
    assert storage.dtype is not None
    held, width = storage.count * WIDTHS[storage.dtype], WIDTHS[ref.dtype]
    # From its first element to its last.
    steps = [(n - 1) * stride for n, stride in zip(ref.shape, ref.strides, strict=True)]
    span = 0 if 0 in ref.shape else (1 + sum(steps)) * width
    first = ref.offset * width
    info = TensorInfo(name, ref.shape, ref.dtype, math.prod(ref.shape) * width)
    if whole is None or not max(first + span, info.nbytes) <= held <= whole.nbytes:
        raise CheckpointError(
            f"{path}: {name} claims the shape {ref.shape}, beyond the file. Download it again"
        )
    extent = Extent(whole.file, whole.offset + first, span)
    in_order = zip(ref.shape, ref.strides, dense_strides(ref.shape), strict=True)
    dense = all(n == 1 or stride == expected for n, stride, expected in in_order)
    return info, extent if dense or not span else partial(_gather, extent, ref)


def _unreadable(path: Path, name: str) -> Array:
    raise CheckpointError(f"{path}: {name} is of an unknown kind or type; expected a dense tensor")


def _gather(extent: Extent, ref: TensorRef) -> Array:
    """A strided tensor that is not contiguous in the file."""
    numbers = extent.read().view(numpy_dtype(ref.dtype))
    steps = [stride * (n > 1) for n, stride in zip(ref.shape, ref.strides, strict=True)]
    strides = [step * numbers.itemsize for step in steps]
    return np.lib.stride_tricks.as_strided(numbers, ref.shape, strides)
