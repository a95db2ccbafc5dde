"""The header of a safetensors file, checked against the size of the file."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from inflate.errors import CheckpointError
from inflate.io.folder import shown
from inflate.io.index import WIDTHS, TensorInfo
from inflate.io.stored import Contents, Extent, SourceFile

LARGEST_HEADER = 100_000_000
"""The largest header in bytes; the same limit as in the safetensors library."""

_MOST_AXES, _TOO_LARGE = 64, 1 << 63

STORED_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "C64": "complex64",
}  # fmt: skip


def read_header(file: SourceFile) -> Contents:
    """Read the header of a safetensors file and check that it matches the file.

    Raises:
        CheckpointError: it is malformed, or its tensors overlap, leave gaps or exceed the file.
    """
    path, size = file.path, file.size
    length = int.from_bytes(file.read(8, 0), "little")
    if length > size - 8:
        raise _lie(path, f"its header claims {length} bytes, and the file has {size}", cut=True)
    if length > LARGEST_HEADER:
        raise _lie(path, f"its header of {length} bytes is longer than the library reads")
    try:
        text = file.read(length, 8).decode("utf-8")
        content = json.loads(text, object_pairs_hook=_no_twice)
    except (ValueError, RecursionError) as error:
        raise _lie(path, f"its header cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise _lie(path, "its header is not a JSON object")
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _lie(path, "its metadata is not a mapping of text to text")
    found = Contents(metadata=metadata)
    spans = []
    for name, entry in content.items():
        info, start = _entry(path, name, entry)
        found.tensors[name] = info
        found.places[name] = Extent(file, 8 + length + start, info.nbytes)
        spans.append((start, start + info.nbytes, name))
    at = 0
    for start, end, name in sorted(spans):
        if start != at:
            raise _lie(path, f"{name} begins at byte {start}, where {at} was expected")
        at = end
    held = size - 8 - length
    if at > held:
        raise _lie(path, f"its tensors take {at} bytes, and the file holds {held}", cut=True)
    if at < held:
        raise _lie(path, f"it has {held - at} bytes after the last tensor")
    return found


def _entry(path: Path, name: str, entry: Any) -> tuple[TensorInfo, int]:
    """A tensor, and its offset after the header."""
    if shown(name) != name:
        raise _lie(path, f"a tensor has the name {shown(name)}")
    fields = entry if isinstance(entry, dict) else {}
    dtype: Any = fields.get("dtype")
    shape, span = _counts(fields.get("shape")), _counts(fields.get("data_offsets"))
    named = isinstance(dtype, str) and re.fullmatch(r"[A-Z0-9_]{1,20}", dtype)
    if shape is None or span is None or len(span) != 2 or not named:
        raise _lie(path, f"the entry of {name} is malformed")
    start, end = span
    nbytes = end - start
    known = STORED_NAMES.get(dtype)  # Other types are accepted for tensors outside the autoencoder.
    takes = max(nbytes, 0) if known is None else math.prod(shape) * WIDTHS[known]
    if nbytes != takes:
        raise _lie(path, f"{name} has {nbytes} bytes, and its shape {shape} takes {takes}")
    return TensorInfo(name, tuple(shape), known or dtype, nbytes), start


def _counts(value: Any) -> list[int] | None:
    """A list of integers that is valid for a tensor; None for anything else."""
    if (
        isinstance(value, list)
        and len(value) <= _MOST_AXES
        and all(type(v) is int and 0 <= v < _TOO_LARGE for v in value)
    ):
        return value
    return None


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:100]!r} appears twice")
        found[key] = value
    return found


def _lie(path: Path, what: str, *, cut: bool = False) -> CheckpointError:
    kind = "cut short" if cut else "damaged"
    return CheckpointError(f"{path} is {kind}: {what}. Copy or download it again")
