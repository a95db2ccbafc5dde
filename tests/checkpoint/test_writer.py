"""Safetensors files, written tensor by tensor."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from inflate.checkpoint.writer import SafetensorsWriter

from .opening import assert_same, index_of

TENSORS = {
    "wide": torch.arange(3, dtype=torch.float64),
    "decoder.conv": torch.arange(6.0).view(1, 2, 3),
    "empty": torch.ones(0, 4),
    "scalar": torch.tensor(2.5),
    "half": torch.arange(3, dtype=torch.float16),
    "brain": torch.arange(5, dtype=torch.bfloat16),
}


def write(path: Path, tensors: dict[str, Tensor] = TENSORS, **metadata: str) -> Path:
    """A file of these tensors."""
    with path.open("xb") as file:
        SafetensorsWriter(file).write(index_of(tensors), iter(tensors.values()), metadata)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "img.video.safetensors"


def test_the_library_reads_what_is_written(out: Path) -> None:
    write(out, format="pt", note="größer")
    assert_same(load_file(out), TENSORS)
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "note": "größer"}
        assert set(file.keys()) == set(TENSORS)


def test_tensors_of_any_layout_are_written_as_they_are(out: Path) -> None:
    square = torch.arange(16.0).view(4, 4)
    tensors = {
        "transposed": square.T,
        "part": square[1:, ::2],
        "parameter": torch.nn.Parameter(square.clone()),
        "expanded": torch.ones(1).expand(3),
        "channels": torch.arange(72.0).view(2, 4, 3, 3).to(memory_format=torch.channels_last),
    }
    write(out, tensors)
    assert_same(load_file(out), {k: v.detach().contiguous() for k, v in tensors.items()})


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.sampled_from(["float64", "float32", "float16", "bfloat16"]),
                       st.lists(st.integers(0, 3), max_size=3)), max_size=6),
    st.text(max_size=40),
)  # fmt: skip
def test_wider_types_first_leave_every_tensor_aligned(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[str, list[int]]], note: str
) -> None:
    tensors = {
        f"{i}.{note}": torch.full(shape, float(i), dtype=getattr(torch, dtype))
        for i, (dtype, shape) in enumerate(kinds)
    }
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))
    out = tmp_path_factory.mktemp("aligned") / "a.safetensors"
    write(out, tensors, note=note)
    assert_same(load_file(out), tensors)
    content = out.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    for name, tensor in tensors.items():
        start, end = header[name]["data_offsets"]
        assert end - start == tensor.nbytes
        assert (8 + size + start) % tensor.element_size() == 0


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    one, two = (tmp_path / name for name in ("one", "two"))
    write(one, b="2", a="1")
    write(two, a="1", b="2")
    assert one.read_bytes() == two.read_bytes()


def test_tensors_are_taken_one_at_a_time(out: Path) -> None:
    sizes = []

    with out.open("xb") as file:

        def tensors() -> Iterator[Tensor]:
            for _ in range(3):
                sizes.append(file.tell())
                yield torch.ones(1000)

        index = index_of({name: torch.ones(1000) for name in "abc"})
        SafetensorsWriter(file).write(index, tensors(), {})
    assert [size - sizes[0] for size in sizes] == [0, 4000, 8000]


@pytest.mark.parametrize("count", [-1, 1])
def test_more_or_fewer_tensors_than_promised_is_a_bug(count: int, out: Path) -> None:
    tensors = list(TENSORS.values())
    given_ = tensors[:count] if count < 0 else [*tensors, torch.ones(1)]
    with out.open("xb") as file, pytest.raises(ValueError, match="zip"):
        SafetensorsWriter(file).write(index_of(TENSORS), given_, {})


@pytest.mark.parametrize("wrong", [torch.ones(2), torch.ones(3, 1), torch.ones(3).half()])
def test_another_tensor_than_promised_is_a_bug(wrong: Tensor, out: Path) -> None:
    with out.open("xb") as file, pytest.raises(AssertionError, match="weight"):
        SafetensorsWriter(file).write(index_of({"weight": torch.ones(3)}), [wrong], {})


ROOM = 4 << 20


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0])
@pytest.mark.parametrize("last", [False, True])
def test_one_number_throughout_is_written_as_any_other(value: float, last: bool, out: Path) -> None:
    tensors = {"a": torch.tensor(value).expand(3, ROOM // 12), "b": torch.ones(2)}
    if last:
        tensors = dict(reversed(tensors.items()))
    write(out, tensors)
    assert_same(load_file(out), {key: tensor.contiguous() for key, tensor in tensors.items()})
    assert torch.equal(torch.signbit(load_file(out)["a"]), torch.signbit(tensors["a"]))


@pytest.mark.parametrize("refused", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_disk_that_reserves_no_room_will_do(
    refused: int, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(refused, "not here")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    blank = torch.zeros(()).expand(1000)
    write(out, {"a": torch.ones(3), "blank": blank})
    assert_same(load_file(out), {"a": torch.ones(3), "blank": torch.zeros(1000)})


@pytest.mark.skipif(sys.platform != "linux", reason="room is reserved on Linux alone")
def test_a_disk_without_the_room_is_told_before_the_first_tensor(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with out.open("xb") as file, pytest.raises(OSError, match="No space left"):
        SafetensorsWriter(file).write(index_of(TENSORS), iter(()), {})
    assert out.stat().st_size == 0


def told_of(out: Path, tensors: dict[str, Tensor]) -> list[int]:
    """Up to where a follower is told, beyond the header, that a file is written; it always is."""
    whole = write(out.with_name("whole"), tensors).read_bytes()
    told = []

    def reached(offset: int) -> None:
        assert out.read_bytes()[:offset] == whole[:offset]
        told.append(offset)

    with out.open("xb") as file:
        writer = SafetensorsWriter(file)
        writer.write(index_of(tensors), iter(tensors.values()), {}, reached)
        assert writer.header({}) == whole[: told[0]]
    assert told == sorted(told)
    assert told[-1] == len(whole)
    return [offset - told[0] for offset in told]


def test_who_follows_is_told_how_far_the_file_is_written(out: Path) -> None:
    nbytes = sum(info.nbytes for info in index_of(TENSORS))
    assert told_of(out, TENSORS) == [0, nbytes]


def test_who_follows_is_told_of_small_tensors_together(out: Path) -> None:
    tensors = {name: torch.full((150_000,), float(i)) for i, name in enumerate("abcde")}
    assert told_of(out, tensors) == [0, 1_200_000, 2_400_000, 3_000_000]


# The metadata, after the check


def test_the_metadata_is_replaced_in_place(out: Path) -> None:
    with out.open("xb") as file:
        writer = SafetensorsWriter(file)
        writer.write(index_of(TENSORS), iter(TENSORS.values()), {"verdict": "unverified"})
        size = out.stat().st_size
        writer.set_metadata({"verdict": "bitwise", "device": "x" * 100})
        writer.set_metadata({"verdict": "bitwise"})
    assert out.stat().st_size == size
    assert_same(load_file(out), TENSORS)
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {"verdict": "bitwise"}


def test_metadata_beyond_the_room_left_for_it_is_a_bug(out: Path) -> None:
    with out.open("xb") as file:
        writer = SafetensorsWriter(file)
        writer.write(index_of(TENSORS), iter(TENSORS.values()), {})
        with pytest.raises(AssertionError, match="outgrew"):
            writer.set_metadata({"verdict": "x" * 4000})


def test_what_is_written_can_be_read_before_the_file_is_closed(out: Path) -> None:
    with out.open("xb") as file:
        SafetensorsWriter(file).write(index_of(TENSORS), iter(TENSORS.values()), {})
        assert_same(load_file(out), TENSORS)
