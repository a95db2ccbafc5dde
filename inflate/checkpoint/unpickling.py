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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inflate.checkpoint.files import shown
from inflate.checkpoint.index import WIDTHS
from inflate.errors import CheckpointError, FamilyError

_ZIP = b"PK\x03\x04"

_BLOCKED = ("os", "posix", "nt", "sys")
"""Modules whose names have no business in a checkpoint."""

_OWN_ROOTS = ("torch", "collections")
_OWN_NAMES = ("_codecs.encode", "builtins.bytearray", "builtins.complex", "builtins.set")
"""What torch itself writes into its files, beside the names in its own modules."""

_STORED_TYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool, "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
}  # fmt: skip

_TYPES = {f"torch.{name}": getattr(torch, name) for name in (*WIDTHS, "complex128")}

_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Modules that files call as Python 2 did, whatever wrote them."""

_LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_LEGACY_VERSION = 1001


class _DamagedError(ValueError):
    """The bytes are not those of a sound file."""


@dataclass(frozen=True, repr=False)
class _Name:
    """A class or function that a file names."""

    dotted: str

    def __repr__(self) -> str:
        return self.dotted


@dataclass(eq=False, repr=False)
class _Asked:
    """A call that a file asks for, and that nobody makes."""

    name: str
    arguments: Any = ()

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class _Storage:
    """A row of numbers in the file, as a pickle claims it.

    ``view`` is the part of it that is meant, where it begins and how many numbers it has.
    """

    key: str
    dtype: torch.dtype | None
    count: int
    view: tuple[int, int]


@dataclass(frozen=True, eq=False)
class _Laid:
    """A tensor as a pickle claims it: laid over a storage, or over none that the file has."""

    storage: _Storage | None
    dtype: torch.dtype | None
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Region:
    """Where the bytes of a storage lie."""

    start: int
    length: int


@dataclass
class _Contents:
    """What a file holds: its unpickled content, and the regions of its storages by their keys."""

    content: Any
    regions: Mapping[str, _Region]
    foreign: set[str]
    big_endian: bool = False


def load_pickled(path: Path) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """The state dict of a torch file, its tensors mapped from the file where its format allows.

    Returns:
        The state dict, and the dotted names that inert stand-ins took the place of.

    Raises:
        CheckpointError: the file is damaged, or asks for what a checkpoint has no need of.
        FamilyError: the file is sound, and no state dict.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            contents = _zipped(path, data) if data[:4] == _ZIP else _legacy(data)
        claims = _state_dict(contents.content, path)
        return _tensors(claims, contents, path), tuple(sorted(contents.foreign))
    except _RefusedError as refused:
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


# The two formats


def _zipped(path: Path, data: mmap.mmap) -> _Contents:
    """A file since torch 1.6: a zip archive that stores everything as it is, in one folder."""
    with zipfile.ZipFile(path) as archive:
        entries, end = archive.infolist(), archive.start_dir
    pickles = [e.filename for e in entries if re.fullmatch(r"[^/]+/data\.pkl", e.filename)]
    if len(pickles) != 1:
        raise _DamagedError(f"it holds {len(pickles) or 'no'} records data.pkl; expected one")
    folder = pickles[0].removesuffix("data.pkl")
    if any(entry.filename == folder + "constants.pkl" for entry in entries):
        raise FamilyError(
            f"{path} is a TorchScript archive; expected named tensors: save its state_dict()"
        )
    regions = _regions([e for e in entries if e.filename.startswith(folder)], end, data)
    machine = _Machine(data, regions[pickles[0]])
    content = machine.run()
    order = regions.get(folder + "byteorder", _Region(0, 0))
    storages = {name.removeprefix(f"{folder}data/"): region for name, region in regions.items()}
    big_endian = data[order.start : order.start + min(order.length, 8)] == b"big"
    return _Contents(content, storages, machine.foreign, big_endian)


