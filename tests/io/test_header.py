"""Headers of safetensors files that lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inflate.errors import CheckpointError
from inflate.io.header import LARGEST_HEADER
from inflate.io.reader import open_checkpoint

from .opening import refusal

A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
B = {"dtype": "F16", "shape": [4], "data_offsets": [8, 16]}


def file_of(path: Path, header: bytes | str | dict[str, Any], size: int) -> Path:
    """A file of a header and this many bytes of data."""
    text = json.dumps(header) if isinstance(header, dict) else header
    content = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(size))
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": {**A, **changes}}


@pytest.mark.parametrize(
    ("header", "size", "said"),
    [
        ({"a": A, "b": {**B, "data_offsets": [4, 12]}}, 12, "b begins at byte 4, where 8 was"),
        ({"a": A, "b": {**B, "data_offsets": [12, 20]}}, 20, "b begins at byte 12, where 8 was"),
        ({"b": B}, 16, "b begins at byte 8, where 0 was expected"),
        ({"a": A, "b": A}, 8, "b begins at byte 0, where 8 was expected"),
        (entry(data_offsets=[0, 4]), 4, "a has 4 bytes, and its shape [2] takes 8"),
        (entry(shape=[1 << 40, 1 << 40]), 8, "a has 8 bytes, and its shape"),
        (entry(shape=[-2]), 8, "the entry of a is malformed"),
        (entry(shape=[True, 2]), 8, "the entry of a is malformed"),
        (entry(shape=[2.0]), 8, "the entry of a is malformed"),
        (entry(shape="2"), 8, "the entry of a is malformed"),
        (entry(data_offsets=[0, 8, 8]), 8, "the entry of a is malformed"),
        (entry(dtype=3), 8, "the entry of a is malformed"),
        ({"a": [2]}, 8, "the entry of a is malformed"),
        ({"a": A, "__metadata__": {"seed": 1}}, 8, "its metadata is not a mapping of text to text"),
        ({"a": A, "__metadata__": "x"}, 8, "its metadata is not a mapping of text to text"),
        (f'{{"a":{json.dumps(A)},"a":{json.dumps(A)}}}', 8, "the key 'a' stands twice"),
        ('{"a":{"dtype":"F32","shape":[2],"shape":[2]}}', 8, "the key 'shape' stands twice"),
        ('{"a":{"shape":[NaN]}}', 8, "NaN is not a JSON number"),
        ('{"a":' * 9000, 8, "its header cannot be read: "),
        (b'{"\xff\xff":1}', 8, "its header cannot be read: "),
        ('{"a":1} x', 8, "its header cannot be read: "),
    ],
)
def test_a_header_that_lies_is_refused(header: Any, size: int, said: str, tmp_path: Path) -> None:
    text = refusal(file_of(tmp_path / "a.safetensors", header, size))
    assert text.startswith("FILE is damaged: ")
    assert said in text
    assert text.endswith(". Copy or download it again")


@pytest.mark.parametrize("size", [0, 7])
def test_data_of_another_size_than_the_header_tells_is_refused(size: int, tmp_path: Path) -> None:
    assert refusal(file_of(tmp_path / "a.safetensors", {"a": A}, size)) == (
        f"FILE is cut short: its tensors take 8 bytes, and the file holds {size}. Copy or download "
        "it again"
    )


@pytest.mark.parametrize("dtype", ["F4", "Q4_K"])
def test_an_unknown_type_matters_only_where_it_is_read(dtype: str, tmp_path: Path) -> None:
    odd = {"dtype": dtype, "shape": [3], "data_offsets": [8, 10]}
    with open_checkpoint(file_of(tmp_path / "a.safetensors", {"a": A, "b": odd}, 10)) as checkpoint:
        assert checkpoint.tensors["b"].nbytes == 2
        checkpoint.read("a")
        with pytest.raises(CheckpointError, match=dtype):
            checkpoint.read("b")


def test_a_header_beyond_the_limit_of_the_library_is_refused_as_that(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write((LARGEST_HEADER + 1).to_bytes(8, "little") + b"{")
        file.truncate(LARGEST_HEADER + 9)
    assert "library" in refusal(path)
