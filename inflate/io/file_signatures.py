"""Files that are often mistaken for checkpoints: their first bytes, and what to do with each.

Source:
    The first bytes that each format prescribes; for those without any (protocol buffers,
    MessagePack), how the files of these tools begin.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

FIRST_BYTES = 512
"""How much of a file is looked at."""


def header_length(head: bytes, size: int) -> int | None:
    """The bytes of the header that a file of safetensors begins with; None for other files.

    Args:
        head: the first bytes of the file, 9 or more.
        size: the bytes of the whole file.
    """
    length = int.from_bytes(head[:8], "little")
    return length if head[8:9] == b"{" and 0 < length <= size - 8 else None


_EXPORTED = "an export for inference; expected the checkpoint that it was made from"
_CONVERTED = "weights of another framework; convert them to safetensors with the tool they are from"
_PACKED = "unpack it first, and give the checkpoint inside"

_MAGIC = {
    b"GGUF": ("a GGUF file", "quantised for inference; expected the checkpoint it was made from"),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file, as Keras writes", _CONVERTED),
    b"\x93NUMPY": ("a NumPy array", "expected a checkpoint of named tensors"),
    b"\x1f\x8b": ("a gzip archive", _PACKED),
    b"BZh": ("a bzip2 archive", _PACKED),
    b"\xfd7zXZ": ("an xz archive", _PACKED),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", _PACKED),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _PACKED),
    b"Rar!": ("a RAR archive", _PACKED),
    b"version https://git-lfs": (
        "the pointer of Git LFS to a file, not the file",
        "fetch the file itself with git lfs pull",
    ),
    b"\x7fELF": ("a program", "check the name"),
    b"%PDF": ("a PDF", "check the name"),
    b"\x89PNG": ("a picture", "check the name"),
    b"\xff\xd8\xff": ("a picture", "check the name"),
}
DISTRIBUTED = (
    "a part of a distributed checkpoint of torch",
    "save the whole with torch.distributed.checkpoint.format_utils.dcp_to_torch_save",
)
_PAGES = (b"<!doctype html", b"<html")


def known_as(head: bytes) -> tuple[str, str] | None:
    """What a file is that begins so, and what to do; None where that is not known.

    Args:
        head: its first :data:`FIRST_BYTES`.
    """
    for magic, known in _MAGIC.items():
        if head.startswith(magic):
            return known
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model", _EXPORTED
    if head.startswith(b"PK\x03\x04") and _first_entry(head).endswith(b".npy"):
        return "a NumPy archive (.npz)", _CONVERTED
    if head[257:262] == b"ustar":
        return "a tar archive", _PACKED
    if head.lstrip().lower().startswith(_PAGES):
        return "a web page", "the download was answered with a page, perhaps to log in; try again"
    if _is_saved_model(head):
        return "a TensorFlow SavedModel", _EXPORTED
    if _is_onnx(head):
        return "an ONNX model", _EXPORTED
    if _is_msgpack(head):
        return "a MessagePack file, as Flax writes", _CONVERTED
    return None


def known_folder(path: Path) -> str | None:
    """The kind of a folder that training tools write, and what to do; None for any other."""
    if any(path.glob("*.distcp")) or any(path.glob("*/*.distcp")):
        return f"a folder with a distributed checkpoint of torch; {DISTRIBUTED[1]}"
    with suppress(OSError, UnicodeDecodeError):
        step = (path / "latest").read_text(encoding="utf-8")[:100].strip()
        weights = f"{step}/mp_rank_00_model_states.pt"
        if step.isprintable() and (path / weights).is_file():
            return f"a folder of DeepSpeed or SAT; give the file of its weights, {weights}"
        return "a folder of DeepSpeed or SAT; give the file of its weights, *_model_states.pt"
    return None


def _first_entry(head: bytes) -> bytes:
    """The name of the first file in a zip archive."""
    return head[30 : 30 + int.from_bytes(head[26:28], "little")]


def _is_saved_model(head: bytes) -> bool:
    # The schema version, which is 1 still, then a graph.
    return head[:3] == b"\x08\x01\x12"


def _is_onnx(head: bytes) -> bool:
    """Whether a protocol buffer begins as ONNX's: a small version, then who wrote it, or a graph.

    The writer is text, unlike the second field of other models that begin with a version.
    """
    if len(head) < 4 or head[0] != 0x08 or not 1 < head[1] < 32:
        return False
    return head[2] == 0x3A or (head[2] == 0x12 and head[4 : 4 + min(head[3], 4)].isalpha())


def _is_msgpack(head: bytes) -> bool:
    """Whether it is a map of MessagePack whose first key is text."""
    if head[:1] == b"\xde":
        start = 3
    elif head[:1] and 0x81 <= head[0] <= 0x8F:
        start = 1
    else:
        return False
    length = (head[start : start + 1] or b"\0")[0] - 0xA0
    key = head[start + 1 : start + 1 + length]
    return 1 <= length <= 31 and len(key) == length and key.decode("latin-1").isidentifier()
