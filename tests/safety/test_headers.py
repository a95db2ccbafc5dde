"""False headers of safetensors files, indices of shards and configurations."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from ..checkpoints import autoencoder, write_safetensors
from .refusals import read, refused
from .serving import MIB, Server

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
TEXT = json.dumps({"a": F32})
ESCAPES = "\x1b[2J\nerror: x"
NESTED = "[" * 50_000


def raw(header: bytes | str, data: int = 8, length: int | None = None) -> bytes:
    """A file of a header, the length that it claims, and this many bytes of data."""
    content = header if isinstance(header, bytes) else header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(content) if length is None else length) + content + bytes(data)


def entries(data: int = 8, **tensors: Any) -> bytes:
    """A file of these entries."""
    return raw(json.dumps(tensors), data)


def one(**changes: Any) -> bytes:
    """A file of one entry, changed."""
    return entries(a={**F32, **changes})


def second(start: int, end: int, data: int, shape: int = 2) -> bytes:
    """A file of two entries; this is where the second one lies."""
    return entries(data, a=F32, b={**F32, "shape": [shape], "data_offsets": [start, end]})


LIES: list[bytes] = [
    # Tensors that overlap, leave gaps or lie outside
    second(0, 8, 8), second(4, 12, 12), second(12, 20, 20), second(8, 16, 8),
    second((1 << 64) - 8, 1 << 64, 16), second(99, 99, 8, shape=0),
    *(one(data_offsets=offsets) for offsets in (
        [4, 12], [8, 0], [-8, 0], [0, 8, 8], ["0", "8"], [0.0, 8.0], [False, True])),
    # Shapes and types that do not fit
    *(one(shape=shape) for shape in (
        [3], [1 << 40, 1 << 40], [10**400], [2] + [1] * 1_000_000, [0, *[1 << 62] * 60], [-2, -1],
        [2.0], 2)),
    *(one(dtype=dtype) for dtype in ("F64", ["F32"], ESCAPES, "F" * 100_000)),
    entries(a={"dtype": "F32", "shape": [2]}), entries(a={"shape": [2], "data_offsets": [0, 8]}),
    entries(a=[F32]), entries(a=None),
    # Lengths of the header and of the data
    raw("", 0, 0), raw(" " * 64), raw(TEXT, 7), raw(TEXT, 9), raw('{"__metadata__":{}}', 8),
    *(raw(TEXT, length=length) for length in (
        1 << 29, 100_000_001, (1 << 64) - 1, len(TEXT) - 1, len(TEXT) + 1)),
    # Text
    *map(raw, (
        b'{"\xff\xfe":1}', TEXT.encode("utf-16"), b"\xef\xbb\xbf" + TEXT.encode(), b'{"\xc3',
        f'{{"\\ud800":{json.dumps(F32)}}}', TEXT + "{}", "{/**/}", "[]", '{"a":' * 20_000,
        '{"a":{"dtype":"F32","shape":[' + "9" * 5000 + "]}}",
        '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,Infinity]}}')),
    # Names and keys
    *(raw(text.replace("F32", json.dumps(F32))) for text in (
        '{"a":F32,"a":F32}', '{"a":F32,"\\u0061":F32}', '{"a\\nerror: b":F32}',
        '{"%s":F32}' % ("x" * 5000), '{"__metadata__":{"x":"1","x":"2"},"a":F32}')),
    raw(TEXT.replace('"dtype"', '"data_offsets":[0,8],"dtype"')),
    raw('{"%s":1,"%s":1}' % (("x" * 10_000,) * 2)),
    *(entries(a=F32, __metadata__=metadata) for metadata in ("x", {"x": 1}, {"x": {}})),
]  # fmt: skip


def test_a_false_header_is_refused(pair: tuple[Path, ...], tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for number, content in enumerate(LIES):
        path.write_bytes(content)
        assert read(path) is None, content[:200]
        words = (("convert", path), ("convert", path, "--dry-run", "--json"),
                 ("verify", pair[0], path), ("inspect", path))[number % 4]  # fmt: skip
        assert str(path) in refused(tmp_path, *words)


def test_a_sound_header_is_read(tmp_path: Path) -> None:
    for content in (raw(TEXT), second(8, 16, 16), second(8, 8, 8, shape=0),
                    raw('{"__metadata__":{},' + TEXT[1:]), raw(TEXT + " " * 50)):  # fmt: skip
        (tmp_path / "a").write_bytes(content)
        assert (read(tmp_path / "a") or {})["a"] == [0.0, 0.0]


def test_no_header_takes_more_memory_than_it_has_bytes(tmp_path: Path, server: Server) -> None:
    contents = [raw(TEXT, length=99_000_000), raw('{"a":' + "[" * 900_000 + "]" * 900_000 + "}"),
                one(shape=[1 << 62] * 200_000), raw("[" + "{}," * 300_000 + "{}]")]  # fmt: skip
    paths = [tmp_path / f"{i}.safetensors" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    # A file of holes has the bytes of the header that it claims.
    paths.append(tmp_path / "holes.safetensors")
    with paths[-1].open("wb") as file:
        file.write(struct.pack("<Q", 99_000_000) + b"{")
        file.truncate(1 << 40)
    for path, answer in zip(paths, server.open(paths, 1024 * MIB), strict=True):
        assert (answer["error"] or "opened").startswith(str(path)), answer
        assert answer["peak"] < 16 * MIB + 50 * min(path.stat().st_size, 100_000_000) // 10


def dumped(content: Any) -> bytes:
    """A document as JSON; texts stay as they are."""
    text = content if isinstance(content, str) else json.dumps(content)
    return text.encode("utf-8", "surrogatepass")


BROKEN = ["", "{", "[]", "\ud800", NESTED]
SHARDS = ["../one.safetensors", "/etc/passwd", ".", "", "three.safetensors", "x" * 300, ESCAPES,
          "one\0.safetensors", "a.safetensors.index.json", "\ud800",
          ["one.safetensors"]]  # fmt: skip
INDICES: list[Any] = [
    *BROKEN, '{"weight_map":' + "9" * 5000 + "}", {"metadata": {}},
    *({"weight_map": shards} for shards in (
        {}, ["one.safetensors"], *({"one": shard} for shard in SHARDS), {"one": "two.safetensors"},
        {ESCAPES: "one.safetensors"}, {ESCAPES: []}, {str(i): f"{i}.bin" for i in range(1000)})),
]  # fmt: skip


def test_a_false_index_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors.index.json"
    for name in ("one", "two"):
        (tmp_path / f"{name}.safetensors").write_bytes(entries(8, **{name: F32}))
    path.write_bytes(dumped({"weight_map": {"one": "one.safetensors"}}))
    assert read(path) is not None
    for content in INDICES:
        path.write_bytes(dumped(content))
        assert str(path) in refused(tmp_path, "convert", path)
        assert read(path) is None
    path.write_bytes(dumped({"weight_map": {"one": "one.safetensors"}}))
    (tmp_path / "one.safetensors").write_bytes(one(shape=[3]))
    refused(tmp_path, "convert", path)


CONFIGS: list[Any] = [
    "{", NESTED, '{"_class_name":' + "9" * 5000 + "}", {"_class_name": ["AutoencoderKL"]},
    {"_class_name": ESCAPES}, *({"_class_name": "AutoencoderKL", **more} for more in (
        {"norm_num_groups": 16}, {"norm_num_groups": None}, {"scaling_factor": [1]},
        {"scaling_factor": 10**400})),
]  # fmt: skip
OURS = [
    "{", "[]", json.dumps({ESCAPES: 1}), json.dumps({"dtype": ESCAPES}), '{"seed":"many"}',
    '{"architecture":{"ch":1e308}}', '{"architecture":' * 50_000, '{"seed":' + "9" * 5000 + "}",
]  # fmt: skip


def test_a_false_configuration_is_refused(tmp_path: Path) -> None:
    weights = autoencoder(ch_mult=[1])
    write_safetensors(tmp_path / "diffusion_pytorch_model.safetensors", weights)
    for content in CONFIGS:
        (tmp_path / "config.json").write_bytes(dumped(content))
        refused(tmp_path, "convert", tmp_path, "--dry-run")
    for content in OURS:
        path = write_safetensors(tmp_path / "a.safetensors", weights, {"inflate.config": content})
        refused(tmp_path, "convert", path, "--dry-run")


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors", "a.safetensors.index.json"])
def test_pipes_devices_loops_and_names_too_long_are_refused(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    assert read(tmp_path / name) is None
    for target in ("loop", "/dev/zero", "nowhere"):
        link = tmp_path / f"{target[-4:]}.{name}"
        link.symlink_to(link.name if target == "loop" else target)
        assert read(link) is None
        assert str(link) in refused(tmp_path, "convert", link)
    for long in ("x" * 290, "x" * 200 + "x/" * 5000):
        refused(tmp_path, "convert", tmp_path / (long + name))