def _regions(entries: list[zipfile.ZipInfo], end: int, data: mmap.mmap) -> dict[str, _Region]:
    """Where the records of an archive lie, believed only where they do not overlap."""
    found: dict[str, _Region] = {}
    following = end
    for entry in sorted(entries, key=lambda entry: entry.header_offset, reverse=True):
        name = entry.filename
        if name in found:
            raise _DamagedError(f"its record {name[:100]!r} stands twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise _DamagedError(f"its record {name[:100]!r} is compressed; torch stores them as is")
        head = data[entry.header_offset : entry.header_offset + 30]
        if len(head) != 30 or not head.startswith(_ZIP):
            raise _DamagedError(f"its record {name[:100]!r} is not where it is said to be")
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", head[26:]))
        if start + entry.file_size > following or entry.compress_size != entry.file_size:
            raise _DamagedError(f"its record {name[:100]!r} is not of the size it is said to be")
        found[name] = _Region(start, entry.file_size)
        following = entry.header_offset
    return found


def _legacy(data: mmap.mmap) -> _Contents:
    """A file before torch 1.6: five pickles in a row, then the storages, each behind its length."""
    machine = _Machine(data, _Region(0, len(data)))
    # The second byte is the protocol.
    start = machine.take(len(_LEGACY_START))
    if start[2:] != _LEGACY_START[2:] or machine.run() != _LEGACY_VERSION:
        raise _DamagedError("it does not begin as a torch file does")
    machine.run()  # What system it comes from; the numbers are little-endian on every one.
    content = machine.run()
    types = {storage.key: storage.dtype for storage in reversed(machine.storages)}
    regions = {}
    keys = machine.run()
    for key in keys if isinstance(keys, list) else ():
        dtype = types.get(key) if isinstance(key, str) else None
        if dtype is None or key in regions:
            raise _DamagedError("its list of storages is not that of its tensors")
        (count,) = struct.unpack("<q", machine.take(8))
        regions[key] = machine.skip(count * dtype.itemsize)
    return _Contents(content, regions, machine.foreign)


# The instructions of a pickle

_CONSTANTS: dict[bytes, Any] = {
    pickle.NONE: None,
    pickle.NEWTRUE: True,
    pickle.NEWFALSE: False,
    pickle.EMPTY_TUPLE: (),
}
_NUMBERS = {
    pickle.BININT: struct.Struct("<i"),
    pickle.BININT1: struct.Struct("<B"),
    pickle.BININT2: struct.Struct("<H"),
    pickle.BINFLOAT: struct.Struct(">d"),
}
_PUTS = {pickle.BINPUT: struct.Struct("<B"), pickle.LONG_BINPUT: struct.Struct("<I")}
_GETS = {pickle.BINGET: struct.Struct("<B"), pickle.LONG_BINGET: struct.Struct("<I")}
_TUPLES = {pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}


class _RefusedError(Exception):
    """A name that has no business in a checkpoint."""


@dataclass
class _Machine:
    """What carries out the instructions that torch's own files consist of, without any call."""

    data: mmap.mmap
    region: _Region
    storages: list[_Storage] = field(default_factory=list)
    foreign: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._at = self.region.start
        self._end = self.region.start + self.region.length

    def take(self, count: int) -> bytes:
        """The next bytes."""
        start, self._at = self._at, self._at + count
        if not start <= self._at <= self._end:
            raise _DamagedError("it is cut short")
        return self.data[start : self._at]

    def skip(self, count: int) -> _Region:
        """Where the next bytes lie, which are passed over."""
        start, self._at = self._at, self._at + count
        if not start <= self._at <= self._end:
            raise _DamagedError("it is cut short")
        return _Region(start, count)

    def run(self) -> Any:
        """What the next pickle makes."""
        stack: list[Any] = []
        marks: list[list[Any]] = []
        memo: dict[int, Any] = {}
        while (code := self.take(1)) != pickle.STOP:
            if code in _PUTS:
                memo[self._number(_PUTS[code])] = stack[-1]
            elif code in _GETS:
                number = self._number(_GETS[code])
                if number not in memo:
                    raise _DamagedError("its pickle takes what it never put down")
                stack.append(memo[number])
            elif code == pickle.BINUNICODE:
                (length,) = struct.unpack("<I", self.take(4))
                stack.append(self.take(length).decode("utf-8", "surrogatepass"))
            elif code in _NUMBERS:
                stack.append(self._number(_NUMBERS[code]))
            elif code in _CONSTANTS:
                stack.append(_CONSTANTS[code])
            elif code == pickle.MARK:
                marks.append(stack)
                stack = []
            elif code == pickle.TUPLE:
                items, stack = stack, marks.pop()
                stack.append(tuple(items))
            elif code in _TUPLES:
                if len(stack) < _TUPLES[code]:
                    raise _DamagedError("its pickle takes what it never put down")
                stack[-_TUPLES[code] :] = [tuple(stack[-_TUPLES[code] :])]
            elif code in (pickle.EMPTY_DICT, pickle.EMPTY_LIST):
                stack.append({} if code == pickle.EMPTY_DICT else [])
            elif code == pickle.EMPTY_SET:
                stack.append(_Asked("builtins.set"))
            elif code == pickle.GLOBAL:
                stack.append(self._name())
            elif code in (pickle.REDUCE, pickle.NEWOBJ):
                arguments, called = stack.pop(), stack.pop()
                stack.append(_call(called, arguments))
            elif code == pickle.BINPERSID:
                stack.append(self._storage(stack.pop()))
            elif code == pickle.BUILD:
                stack.pop()  # The state of an object that was never made.
            elif code in (pickle.APPEND, pickle.APPENDS):
                if code == pickle.APPENDS:
                    items, stack = stack, marks.pop()
                else:
                    items = [stack.pop()]
                _extend(stack[-1], items)
            elif code in (pickle.SETITEM, pickle.SETITEMS):
                if code == pickle.SETITEMS:
                    items, stack = stack, marks.pop()
                else:
                    value, key = stack.pop(), stack.pop()
                    items = [key, value]
                _set_items(stack[-1], items)
            elif code == pickle.SHORT_BINSTRING:
                stack.append(self.take(self.take(1)[0]).decode("utf-8", "replace"))
            elif code == pickle.LONG1:
                stack.append(int.from_bytes(self.take(self.take(1)[0]), "little", signed=True))
            elif code == pickle.PROTO:
                self.take(1)
            else:
                raise _DamagedError(f"its pickle holds {code!r}, which torch never writes")
        return stack.pop()

    def _number(self, layout: struct.Struct) -> Any:
        return layout.unpack(self.take(layout.size))[0]

    def _name(self) -> _Name:
        module, name = self._line(), self._line()
        module = _PYTHON_2.get(module, module)
        dotted = f"{module}.{name}"
        if not dotted.isprintable():
            raise _DamagedError("it names a class in characters that no name has")
        if module in _BLOCKED:
            raise _RefusedError(dotted)
        if dotted.split(".")[0] not in _OWN_ROOTS and dotted not in _OWN_NAMES:
            self.foreign.add(dotted)
        return _Name(dotted)

    def _line(self) -> str:
        end = self.data.find(b"\n", self._at, self._end)
        line = self.take(end - self._at)
        self.take(1)
        return line.decode("utf-8")

    def _storage(self, claim: Any) -> _Storage:
        kind, named, key, _location, count, *view = [*claim, None, None, None][: max(5, len(claim))]
        if kind == "module":  # Before 1.6 a whole module stood here, beside its source code.
            raise _RefusedError(_called(named))
        part = view[0][1:] if view and isinstance(view[0], tuple) else ()
        sound = kind == "storage" and isinstance(named, _Name) and isinstance(key, str)
        if not sound or len(part) not in (0, 2) or not _whole((count, *part)):
            raise _DamagedError("its pickle describes a storage as torch never does")
        dtype = _STORED_TYPES.get(named.dotted.rpartition(".")[2])
        self.storages.append(_Storage(key, dtype, count, part or (0, count)))
        return self.storages[-1]


def _extend(target: Any, items: list[Any]) -> None:
    if not isinstance(target, list):
        raise _RefusedError(_called(target))
    target.extend(items)


def _set_items(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict):
        raise _RefusedError(_called(target))
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Only text is looked up; what else there is may be costly to hash.
        plain = key is None or isinstance(key, (str, _Name, _Asked))
        target[key if plain else _Asked(_called(key))] = value


def _called(value: Any) -> str:
    return repr(value) if isinstance(value, (_Asked, _Name)) else type(value).__name__


# The calls that are understood

_REBUILT_FROM_NUMBERS = (
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
)
_WRAPPED = (
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch.nn.parameter.Parameter",
)


def _call(called: Any, arguments: Any) -> Any:
    """What a call would give, where that is a container or a tensor over numbers of the file."""
    if not isinstance(called, _Name) or not isinstance(arguments, tuple):
        raise _RefusedError(_called(called))
    name = called.dotted
    if name == "torch._tensor._rebuild_from_type_v2" and len(arguments) == 4:
        function, _type, arguments, _state = arguments
        # Once only: a tensor with attributes is not made of a tensor with attributes.
        name = function.dotted if isinstance(function, _Name) else ""
    if name == "collections.OrderedDict":
        made: dict[Any, Any] = {}
        for pair in arguments[0] if arguments and isinstance(arguments[0], list) else ():
            _set_items(made, list(pair))
        return made
    if name in _WRAPPED and arguments and isinstance(arguments[0], _Laid):
        return arguments[0]
    if name in _REBUILT_FROM_NUMBERS:
        laid = _laid(arguments)
        if laid is not None:
            return laid
    if re.fullmatch(r"torch\.(_utils\._rebuild_\w+|_tensor\._rebuild_\w+|(\w+\.)?\w*Tensor)", name):
        return _Laid(None, None, 0, _shape_among(arguments), ())
    return _Asked(name, arguments)


def _laid(arguments: tuple[Any, ...]) -> _Laid | None:
    """A tensor over numbers of the file; None where it is of another kind."""
    storage, offset, shape, strides = (*arguments, None, None, None, None)[:4]
    dtype, metadata = getattr(storage, "dtype", None), arguments[6:7]
    if metadata and isinstance(metadata[0], _Name):  # The third version names its type.
        dtype, metadata = _TYPES.get(metadata[0].dotted), arguments[7:8]
    shape = shape.arguments[0] if isinstance(shape, _Asked) and shape.arguments else shape
    sound = (
        isinstance(storage, _Storage)
        and isinstance(shape, tuple)
        and isinstance(strides, tuple)
        and _whole((offset, *shape, *strides))
        and len(shape) == len(strides) <= 64
    )
    if not sound:
        raise _DamagedError("its pickle describes a tensor as torch never does")
    # A tensor that is conjugated or negated when it is read is not what its numbers say.
    return None if dtype is None or any(metadata) else _Laid(storage, dtype, offset, shape, strides)


def _shape_among(arguments: Any) -> tuple[int, ...]:
    """The shape that a tensor of another kind claims: its arguments nest one level at most."""
    for argument in arguments:
        for inner in argument if isinstance(argument, tuple) else (argument,):
            if isinstance(inner, _Asked) and inner.name == "torch.Size" and inner.arguments:
                (argument,) = inner.arguments
        if isinstance(argument, tuple) and argument and _whole(argument):
            return argument
    return ()


def _whole(numbers: Any) -> bool:
    """Whether these are whole numbers that a file could have, 0 or more."""
    return all(type(n) is int and 0 <= n < 1 << 62 for n in numbers)


# The tensors


def _state_dict(content: Any, path: Path) -> Mapping[Any, Any]:
    """The mapping of names to tensors in a loaded file, nested one level at most."""
    if isinstance(content, _Laid):
        raise FamilyError(f"{path} holds a single tensor; expected a checkpoint of named tensors")
    if not isinstance(content, Mapping):
        raise FamilyError(
            f"{path} holds a {_called(content).rpartition('.')[2]!r} object, a whole pickled "
            "module perhaps; expected named tensors: save its state_dict() instead"
        )
    nested = content.get("state_dict")
    if isinstance(nested, Mapping):
        return nested
    if any(isinstance(value, _Laid) for value in content.values()):
        return content
    inner = [v for v in content.values() if isinstance(v, Mapping)
             and any(isinstance(t, _Laid) for t in v.values())]  # fmt: skip
    if len(inner) == 1:
        return inner[0]
    raise FamilyError(
        f"{path} holds no tensors at its top, under 'state_dict', or in one mapping alone; found "
        f"the keys {', '.join(repr(key)[:80] for key in list(content)[:8]) or '(none)'}"
    )


def _tensors(claims: Mapping[Any, Any], contents: _Contents, path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, each laid over the bytes of its storage."""
    whole = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
    storages: dict[tuple[str, torch.dtype], torch.UntypedStorage] = {}
    tensors = {}
    for name, laid in claims.items():
        if not isinstance(name, str) or not isinstance(laid, _Laid):
            continue
        if shown(name) != name:
            raise _DamagedError(f"a tensor has the name {shown(name)}")
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


def _numbers(laid: _Laid, region: _Region) -> tuple[int, int] | None:
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
