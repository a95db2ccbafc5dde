"""Torch's own files, read without running anything that is in them.

A pickle is a program: its instructions make containers, name classes and functions, and call them.
Here containers are made, and names and calls stay what they are: data that says what was asked for.
Nothing is imported, nothing is called, nothing is sized by what a file claims. Of all calls, those
that lay a tensor over numbers of the file are understood, and checked against the file; any other
is an inert stand-in, such as training frameworks leave behind (callbacks keyed by their class).

``torch.load(weights_only=True)`` will not do: it runs no foreign code, but calls torch's own as a
file asks it to, and so a few hundred bytes can take any amount of memory or time.

Source:
    The layout of the files, the instructions and the names: ``torch/serialization.py``,
    ``torch/_weights_only_unpickler.py`` and ``torch/_utils.py``.
"""

from __future__ import annotations

import mmap
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inflate.checkpoint.claims import DamagedError, Laid, RefusedError, Region, called
from inflate.checkpoint.files import shown
from inflate.checkpoint.pickles import Machine
from inflate.errors import CheckpointError, FamilyError

_ZIP = b"PK\x03\x04"
ONE_MAPPING = 1 << 25
"""Bytes read before a file is mapped anew, so that the pages of what was read can go."""

_LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_LEGACY_VERSION = 1001


@dataclass
class _Contents:
    """What a file holds: its unpickled content, and the regions of its storages by their keys."""

    content: Any
    regions: Mapping[str, Region]
    foreign: set[str]
    big_endian: bool = False


class MappedTensors(dict[str, Tensor]):
    """The tensors of a file, laid over one mapping of it, or over fresh ones."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.whole = self.mapping = self._map()
        self._read = 0

    def fresh(self, name: str) -> Tensor:
        """A tensor over a mapping that goes when its tensors go, and its pages with it.

        The pages of one mapping would stay until the last tensor of the file has gone.
        """
        tensor = self[name]
        start = tensor.data_ptr() - self.whole.data_ptr()
        if not tensor.numel() or not 0 <= start < self.whole.nbytes():
            return tensor  # A copy, of what lay askew.
        if self._read > ONE_MAPPING:
            self.mapping, self._read = self._map(), 0
        length = tensor.untyped_storage().nbytes()
        start -= int(tensor.storage_offset()) * tensor.element_size()
        self._read += length
        part = self.mapping[start : start + length]
        empty = torch.empty(0, dtype=tensor.dtype)
        return empty.set_(part, tensor.storage_offset(), tensor.shape, tensor.stride())

    def _map(self) -> torch.UntypedStorage:
        # Its declaration in torch promises less than it gives.
        mapped: torch.UntypedStorage
        mapped = torch.UntypedStorage.from_file(str(self.path), False, self.path.stat().st_size)  # type: ignore[assignment]
        return mapped


BARE = "latents"
"""What a tensor is called that a file holds without a name."""


def load_pickled(path: Path, *, bare: bool = False) -> tuple[MappedTensors, tuple[str, ...]]:
    """The state dict of a torch file, its tensors mapped from the file where its format allows.

    Args:
        path: the file.
        bare: take a single tensor too, which is then called :data:`BARE`.

    Returns:
        The state dict, and the dotted names that inert stand-ins took the place of.

    Raises:
        CheckpointError: the file is damaged, or asks for what a checkpoint has no need of.
        FamilyError: the file is sound, and no state dict.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            contents = _zipped(path, data) if data[:4] == _ZIP else _legacy(data)
        single = bare and isinstance(contents.content, Laid)
        content = contents.content
        claims = {BARE: content} if single else _state_dict(content, path)
        return _tensors(claims, contents, path), tuple(sorted(contents.foreign))
    except RefusedError as refused:
        raise CheckpointError(
            f"{path} asks for {refused}, which could run code; refused. A checkpoint needs tensors "
            "and plain containers only"
        ) from refused
    except CheckpointError:
        raise
    # Whatever an untrusted file makes the reader raise is a fact about the file.
    except Exception as error:
        first = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise CheckpointError(
            f"{path} is damaged or no torch checkpoint: {first}. Copy or download it again"
        ) from error


def _zipped(path: Path, data: mmap.mmap) -> _Contents:
    """A file since torch 1.6: a zip archive that stores everything as it is, in one folder."""
    with zipfile.ZipFile(path) as archive:
        entries, end = archive.infolist(), archive.start_dir
    pickles = [e.filename for e in entries if re.fullmatch(r"[^/]+/data\.pkl", e.filename)]
    if len(pickles) != 1:
        raise DamagedError(f"it holds {len(pickles) or 'no'} records data.pkl; expected one")
    folder = pickles[0].removesuffix("data.pkl")
    if any(entry.filename == folder + "constants.pkl" for entry in entries):
        raise FamilyError(
            f"{path} is a TorchScript archive; expected named tensors: save its state_dict()"
        )
    regions = _regions([e for e in entries if e.filename.startswith(folder)], end, data)
    machine = Machine(data, regions[pickles[0]])
    content = machine.run()
    order = regions.get(folder + "byteorder", Region(0, 0))
    storages = {name.removeprefix(f"{folder}data/"): region for name, region in regions.items()}
    big_endian = data[order.start : order.start + min(order.length, 8)] == b"big"
    return _Contents(content, storages, machine.foreign, big_endian)


