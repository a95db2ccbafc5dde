"""The header of a safetensors file, read without torch and believed only where it adds up."""

from __future__ import annotations

import json
import math
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inflate.checkpoint.files import CheckpointFiles, shown
from inflate.checkpoint.index import WIDTHS, TensorInfo
from inflate.errors import CheckpointError

LARGEST_HEADER = 100_000_000
"""Bytes that a header may take, as the safetensors library has it."""

_MOST_AXES, _TOO_LARGE = 64, 1 << 63

STORED_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "C64": "complex64",
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself: its tensors by name, and its metadata."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file, and check that it fits the file.

    Raises:
        CheckpointError: it is cut short, too large, not UTF-8 or JSON, names a key twice, or its
            tensors overlap, leave gaps or lie outside the file, or have names that nobody can read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(size - 8, LARGEST_HEADER):
                raise _lie(
                    path, f"its header claims {length} bytes, and the file has {size}", cut=True
                )
            text = file.read(length).decode("utf-8")
        content = json.loads(text, object_pairs_hook=_no_twice, parse_constant=_no_constant)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _lie(path, f"its header cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise _lie(path, "its header is not a JSON object")
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _lie(path, "its metadata is not a mapping of text to text")
    tensors = {}
    spans = []
    for name, entry in content.items():
        info, start, end = _entry(path, name, entry)
        tensors[name] = info
        spans.append((start, end, name))
    at = 0
    for start, end, name in sorted(spans):
        if start != at:
            raise _lie(path, f"{name} begins at byte {start}, where {at} was expected")
        at = end
    if 8 + length + at != size:
        raise _lie(
            path, f"its tensors take {at} bytes, and the file holds {size - 8 - length}", cut=True
        )
    return Header(tensors, metadata)


def read_index(files: CheckpointFiles) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """The tensors and the metadata of safetensors files, from their headers alone.

    Raises:
        CheckpointError: a header lies, or the shards are not what their index says.
    """
    index: dict[str, TensorInfo] = {}
    metadata: dict[str, str] = {}
    for file in files.weights:
        header = read_header(file)
        metadata.update(header.metadata)
        for name, info in header.tensors.items():
            if not files.shards or files.shards.get(name) == file:
                index[name] = info
    check_shards(files, index)
    return index, metadata


def check_shards(files: CheckpointFiles, found: Container[str]) -> None:
    """See that every tensor that an index names was found in the shard that it names.

    Raises:
        CheckpointError: some were not.
    """
    lost = sorted(name for name in files.shards if name not in found)
    if lost:
        raise CheckpointError(
            f"{files.path} names tensors that its shards lack: {', '.join(map(shown, lost[:5]))}"
            + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        )


def _entry(path: Path, name: str, entry: Any) -> tuple[TensorInfo, int, int]:
    if shown(name) != name:
        raise _lie(path, f"a tensor has the name {shown(name)}")
    fields = entry if isinstance(entry, dict) else {}
    dtype = fields.get("dtype")
    shape, span = _counts(fields.get("shape")), _counts(fields.get("data_offsets"))
    if shape is None or span is None or len(span) != 2 or not isinstance(dtype, str):
        raise _lie(path, f"the entry of {name} is malformed")
    if dtype not in STORED_NAMES:
        raise CheckpointError(
            f"{path}: {name} is stored as {shown(dtype)}, which is not known here; expected one of "
            f"{', '.join(STORED_NAMES)}"
        )
    start, end = span
    known = STORED_NAMES[dtype]
    nbytes = math.prod(shape) * WIDTHS[known]
    if end - start != nbytes:
        raise _lie(path, f"{name} has {end - start} bytes, and its shape {shape} takes {nbytes}")
    return TensorInfo(name, tuple(shape), known, nbytes), start, end


def _counts(value: Any) -> list[int] | None:
    """A list of whole numbers, 0 or more; None for anything else, true and false included.

    None too for more numbers than any tensor has axes, and for numbers larger than any file: what
    they multiply to could take hours to find.
    """
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
            raise ValueError(f"the key {key[:100]!r} stands twice")
        found[key] = value
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


def _lie(path: Path, what: str, *, cut: bool = False) -> CheckpointError:
    kind = "cut short" if cut else "damaged"
    return CheckpointError(f"{path} is {kind}: {what}. Copy or download it again")
