"""The instructions of a pickle, interpreted without any call.

A pickle is a program: its instructions make containers, name classes and functions, and call them.
Here containers are made; names and calls stay data that says what was asked for.

Source:
    The instructions that torch writes: ``torch/_weights_only_unpickler.py``.
"""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from inflate.io.claims import (
    DamagedError,
    Name,
    RefusedError,
    Storage,
    UnresolvedCall,
    are_counts,
    call,
    described,
    extend,
    set_items,
)

_STORED_TYPES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}  # fmt: skip

_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Modules that files name as Python 2 did, whatever wrote them."""

_BLOCKED = ("os", "posix", "nt", "sys")
"""Modules whose names have no business in a checkpoint."""

_OWN_ROOTS = ("torch", "collections")
_OWN_NAMES = ("_codecs.encode", "builtins.bytearray", "builtins.complex", "builtins.set")
"""What torch itself writes into its files, apart from the names in its own modules."""

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


_LONGEST_LINE = 4096
"""Bytes that the name of a module or class may have."""


@dataclass
class PickleInterpreter:
    """Interprets the instructions that torch's own files consist of, without any call.

    Args:
        stream: the pickles, one behind the other.
        size: bytes that the stream holds at most.
    """

    stream: BinaryIO
    size: int
    storages: list[Storage] = field(default_factory=list)
    foreign: set[str] = field(default_factory=set)

    def take(self, count: int) -> bytes:
        """The next bytes.

        Raises:
            DamagedError: the stream has fewer.
        """
        # Compared first: room is made for as many bytes as are asked for.
        taken = self.stream.read(count) if count <= self.size else b""
        if len(taken) < count:
            raise DamagedError("it is cut short")
        return taken

    def run(self) -> Any:
        """The value of the next pickle."""
        stack: list[Any] = []
        marks: list[list[Any]] = []
        memo: dict[int, Any] = {}
        while (code := self.take(1)) != pickle.STOP:
            if code in _PUTS:
                memo[self._number(_PUTS[code])] = stack[-1]
            elif code in _GETS:
                number = self._number(_GETS[code])
                if number not in memo:
                    raise DamagedError("its pickle takes what it never put down")
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
                    raise DamagedError("its pickle takes what it never put down")
                stack[-_TUPLES[code] :] = [tuple(stack[-_TUPLES[code] :])]
            elif code in (pickle.EMPTY_DICT, pickle.EMPTY_LIST):
                stack.append({} if code == pickle.EMPTY_DICT else [])
            elif code == pickle.EMPTY_SET:
                stack.append(UnresolvedCall("builtins.set"))
            elif code == pickle.GLOBAL:
                stack.append(self._name())
            elif code in (pickle.REDUCE, pickle.NEWOBJ):
                arguments, function = stack.pop(), stack.pop()
                stack.append(call(function, arguments))
            elif code == pickle.BINPERSID:
                stack.append(self._storage(stack.pop()))
            elif code == pickle.BUILD:
                stack.pop()  # The state of an object that was never made.
            elif code in (pickle.APPEND, pickle.APPENDS):
                if code == pickle.APPENDS:
                    items, stack = stack, marks.pop()
                else:
                    items = [stack.pop()]
                extend(stack[-1], items)
            elif code in (pickle.SETITEM, pickle.SETITEMS):
                if code == pickle.SETITEMS:
                    items, stack = stack, marks.pop()
                else:
                    value, key = stack.pop(), stack.pop()
                    items = [key, value]
                set_items(stack[-1], items)
            elif code == pickle.SHORT_BINSTRING:
                stack.append(self.take(self.take(1)[0]).decode("utf-8", "replace"))
            elif code == pickle.LONG1:
                stack.append(int.from_bytes(self.take(self.take(1)[0]), "little", signed=True))
            elif code == pickle.PROTO:
                self.take(1)
            else:
                raise DamagedError(f"its pickle holds {code!r}, which torch never writes")
        return stack.pop()

    def _number(self, layout: struct.Struct) -> Any:
        return layout.unpack(self.take(layout.size))[0]

    def _name(self) -> Name:
        module, name = self._line(), self._line()
        module = _PYTHON_2.get(module, module)
        dotted = f"{module}.{name}"
        if not dotted.isprintable():
            raise DamagedError("it names a class in characters that no name has")
        if module in _BLOCKED:
            raise RefusedError(dotted)
        if dotted.split(".")[0] not in _OWN_ROOTS and dotted not in _OWN_NAMES:
            self.foreign.add(dotted)
        return Name(dotted)

    def _line(self) -> str:
        line = self.stream.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise DamagedError("it is cut short")
        return line[:-1].decode("utf-8")

    def _storage(self, claim: Any) -> Storage:
        kind, named, key, _location, count, *view = [*claim, None, None, None][: max(5, len(claim))]
        if kind == "module":  # Before 1.6: a whole module, with its source code.
            raise RefusedError(described(named))
        part = view[0][1:] if view and isinstance(view[0], tuple) else ()
        sound = kind == "storage" and isinstance(named, Name) and isinstance(key, str)
        if not sound or len(part) not in (0, 2) or not are_counts((count, *part)):
            raise DamagedError("its pickle describes a storage as torch never does")
        dtype = _STORED_TYPES.get(named.dotted.rpartition(".")[2])
        self.storages.append(Storage(key, dtype, count, part or (0, count)))
        return self.storages[-1]
