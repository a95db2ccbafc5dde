"""Metadata of stored tensors, known without reading them; nothing here needs torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

WIDTHS = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "float8_e4m3fn": 1, "float8_e5m2": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
    "complex64": 8, "complex128": 16,
}  # fmt: skip
"""Types by their names in torch, and their sizes in bytes."""

UNKNOWN = "unknown"
"""The type of a tensor that cannot be read."""

NARROW = ("float8_e4m3fn", "float8_e5m2")
"""Weight types that are widened."""

FLOATS = ("float64", "float32", "float16", "bfloat16")
"""The accepted types of weights."""


def dense_strides(shape: tuple[int, ...]) -> list[int]:
    """The strides of a contiguous tensor, in elements."""
    return [math.prod(max(n, 1) for n in shape[axis + 1 :]) for axis in range(len(shape))]


@dataclass(frozen=True)
class TensorInfo:
    """A stored tensor: its name in the file, shape, type (such as ``float32``) and bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int

    @property
    def parameters(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)
