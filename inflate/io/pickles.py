"""The pickle interpreter: it builds containers; names and calls stay data.

Source: ``torch/_weights_only_unpickler.py`` for the instructions that torch writes.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from inflate.io import claims

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
"""Modules that files refer to by their Python 2 names, in any version of Python."""

_BLOCKED = ("os", "posix", "nt", "sys")
"""Modules that a checkpoint must not refer to."""

_OWN_ROOTS = ("torch", "collections")
_OWN_NAMES = ("_codecs.encode", "builtins.bytearray", "builtins.complex", "builtins.set")
"""Names outside of torch's modules that torch writes into its files."""

# fmt: off
_VALUES = frozenset({
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING",
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
})
# fmt: on
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_INERT = {
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"), "builtins.bytes"),
    "EMPTY_SET": "builtins.set",
    "FROZENSET": "builtins.frozenset",
}
"""Instructions that tensors do not need."""

_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_FROM_MARK = frozenset({"TUPLE", "FROZENSET", "APPENDS", "ADDITEMS", "SETITEMS"})
"""Instructions that consume everything since the last mark."""

_LONGEST_LINE = 4096
"""Bytes that the name of a module or class may contain."""


@dataclass
class PickleInterpreter:
    """Interprets the pickles in a stream of at most ``size`` bytes, without calling anything."""

    stream: BinaryIO
    size: int
    storages: list[claims.Storage] = field(default_factory=list)
    foreign: set[str] = field(default_factory=set)

    def read(self, count: int) -> bytes:
        """The next bytes, for ``pickletools``, which requests as many as the file claims."""
        if count > self.size:  # Check before allocating memory.
            raise claims.DamagedError("it is cut short")
        return self.stream.read(count)

    def readline(self) -> bytes:
        """The next line, cut if it is longer than any name."""
        return self.stream.readline(_LONGEST_LINE)

    def run(self) -> Any:
        """The value of the next pickle."""
        stack: list[Any] = []
        marks: list[list[Any]] = []
        memo: dict[int, Any] = {}
        value: Any
        for instruction, value, _ in pickletools.genops(self):  # type: ignore[arg-type]
            code = instruction.name
            if code in _FROM_MARK:
                items, stack = stack, marks.pop()
            if code in ("BINPUT", "LONG_BINPUT"):
                memo[value] = stack[-1]
            elif code in ("BINGET", "LONG_BINGET"):
                stack.append(memo[value])
            elif code in _VALUES:
                stack.append(value)
            elif code in _CONSTANTS:
                stack.append(_CONSTANTS[code])
            elif code in _INERT:
                stack.append(claims.UnresolvedCall(_INERT[code]))
            elif code == "MARK":
                marks.append(stack)
                stack = []
            elif code == "TUPLE":
                stack.append(tuple(items))
            elif code in _TUPLES:
                if len(stack) < _TUPLES[code]:
                    raise claims.DamagedError("its pickle refers to a value that it never stored")
                stack[-_TUPLES[code] :] = [tuple(stack[-_TUPLES[code] :])]
            elif code == "BINPERSID":
                stack.append(self._storage(stack.pop()))
            elif code in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
                if code == "NEWOBJ_EX":
                    stack.pop()
                arguments, function = stack.pop(), stack.pop()
                stack.append(claims.call(function, arguments))
            elif code == "GLOBAL":
                stack.append(self._name(*value.split(" ", 1)))
            elif code == "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(self._name(module, name))
            elif code in ("EMPTY_DICT", "EMPTY_LIST"):
                stack.append({} if code == "EMPTY_DICT" else [])
            elif code == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif code == "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], claims.UnresolvedCall):
                    stack[-1].state = state
            elif code == "APPEND":
                item = stack.pop()
                claims.extend(stack[-1], [item])
            elif code in ("APPENDS", "ADDITEMS"):
                claims.extend(stack[-1], items)
            elif code == "SETITEM":
                item, key = stack.pop(), stack.pop()
                claims.set_items(stack[-1], [key, item])
            elif code == "SETITEMS":
                claims.set_items(stack[-1], items)
            elif code not in ("PROTO", "FRAME", "STOP"):
                raise claims.DamagedError(f"its pickle holds {code}, which torch never writes")
        return stack.pop()

    def _name(self, module: Any, name: Any) -> claims.Name:
        dotted = f"{_PYTHON_2.get(module, module)}.{name}" if isinstance(module, str) else ""
        if not isinstance(name, str) or not 2 < len(dotted) <= 2 * _LONGEST_LINE:
            raise claims.DamagedError("it refers to a class in a way that torch never does")
        if not dotted.isprintable():
            raise claims.DamagedError("it has a class name with invalid characters")
        root = dotted.split(".")[0]
        if root in _BLOCKED:
            raise claims.RefusedError(dotted)
        if root not in _OWN_ROOTS and dotted not in _OWN_NAMES:
            self.foreign.add(dotted)
        return claims.Name(dotted)

    def _storage(self, claim: Any) -> claims.Storage | claims.Name:
        # Torch of 2017 could add that this is a view of the storage.
        kind, named, key, _location, count, view = [*claim, None, None, None][:6]
        if kind == "module" and isinstance(
            named, claims.Name
        ):  # Before 1.6: a class and its source code.
            return named
        sound = kind == "storage" and isinstance(named, claims.Name) and isinstance(key, str)
        if not sound or view is not None or not claims.are_counts((count,)):
            raise claims.DamagedError("its pickle describes a storage as torch never does")
        dtype = _STORED_TYPES.get(named.dotted.rpartition(".")[2])
        self.storages.append(claims.Storage(key, dtype, count))
        return self.storages[-1]
