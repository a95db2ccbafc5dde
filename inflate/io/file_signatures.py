"""Files that are often mistaken for checkpoints: their first bytes, and what to do with each."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

FIRST_BYTES = 512
"""How many bytes of a file are examined."""

_EXPORTED = "an export for inference; expected the checkpoint that was exported"
_CONVERTED = "weights of another framework; convert them to safetensors with the tool they are from"
_PACKED = "unpack it first, and give the checkpoint inside"
DISTRIBUTED = (
    "a part of a distributed checkpoint of torch",
    "save the whole with torch.distributed.checkpoint.format_utils.dcp_to_torch_save",
)

_BEGINNINGS = (
    (rb"GGUF", "a GGUF file", f"quantised, {_EXPORTED}"),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes", _CONVERTED),
    (rb"\x93NUMPY", "a NumPy array", "expected a checkpoint of named tensors"),
    # The name of the first file in the archive.
    (rb"PK\x03\x04.{26}[^/]{1,80}?\.npy", "a NumPy archive (.npz)", _CONVERTED),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!", "a packed archive", _PACKED),
    (rb".{257}ustar", "a tar archive", _PACKED),
    (
        rb"version https://git-lfs",
        "the pointer of Git LFS to a file, not the file",
        "fetch the file itself with git lfs pull",
    ),
    (
        rb"\s*<(?i:!doctype html|html)",
        "a web page",
        "expected a checkpoint; some servers answer a download with a login page",
    ),
    (
        rb"\s*[{\[]\s*[\"{\[\d\]}]",
        "a JSON document",
        "expected a checkpoint. 'inflate report' prints a stored report",
    ),
    (rb".{4}TFL3", "a TensorFlow Lite model", _EXPORTED),
    # The schema version, which is still 1, then a graph.
    (rb"\x08\x01\x12", "a TensorFlow SavedModel", _EXPORTED),
    # A small version number, then the name of the producer or a graph.
    (rb"\x08[\x02-\x1f](:|\x12.[A-Za-z])", "an ONNX model", _EXPORTED),
    # A map whose first key is text.
    (
        rb"([\x81-\x8f]|\xde..)[\xa1-\xbf][A-Za-z_]",
        "a MessagePack file, as Flax writes",
        _CONVERTED,
    ),
)


def header_length(head: bytes, size: int) -> int | None:
    """The bytes of the header of a safetensors file; None for other files.

    ``head`` is the first bytes, 9 or more, of a file of ``size`` bytes.
    """
    length = int.from_bytes(head[:8], "little")
    return length if head[8:9] == b"{" and 0 < length <= size - 8 else None


def known_as(head: bytes) -> tuple[str, str] | None:
    """What a file with these first bytes is, and what to do; None if unknown."""
    for beginning, what, advice in _BEGINNINGS:
        if re.match(beginning, head, re.DOTALL):
            return what, advice
    return None


def known_folder(path: Path) -> str | None:
    """The kind of a folder that training tools write, and what to do; None for any other."""
    if any(path.glob("*.distcp")) or any(path.glob("*/*.distcp")):
        return f"a folder with a distributed checkpoint of torch; {DISTRIBUTED[1]}"
    with suppress(OSError, UnicodeDecodeError):
        step = (path / "latest").read_text(encoding="utf-8")[:100].strip()
        weights = f"{step}/mp_rank_00_model_states.pt"
        found = step.isprintable() and (path / weights).is_file()
        weights = weights if found else "*_model_states.pt"
        return f"a folder of DeepSpeed or SAT; give the file of its weights, {weights}"
    return None
