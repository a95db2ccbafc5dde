"""Video checkpoints with other metadata, tensors that moved, and numbers that are none."""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

from .mutating import BYTE_WORDS, TEXTS, as_json, garbled, mutated

Tensors = dict[str, tuple[str, list[int], bytes]]
"""The tensors of a safetensors file: type, shape and bytes by name."""


def spoiled_video(content: bytes, random: Random) -> bytes:
    """A safetensors file after some changes; most of them leave it sound as a file."""
    tensors, metadata = _parsed(content)
    about = random.random()
    if about < 0.5:
        key = random.choice([*metadata, "inflate.config", "inflate.config"])
        if metadata[key][:1] in ("{", "["):
            text = as_json(mutated(json.loads(metadata[key]), random), random)
            metadata[key] = text.decode("utf-8", "replace")
        else:
            metadata = mutated(metadata, random)
    if about > 0.4:
        for _ in range(random.choice((1, 1, 2))):
            _damage(tensors, random)
    content = _written(tensors, metadata, random)
    if random.random() < 0.05:
        end = 8 + int.from_bytes(content[:8], "little")
        content = garbled(content[:end], BYTE_WORDS, random) + content[end:]
    return content


def _parsed(content: bytes) -> tuple[Tensors, Any]:
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        first, last = (start + offset for offset in entry["data_offsets"])
        tensors[name] = entry["dtype"], entry["shape"], content[first:last]
    return tensors, metadata


def _written(tensors: Tensors, metadata: Any, random: Random) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    if random.random() < 0.1:
        header = mutated(header, random)
    text = as_json(header, random)
    return b"".join((struct.pack("<Q", len(text)), text, *(one[2] for one in tensors.values())))


def _damage(tensors: Tensors, random: Random) -> None:
    """Change one tensor so that the file stays sound, or swap two."""
    if len(tensors) < 2:
        return
    # Those that stand alone are few, and each is looked at for itself.
    alone = [name for name in tensors if name.count(".") < 3]
    names = alone if len(alone) > 1 and random.random() < 0.5 else list(tensors)
    name, other = random.sample(names, 2)
    dtype, shape, data = tensors[name]
    kind = random.choice(("drop", "rename", "swap", "numbers", "numbers", "rows", "axes", "type"))
    if kind == "drop":
        del tensors[name]
    elif kind == "rename":
        tensors[random.choice((*TEXTS, f"{name}s", f"model.{name}", name[:-1]))] = tensors.pop(name)
    elif kind == "swap":
        tensors[name], tensors[other] = tensors[other], tensors[name]
    elif kind == "numbers":  # NaN, infinity, large, tiny, 0, noise; in all of it or at its end
        bits = random.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\1\0\0\0",
                              b"\0\0\0\0", random.randbytes(4)))  # fmt: skip
        count = random.choice((1, len(data) // 4))
        tensors[name] = dtype, shape, data[: len(data) - 4 * count] + bits * count
    elif kind == "rows" and shape:
        rows = random.choice((0, 1, shape[0] + 1, shape[0] * 2))
        row = len(data) // max(shape[0], 1)
        tensors[name] = dtype, [rows, *shape[1:]], (data + bytes(row * rows))[: row * rows]
    elif kind == "axes":
        count = len(data) // 4
        tensors[name] = dtype, random.choice(([count], [1, *shape], [*shape, 1], shape[::-1])), data
    else:
        tensors[name] = random.choice(("I32", "F16", "BF16", "BOOL", "F8_E4M3")), shape, data
        width = {"I32": 4, "F16": 2, "BF16": 2}.get(tensors[name][0], 1)
        tensors[name] = tensors[name][0], shape, data[: len(data) // 4 * width]