def _regions(entries: list[zipfile.ZipInfo], end: int, data: mmap.mmap) -> dict[str, Region]:
    """Where the records of an archive lie, believed only where they do not overlap."""
    found: dict[str, Region] = {}
    following = end
    for entry in sorted(entries, key=lambda entry: entry.header_offset, reverse=True):
        name = entry.filename
        if name in found:
            raise DamagedError(f"its record {name[:100]!r} stands twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise DamagedError(f"its record {name[:100]!r} is compressed; torch stores them as is")
        head = data[entry.header_offset : entry.header_offset + 30]
        if len(head) != 30 or not head.startswith(_ZIP):
            raise DamagedError(f"its record {name[:100]!r} is not where it is said to be")
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", head[26:]))
        if start + entry.file_size > following or entry.compress_size != entry.file_size:
            raise DamagedError(f"its record {name[:100]!r} is not of the size it is said to be")
        found[name] = Region(start, entry.file_size)
        following = entry.header_offset
    return found


def _legacy(data: mmap.mmap) -> _Contents:
    """A file before torch 1.6: five pickles in a row, then the storages, each behind its length."""
    machine = Machine(data, Region(0, len(data)))
    # The second byte is the protocol.
    start = machine.take(len(_LEGACY_START))
    if start[2:] != _LEGACY_START[2:] or machine.run() != _LEGACY_VERSION:
        raise DamagedError("it does not begin as a torch file does")
    machine.run()  # What system it comes from; the numbers are little-endian on every one.
    content = machine.run()
    types = {storage.key: storage.dtype for storage in reversed(machine.storages)}
    regions = {}
    keys = machine.run()
    for key in keys if isinstance(keys, list) else ():
        dtype = types.get(key) if isinstance(key, str) else None
        if dtype is None or key in regions:
            raise DamagedError("its list of storages is not that of its tensors")
        (count,) = struct.unpack("<q", machine.take(8))
        regions[key] = machine.skip(count * dtype.itemsize)
    return _Contents(content, regions, machine.foreign)


def _state_dict(content: Any, path: Path) -> Mapping[Any, Any]:
    """The mapping of names to tensors in a loaded file, nested one level at most."""
    if isinstance(content, Laid):
        raise FamilyError(f"{path} holds a single tensor; expected a checkpoint of named tensors")
    if not isinstance(content, Mapping):
        raise FamilyError(
            f"{path} holds a {called(content).rpartition('.')[2]!r} object, a whole pickled "
            "module perhaps; expected named tensors: save its state_dict() instead"
        )
    nested = content.get("state_dict")
    if isinstance(nested, Mapping):
        return nested
    if any(isinstance(value, Laid) for value in content.values()):
        return content
    inner = [v for v in content.values() if isinstance(v, Mapping)
             and any(isinstance(t, Laid) for t in v.values())]  # fmt: skip
    if len(inner) == 1:
        return inner[0]
    raise FamilyError(
        f"{path} holds no tensors at its top, under 'state_dict', or in one mapping alone; found "
        f"the keys {', '.join(repr(key)[:80] for key in list(content)[:8]) or '(none)'}"
    )


def _tensors(claims: Mapping[Any, Any], contents: _Contents, path: Path) -> MappedTensors:
    """The tensors of a state dict, each laid over the bytes of its storage."""
    tensors = MappedTensors(path)
    whole = tensors.whole
    storages: dict[tuple[str, torch.dtype], torch.UntypedStorage] = {}
    for name, laid in claims.items():
        if not isinstance(name, str) or not isinstance(laid, Laid):
            continue
        if shown(name) != name:
            raise DamagedError(f"a tensor has the name {shown(name)}")
        if laid.storage is None or laid.storage.dtype is None or laid.dtype is None:
            tensors[name] = torch.empty(laid.shape, device="meta")
            continue
        region = contents.regions.get(laid.storage.key)
        numbers = region and _numbers(laid, region)
        if not region or not numbers:
            raise CheckpointError(
                f"{path}: {name} reaches beyond the numbers that the file holds for it. Copy or "
                "download it again"
            )
        start, length = numbers
        key = (laid.storage.key, laid.dtype)
        if key not in storages:
            storage = whole[region.start : region.start + region.length]
            # Where it does not lie at a multiple of any width, as layers like it, it is copied.
            storages[key] = storage.clone() if region.start % 16 or contents.big_endian else storage
            if contents.big_endian:
                storages[key].byteswap(laid.dtype)  # type: ignore[no-untyped-call]
        part = storages[key][start : start + length]
        empty = torch.empty(0, dtype=laid.dtype)
        tensors[name] = empty.set_(part, laid.offset, laid.shape, laid.strides)
    return tensors


def _numbers(laid: Laid, region: Region) -> tuple[int, int] | None:
    """Start and length, in bytes of its storage, of what a tensor is laid over; None if outside."""
    assert laid.storage is not None
    assert laid.storage.dtype is not None
    assert laid.dtype is not None
    width = laid.storage.dtype.itemsize
    start, count = laid.storage.view
    end = laid.offset
    if 0 not in laid.shape:
        steps = zip(laid.shape, laid.strides, strict=True)
        end += 1 + sum((extent - 1) * stride for extent, stride in steps)
    fits = (
        start + count <= laid.storage.count
        and laid.storage.count * width <= region.length
        and end * laid.dtype.itemsize <= count * width
    )
    return (start * width, count * width) if fits else None
