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

STORAGE_TYPES = {dtype: name for name, dtype in reversed(_STORED_TYPES.items())}
"""The storage of each type."""

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
_TEXTS = {
    pickle.SHORT_BINUNICODE: struct.Struct("<B"),
    pickle.BINUNICODE: struct.Struct("<I"),
    pickle.BINUNICODE8: struct.Struct("<Q"),
    pickle.SHORT_BINSTRING: struct.Struct("<B"),
}
_BYTES = {
    pickle.SHORT_BINBYTES: struct.Struct("<B"),
    pickle.BINBYTES: struct.Struct("<I"),
    pickle.BINBYTES8: struct.Struct("<Q"),
    pickle.BYTEARRAY8: struct.Struct("<Q"),
}
_LONGS = {pickle.LONG1: struct.Struct("<B"), pickle.LONG4: struct.Struct("<I")}
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
            elif code == pickle.MEMOIZE:
                memo[len(memo)] = stack[-1]
            elif code in _GETS:
                number = self._number(_GETS[code])
                if number not in memo:
                    raise DamagedError("its pickle takes what it never put down")
                stack.append(memo[number])
            elif code in _TEXTS:
                text = self.take(self._number(_TEXTS[code]))
                stack.append(text.decode("utf-8", "surrogatepass"))
            elif code in _BYTES:
                self.take(self._number(_BYTES[code]))
                stack.append(UnresolvedCall("builtins.bytes"))  # No tensor needs them.
            elif code in _LONGS:
                number = self.take(self._number(_LONGS[code]))
                stack.append(int.from_bytes(number, "little", signed=True))
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
            elif code == pickle.FROZENSET:
                stack = marks.pop()
                stack.append(UnresolvedCall("builtins.frozenset"))
            elif code == pickle.GLOBAL:
                stack.append(self._name(self._line(), self._line()))
            elif code == pickle.STACK_GLOBAL:
                name, module = stack.pop(), stack.pop()
                stack.append(self._name(module, name))
            elif code in (pickle.REDUCE, pickle.NEWOBJ):
                arguments, function = stack.pop(), stack.pop()
                stack.append(call(function, arguments))
            elif code == pickle.NEWOBJ_EX:
                _named, arguments, function = stack.pop(), stack.pop(), stack.pop()
                stack.append(call(function, arguments))
            elif code == pickle.BINPERSID:
                stack.append(self._storage(stack.pop()))
            elif code == pickle.BUILD:
                state = stack.pop()
                if isinstance(stack[-1], UnresolvedCall):
                    stack[-1].state = state
            elif code in (pickle.APPEND, pickle.APPENDS, pickle.ADDITEMS):
                if code == pickle.APPEND:
                    items = [stack.pop()]
                else:
                    items, stack = stack, marks.pop()
                extend(stack[-1], items)
            elif code in (pickle.SETITEM, pickle.SETITEMS):
                if code == pickle.SETITEMS:
                    items, stack = stack, marks.pop()
                else:
                    value, key = stack.pop(), stack.pop()
                    items = [key, value]
                set_items(stack[-1], items)
            elif code in (pickle.PROTO, pickle.FRAME):
                self.take(1 if code == pickle.PROTO else 8)
            else:
                raise DamagedError(f"its pickle holds {code!r}, which torch never writes")
        return stack.pop()

    def _number(self, layout: struct.Struct) -> Any:
        return layout.unpack(self.take(layout.size))[0]

    def _name(self, module: Any, name: Any) -> Name:
        dotted = f"{_PYTHON_2.get(module, module)}.{name}" if isinstance(module, str) else ""
        if not isinstance(name, str) or not 2 < len(dotted) <= 2 * _LONGEST_LINE:
            raise DamagedError("it names a class in a way that torch never does")
        if not dotted.isprintable():
            raise DamagedError("it names a class in characters that no name has")
        if dotted.split(".")[0] in _BLOCKED:
            raise RefusedError(dotted)
        if dotted.split(".")[0] not in _OWN_ROOTS and dotted not in _OWN_NAMES:
            self.foreign.add(dotted)
        return Name(dotted)

    def _line(self) -> str:
        line = self.stream.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise DamagedError("it is cut short")
        return line[:-1].decode("utf-8")

    def _storage(self, claim: Any) -> Storage | Name:
        kind, named, key, _location, count, *view = [*claim, None, None, None][: max(5, len(claim))]
        if kind == "module" and isinstance(named, Name):  # Before 1.6: a class and its source code.
            return named
        part = view[0][1:] if view and isinstance(view[0], tuple) else ()
        sound = kind == "storage" and isinstance(named, Name) and isinstance(key, str)
        if not sound or len(part) not in (0, 2) or not are_counts((count, *part)):
            raise DamagedError("its pickle describes a storage as torch never does")
        dtype = _STORED_TYPES.get(named.dotted.rpartition(".")[2])
        self.storages.append(Storage(key, dtype, count, part or (0, count)))
        return self.storages[-1]
