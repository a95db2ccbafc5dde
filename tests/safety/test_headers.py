"""Headers of safetensors files, indices and configurations that lie, each by every way in."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from inflate.errors import CheckpointError
from inflate.io.header import read_header
from inflate.io.reader import open_checkpoint
from inflate.io.stored import SourceFile

from ..checkpoints import autoencoder, write_safetensors
from .refusals import refused, said_of
from .serving import MIB, Server

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def raw(header: bytes | str, data: int = 8, length: int | None = None) -> bytes:
    """A file of a header, of what it claims its length to be, and of this many bytes of data."""
    content = header if isinstance(header, bytes) else header.encode("utf-8", "surrogatepass")
    claimed = len(content) if length is None else length
    return struct.pack("<Q", claimed) + content + bytes(data)


def entries(data: int = 8, **tensors: Any) -> bytes:
    """A file of these entries."""
    return raw(json.dumps(tensors), data)


def one(**changes: Any) -> bytes:
    """A file of one entry, changed."""
    return entries(a={**F32, **changes})


def second(start: int, end: int, data: int, shape: int = 2) -> bytes:
    """A file of two entries, the second of which lies here."""
    return entries(data, a=F32, b={**F32, "shape": [shape], "data_offsets": [start, end]})


TEXT = json.dumps({"a": F32})

LIES: dict[str, bytes] = {
    # Tensors that overlap, leave gaps or lie outside
    "the same bytes twice": second(0, 8, 8),
    "an overlap": second(4, 12, 12),
    "an overlap inside": entries(
        16, a={**F32, "shape": [4], "data_offsets": [0, 16]},
        b={**F32, "data_offsets": [4, 12]},
    ),
    "a gap": second(12, 20, 20),
    "a gap before": one(data_offsets=[4, 12]),
    "out of range": second(8, 16, 8),
    "far out of range": second(1 << 40, (1 << 40) + 8, 16),
    "beyond all numbers": second((1 << 64) - 8, 1 << 64, 16),
    "backwards": one(data_offsets=[8, 0]),
    "before the file": one(data_offsets=[-8, 0]),
    "of nothing, in the middle": entries(8, a=F32, b={**F32, "shape": [0], "data_offsets": [4, 4]}),
    "of nothing, outside": entries(8, a=F32, b={**F32, "shape": [0], "data_offsets": [99, 99]}),
    "one offset": one(data_offsets=[0]),
    "three offsets": one(data_offsets=[0, 8, 8]),
    "offsets that are text": one(data_offsets=["0", "8"]),
    "offsets with a fraction": one(data_offsets=[0.0, 8.0]),
    "offsets that are true": one(data_offsets=[False, True]),
    "no offsets": entries(a={"dtype": "F32", "shape": [2]}),
    # Shapes and types that do not fit
    "a shape too large": one(shape=[3]),
    "a shape too small": one(shape=[1]),
    "a huge shape": one(shape=[1 << 40, 1 << 40]),
    "a shape that wraps around": one(shape=[(1 << 62) + 2]),
    "a shape beyond all numbers": one(shape=[10**400]),
    "numbers too long to read": raw('{"a":{"dtype":"F32","shape":[' + "9" * 5000 + "]}}"),
    "a million axes": one(shape=[2] + [1] * 1_000_000),
    "a million huge axes": one(shape=[(1 << 62)] * 100_000),
    "axes of nothing and of all": one(shape=[0, *[1 << 62] * 60], data_offsets=[0, 8]),
    "a negative shape": one(shape=[-2, -1]),
    "a shape with a fraction": one(shape=[2.0]),
    "a shape that is no list": one(shape=2),
    "another type": one(dtype="F64"),
    "a type that is no text": one(dtype=["F32"]),
    "a type to frighten a terminal": one(dtype="\x1b[2J\nerror: "),
    "a type without end": one(dtype="F" * 100_000),
    "no type": entries(a={"shape": [2], "data_offsets": [0, 8]}),
    "an entry that is no object": entries(a=[F32]),
    "an entry that is nothing": entries(a=None),
    # Lengths of the header and of the data
    "no header": raw("", 0, 0),
    "an empty header of spaces": raw(" " * 64),
    "a header of half a gigabyte": raw(TEXT, length=1 << 29),
    "a header of 100 MB and one byte": raw(TEXT, length=100_000_001),
    "a header larger than all": raw(TEXT, length=(1 << 64) - 1),
    "a header that wraps around": raw(TEXT, length=(1 << 64) - 8),
    "a header one byte short": raw(TEXT, length=len(TEXT) - 1),
    "a header one byte long": raw(TEXT, length=len(TEXT) + 1),
    "a header into the data": raw(TEXT, length=len(TEXT) + 8),
    "data too short": raw(TEXT, 7),
    "data too long": raw(TEXT, 9),
    "no data": raw(TEXT, 0),
    "data that nobody claims": raw('{"__metadata__":{}}', 8),
    # Text
    "not UTF-8": raw(b'{"\xff\xfe":1}'),
    "UTF-16": raw(TEXT.encode("utf-16")),
    "a byte order mark": raw(b"\xef\xbb\xbf" + TEXT.encode()),
    "half a letter": raw(b'{"\xc3'),
    "a surrogate": raw('{"\\ud800":' + json.dumps(F32) + "}"),
    "a surrogate as it is": raw('{"\ud800":' + json.dumps(F32) + "}"),
    "no JSON": raw("{"),
    "JSON, and more": raw(TEXT + "{}"),
    "JSON with a comment": raw("{/**/}"),
    "NaN": raw('{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'),
    "Infinity": raw('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,Infinity]}}'),
    "a list": raw("{}".replace("{}", "[]")),
    "nested without end": raw('{"a":' * 20_000),
    "nested lists without end": raw('{"a":' + "[" * 50_000),
    "a name twice": raw('{"a":%s,"a":%s}' % ((json.dumps(F32),) * 2)),
    "a name twice, once escaped": raw('{"a":%s,"\\u0061":%s}' % ((json.dumps(F32),) * 2)),
    "an offset twice": raw(TEXT.replace('"dtype"', '"data_offsets":[0,8],"dtype"')),
    "metadata twice": raw('{"__metadata__":{},"__metadata__":{},' + TEXT[1:]),
    "a key of the metadata twice": raw('{"__metadata__":{"x":"1","x":"2"},' + TEXT[1:]),
    "a long name twice": raw('{"%s":1,"%s":1}' % (("x" * 10_000,) * 2)),
    "a name to frighten a terminal": raw('{"\\u001b[2J":' + json.dumps(F32) + "}"),
    "a name of two lines": raw('{"a\\nerror: b":' + json.dumps(F32) + "}"),
    "a name without end": raw(json.dumps({"x" * 5000: F32})),
    "metadata that is no object": entries(a=F32, __metadata__="x"),
    "metadata of numbers": entries(a=F32, __metadata__={"x": 1}),
    "metadata of objects": entries(a=F32, __metadata__={"x": {}}),
}  # fmt: skip


@pytest.fixture
def lying(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file that lies."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(LIES[request.param])
    return path


every_lie = pytest.mark.parametrize("lying", LIES, indirect=True)


@every_lie
def test_the_header_alone_is_refused(lying: Path) -> None:
    with closing(SourceFile(lying)) as file, pytest.raises(CheckpointError) as caught:
        read_header(file)
    assert str(caught.value).startswith(str(lying))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000


@every_lie
def test_the_file_is_refused(lying: Path) -> None:
    assert said_of(lying) is not None


@every_lie
def test_every_command_refuses_it(lying: Path, videos: dict[str, Path], tmp_path: Path) -> None:
    for arguments in (
        ("convert", lying),
        ("convert", lying, "--dry-run", "--json"),
        ("verify", videos["all"], lying),
        ("inspect", lying),
        ("inspect", lying, "--json"),
    ):
        assert str(lying) in refused(tmp_path, *arguments)


def test_the_sound_file_that_they_are_made_of_is_read(tmp_path: Path) -> None:
    for name, content in {
        "a": raw(TEXT),
        "b": second(8, 16, 16),
        "c": entries(8, a=F32, b={**F32, "shape": [0], "data_offsets": [8, 8]}),
        "d": raw('{"__metadata__":{},' + TEXT[1:]),
        "e": raw(TEXT + " " * 50),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert said_of(tmp_path / name) is None, name
        with open_checkpoint(tmp_path / name) as checkpoint:
            assert checkpoint.read("a").tolist() == [0.0, 0.0]


def test_no_header_takes_more_memory_than_it_has_bytes(tmp_path: Path, server: Server) -> None:
    contents = [raw(TEXT, length=99_000_000), raw('{"a":' + "[" * 900_000 + "]" * 900_000 + "}")]
    contents += [one(shape=[1 << 62] * 200_000), raw("[" + "{}," * 300_000 + "{}]")]
    paths = [tmp_path / f"{i}.safetensors" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    # A file of holes: it claims a header that it has, of nothing.
    paths.append(tmp_path / "holes.safetensors")
    with paths[-1].open("wb") as file:
        file.write(struct.pack("<Q", 99_000_000) + b"{")
        file.truncate(1 << 40)
    answers = server.open(paths, memory=1024 * MIB)
    for path, answer in zip(paths, answers, strict=True):
        assert (answer["said"] or "opened").startswith(str(path)), answer
        assert answer["peak"] < 16 * MIB + 50 * min(path.stat().st_size, 100_000_000) // 10
        assert answer["seconds"] < 20.0


# Indices of shards, and folders of diffusers


def index(path: Path, content: Any) -> Path:
    """An index of shards beside two sound ones."""
    for name in ("one", "two"):
        (path.parent / f"{name}.safetensors").write_bytes(entries(8, **{name: F32}))
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


INDICES: dict[str, Any] = {
    "no JSON": "{",
    "no object": "[]",
    "nothing": "",
    "not UTF-8": "\ud800",
    "nested without end": "[" * 50_000,
    "a number too long": '{"weight_map":' + "9" * 5000 + "}",
    "no map": {"metadata": {}},
    "an empty map": {"weight_map": {}},
    "a map of lists": {"weight_map": {"one": ["one.safetensors"]}},
    "a map that is a list": {"weight_map": ["one.safetensors"]},
    "a shard above": {"weight_map": {"one": "../one.safetensors"}},
    "a shard by an absolute path": {"weight_map": {"one": "/etc/passwd"}},
    "a shard below": {"weight_map": {"one": "sub/one.safetensors"}},
    "a shard that is a folder": {"weight_map": {"one": "."}},
    "a shard without a name": {"weight_map": {"one": ""}},
    "a shard that is missing": {"weight_map": {"one": "three.safetensors"}},
    "a shard with a long name": {"weight_map": {"one": "x" * 300}},
    "a shard with nothing in its name": {"weight_map": {"one": "one\0.safetensors"}},
    "a shard to frighten a terminal": {"weight_map": {"one": "\x1b[2J\nerror: x"}},
    "a shard with a surrogate": '{"weight_map":{"one":"\\ud800"}}',
    "a thousand shards that are missing": {
        "weight_map": {str(i): f"{i}.safetensors" for i in range(1000)}
    },
    "a shard that is no safetensors": {"weight_map": {"one": "a.safetensors.index.json"}},
    "a tensor that its shard lacks": {"weight_map": {"one": "two.safetensors"}},
    "a tensor that nobody has": {"weight_map": {"three": "one.safetensors"}},
    "a tensor to frighten a terminal": {"weight_map": {"\x1b[2J\nerror: x": "one.safetensors"}},
    "a tensor of that name in a list": {"weight_map": {"\x1b[2J\nerror: x": []}},
}


@pytest.mark.parametrize("case", INDICES)
def test_an_index_that_lies_is_refused(case: str, tmp_path: Path) -> None:
    path = index(tmp_path / "a.safetensors.index.json", INDICES[case])
    assert said_of(path) is not None
    said = refused(tmp_path, "convert", path)
    assert str(path) in said
    assert len(said) < 2000


def test_a_shard_that_lies_is_refused(tmp_path: Path) -> None:
    path = index(tmp_path / "a.safetensors.index.json", {"weight_map": {"one": "one.safetensors"}})
    assert said_of(path) is None
    (tmp_path / "one.safetensors").write_bytes(one(shape=[3]))
    refused(tmp_path, "convert", path)


KL = {"_class_name": "AutoencoderKL"}
CONFIGS: dict[str, Any] = {
    "no JSON": "{",
    "nothing": "",
    "no object": "[]",
    "nested without end": "[" * 50_000,
    "a number too long": '{"_class_name":' + "9" * 5000 + "}",
    "no class": {},
    "another class": {"_class_name": "Exec"},
    "a class that is a list": {"_class_name": ["AutoencoderKL"]},
    "a class to frighten a terminal": {"_class_name": "\x1b[2J\nerror: x"},
    "a class without end": {"_class_name": "x" * 5000},
    "other groups": {**KL, "norm_num_groups": 16},
    "groups to frighten a terminal": {**KL, "norm_num_groups": "\x1b[2J\nerror: x"},
    "groups of nothing": {**KL, "norm_num_groups": None},
    "a factor that is text": {**KL, "scaling_factor": "large"},
    "a factor to frighten a terminal": {**KL, "scaling_factor": "\x1b[2J\nerror: x"},
    "a factor that is a list": {**KL, "scaling_factor": [1]},
    "a factor that is an object": {**KL, "scaling_factor": {"x": 1}},
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration_that_lies_is_refused(case: str, tmp_path: Path) -> None:
    folder = tmp_path / "vae"
    folder.mkdir()
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", autoencoder(ch_mult=[1]))
    content = CONFIGS[case]
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "config.json").write_text(text)
    refused(tmp_path, "convert", folder, "--dry-run")


OURS: dict[str, str] = {
    "no JSON": "{",
    "no object": "[]",
    "nothing": "",
    "an unknown key": '{"evil":1}',
    "a key to frighten a terminal": '{"\\u001b[2J\\nerror: x":1}',
    "a value to frighten a terminal": '{"dtype":"\\u001b[2J\\nerror: x"}',
    "a number of text": '{"seed":"many"}',
    "an architecture of another file": '{"architecture":{"ch":99}}',
    "an architecture without end": '{"architecture":{"ch":1e308}}',
    "nested without end": '{"architecture":' * 50_000,
    "a number too long": '{"seed":' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("case", OURS)
def test_a_header_of_ours_that_lies_is_refused(case: str, tmp_path: Path) -> None:
    weights = autoencoder(ch_mult=[1])
    path = write_safetensors(tmp_path / "a.safetensors", weights, {"inflate.config": OURS[case]})
    refused(tmp_path, "convert", path, "--dry-run")


# Files that are none


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors", "a.safetensors.index.json"])
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    assert said_of(tmp_path / name) is not None


def test_a_device_is_refused() -> None:
    assert said_of(Path("/dev/zero")) is not None


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: folder / ("x" * 300),
        lambda folder: folder / ("x" * 200) / ("x/" * 5000),
        lambda folder: folder / ("x" * 290 + ".safetensors.index.json"),
    ],
)
def test_a_path_too_long_is_refused(make: Callable[[Path], Path], tmp_path: Path) -> None:
    code_and_words = refused(tmp_path, "convert", make(tmp_path))
    assert "name too long" in code_and_words.lower()


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").symlink_to("a.ckpt")
    assert "cannot be read" in (said_of(tmp_path / "a.ckpt") or "")
