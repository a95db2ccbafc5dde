"""The content of a torch file's pickle as data: nothing is imported, called or allocated.

Source: ``torch/_utils.py`` and ``torch/_tensor.py`` for names and their arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inflate.io.index import WIDTHS


class DamagedError(ValueError):
    """The file is damaged."""


class RefusedError(Exception):
    """The file refers to something that could run code."""


@dataclass(frozen=True, repr=False)
class Name:
    """A class or function that a file refers to."""

    dotted: str

    def __repr__(self) -> str:
        return self.dotted


@dataclass(eq=False, repr=False, slots=True)
class UnresolvedCall:
    """A call that a file requests. It is never made; this object replaces its result.

    ``items`` are the items that the file sets on a mapping; ``state`` is the state of an object.
    """

    name: str
    arguments: Any = ()
    items: dict[Any, Any] | None = None
    state: Any = None

    def __repr__(self) -> str:
        return self.name

    @property
    def is_module(self) -> bool:
        """Whether it replaces a whole pickled module."""
        return isinstance(self.state, dict) and "_modules" in self.state


@dataclass(frozen=True, eq=False)
class Storage:
    """A storage in the file, as the pickle describes it; ``dtype`` is None if unknown."""

    key: str
    dtype: str | None
    count: int


@dataclass(frozen=True, eq=False)
class TensorRef:
    """A tensor as the pickle describes it: a view of a storage.

    If ``storage`` is None, the tensor is of another kind and only its shape is known.
    """

    storage: Storage | None
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def extend(target: Any, items: list[Any]) -> None:
    """Append to a list; an unresolved call ignores the values."""
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, UnresolvedCall):
        raise DamagedError(f"its pickle appends to {described(target)}")


def set_items(target: Any, items: list[Any]) -> None:
    """Set the items of a mapping, or of an unresolved call in its place."""
    if isinstance(target, UnresolvedCall):
        if target.items is None:
            target.items = {}
        target = target.items
    if not isinstance(target, dict):
        raise DamagedError(f"its pickle sets items of {described(target)}")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Only strings are looked up; anything else may be costly to hash.
        plain = key is None or isinstance(key, (str, Name, UnresolvedCall))
        target[key if plain else UnresolvedCall(described(key))] = value


def items_of(value: Any) -> Mapping[Any, Any] | None:
    """The items of a mapping or of an unresolved call in its place; None for anything else."""
    if isinstance(value, UnresolvedCall):
        return value.items
    return value if isinstance(value, dict) else None


def described(value: Any) -> str:
    """A description of a value for messages."""
    if isinstance(value, (Storage, TensorRef)):
        return "a tensor"
    return repr(value) if isinstance(value, (UnresolvedCall, Name)) else type(value).__name__


_OVER_STORAGE = re.compile(r"torch\._utils\._rebuild_tensor(_v[23])?")
_WRAPPED = re.compile(r"torch\.(_utils\._rebuild_parameter(_with_state)?|nn\.parameter\.Parameter)")
_OF_ANOTHER_KIND = re.compile(
    r"torch\.(_utils\._rebuild_\w+|_tensor\._rebuild_\w+|(\w+\.)?\w*Tensor)"
)


def call(function: Any, arguments: Any) -> Any:
    """The result of a call if it is a container or a tensor; else the unresolved call."""
    if not isinstance(function, (Name, UnresolvedCall)) or not isinstance(arguments, tuple):
        raise DamagedError(f"its pickle calls {described(function)}")
    name = repr(function)
    if isinstance(function, UnresolvedCall):
        return UnresolvedCall(name, arguments)
    if name == "torch._tensor._rebuild_from_type_v2" and len(arguments) == 4:
        maker, _type, arguments, _state = arguments
        # Unwrap once: torch does not nest tensors with attributes.
        name = maker.dotted if isinstance(maker, Name) else ""
    if name == "collections.OrderedDict":
        made: dict[Any, Any] = {}
        for pair in arguments[0] if arguments and isinstance(arguments[0], list) else ():
            set_items(made, list(pair))
        return made
    if _WRAPPED.fullmatch(name) and arguments and isinstance(arguments[0], TensorRef):
        return arguments[0]
    found = _tensor_ref(arguments) if _OVER_STORAGE.fullmatch(name) else None
    if found is None and _OF_ANOTHER_KIND.fullmatch(name):
        return TensorRef(None, "", 0, _shape_among(arguments), ())
    return UnresolvedCall(name, arguments) if found is None else found


def _tensor_ref(arguments: tuple[Any, ...]) -> TensorRef | None:
    """A tensor over a storage of the file; None if it is of another kind."""
    storage, offset, shape, strides = (*arguments, None, None, None, None)[:4]
    dtype, metadata = getattr(storage, "dtype", None), arguments[6:7]
    if metadata and isinstance(metadata[0], Name):  # Version 3 also names the dtype.
        kind = metadata[0].dotted.removeprefix("torch.")
        dtype, metadata = kind if kind in WIDTHS else None, arguments[7:8]
    if isinstance(shape, UnresolvedCall) and shape.arguments:
        shape = shape.arguments[0]
    sound = (
        isinstance(storage, Storage)
        and isinstance(shape, tuple)
        and isinstance(strides, tuple)
        and are_counts((offset, *shape, *strides))
        and len(shape) == len(strides) <= 64
    )
    if not sound:
        raise DamagedError("its pickle describes a tensor as torch never does")
    # A tensor with a conjugate or negative bit differs from its stored numbers.
    if dtype is None or storage.dtype is None or any(metadata):
        return None
    return TensorRef(storage, dtype, offset, shape, strides)


def _shape_among(arguments: Any) -> tuple[int, ...]:
    """The shape of a tensor of another kind, found at most one level deep in its arguments."""
    for argument in arguments:
        for inner in argument if isinstance(argument, tuple) else (argument,):
            if isinstance(inner, UnresolvedCall) and inner.name == "torch.Size" and inner.arguments:
                (argument,) = inner.arguments
        if isinstance(argument, tuple) and argument and are_counts(argument):
            return argument
    return ()


def are_counts(numbers: Any) -> bool:
    """Whether these are non-negative integers of a size that a file could have."""
    return all(type(n) is int and 0 <= n < 1 << 62 for n in numbers)
