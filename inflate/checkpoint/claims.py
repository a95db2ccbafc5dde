"""What the pickle of a torch file claims, as data: nothing here is imported, called or allocated.

Of all the calls that a pickle asks for, those that lay a tensor over numbers of the file are
understood; any other is an inert stand-in.

Source:
    The names and their arguments: ``torch/_utils.py`` and ``torch/_tensor.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

from inflate.checkpoint.index import WIDTHS

_TYPES = {f"torch.{name}": getattr(torch, name) for name in (*WIDTHS, "complex128")}


class DamagedError(ValueError):
    """The bytes are not those of a sound file."""


class RefusedError(Exception):
    """A name that has no business in a checkpoint."""


@dataclass(frozen=True, repr=False)
class Name:
    """A class or function that a file names."""

    dotted: str

    def __repr__(self) -> str:
        return self.dotted


@dataclass(eq=False, repr=False)
class Asked:
    """A call that a file asks for, and that nobody makes."""

    name: str
    arguments: Any = ()

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class Storage:
    """A row of numbers in the file, as a pickle claims it.

    ``view`` is the part of it that is meant, where it begins and how many numbers it has.
    """

    key: str
    dtype: torch.dtype | None
    count: int
    view: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Laid:
    """A tensor as a pickle claims it: laid over a storage, or over none that the file has."""

    storage: Storage | None
    dtype: torch.dtype | None
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Region:
    """Where the bytes of a storage lie."""

    start: int
    length: int


def extend(target: Any, items: list[Any]) -> None:
    """Append to a list; anything else that is appended to is refused."""
    if not isinstance(target, list):
        raise RefusedError(called(target))
    target.extend(items)


def set_items(target: Any, items: list[Any]) -> None:
    """Set the items of a mapping; anything else is refused."""
    if not isinstance(target, dict):
        raise RefusedError(called(target))
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Only text is looked up; what else there is may be costly to hash.
        plain = key is None or isinstance(key, (str, Name, Asked))
        target[key if plain else Asked(called(key))] = value


def called(value: Any) -> str:
    """A value as messages call it."""
    if isinstance(value, (Storage, Laid)):
        return "a tensor"
    return repr(value) if isinstance(value, (Asked, Name)) else type(value).__name__


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


def call(function: Any, arguments: Any) -> Any:
    """What a call would give, where that is a container or a tensor over numbers of the file."""
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise RefusedError(called(function))
    name = function.dotted
    if name == "torch._tensor._rebuild_from_type_v2" and len(arguments) == 4:
        maker, _type, arguments, _state = arguments
        # Once only: a tensor with attributes is not made of a tensor with attributes.
        name = maker.dotted if isinstance(maker, Name) else ""
    if name == "collections.OrderedDict":
        made: dict[Any, Any] = {}
        for pair in arguments[0] if arguments and isinstance(arguments[0], list) else ():
            set_items(made, list(pair))
        return made
    if name in _WRAPPED and arguments and isinstance(arguments[0], Laid):
        return arguments[0]
    if name in _REBUILT_FROM_NUMBERS:
        found = laid(arguments)
        if found is not None:
            return found
    if re.fullmatch(r"torch\.(_utils\._rebuild_\w+|_tensor\._rebuild_\w+|(\w+\.)?\w*Tensor)", name):
        return Laid(None, None, 0, _shape_among(arguments), ())
    return Asked(name, arguments)


def laid(arguments: tuple[Any, ...]) -> Laid | None:
    """A tensor over numbers of the file; None where it is of another kind."""
    storage, offset, shape, strides = (*arguments, None, None, None, None)[:4]
    dtype, metadata = getattr(storage, "dtype", None), arguments[6:7]
    if metadata and isinstance(metadata[0], Name):  # The third version names its type.
        dtype, metadata = _TYPES.get(metadata[0].dotted), arguments[7:8]
    shape = shape.arguments[0] if isinstance(shape, Asked) and shape.arguments else shape
    sound = (
        isinstance(storage, Storage)
        and isinstance(shape, tuple)
        and isinstance(strides, tuple)
        and whole((offset, *shape, *strides))
        and len(shape) == len(strides) <= 64
    )
    if not sound:
        raise DamagedError("its pickle describes a tensor as torch never does")
    # A tensor that is conjugated or negated when it is read is not what its numbers say.
    return None if dtype is None or any(metadata) else Laid(storage, dtype, offset, shape, strides)


def _shape_among(arguments: Any) -> tuple[int, ...]:
    """The shape that a tensor of another kind claims: its arguments nest one level at most."""
    for argument in arguments:
        for inner in argument if isinstance(argument, tuple) else (argument,):
            if isinstance(inner, Asked) and inner.name == "torch.Size" and inner.arguments:
                (argument,) = inner.arguments
        if isinstance(argument, tuple) and argument and whole(argument):
            return argument
    return ()


def whole(numbers: Any) -> bool:
    """Whether these are whole numbers that a file could have, 0 or more."""
    return all(type(n) is int and 0 <= n < 1 << 62 for n in numbers)
