"""Files of tensors, written in parts."""

from __future__ import annotations

import errno
import json
import os
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from inflate.io.writer import SafetensorsWriter

from .opening import assert_same, index_of, read_all, write_all

TENSORS = {
    "wide": torch.arange(3, dtype=torch.float64), "decoder.conv": torch.arange(6.0).view(1, 2, 3),
    "empty": torch.ones(0, 4), "scalar": torch.tensor(2.5),
    "half": torch.arange(3, dtype=torch.float16), "brain": torch.arange(5, dtype=torch.bfloat16),
}  # fmt: skip


def write(path: Path, tensors: dict[str, Tensor] = TENSORS, **metadata: str) -> Path:
    """A file of these tensors."""
    with path.open("xb") as file:
        write_all(file, tensors, metadata)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "img.video.safetensors"


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.sampled_from(["float64", "float32", "float16", "bfloat16"]),
                       st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, 32]), max_size=3)), max_size=6),
    st.text(max_size=40),
)  # fmt: skip
def test_the_library_reads_tensors_that_are_aligned_as_far_as_their_sizes_allow(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[str, list[int]]], note: str
) -> None:
    tensors = {
        f"{i}.{note}": torch.full(shape, float(i), dtype=getattr(torch, dtype))
        for i, (dtype, shape) in enumerate(kinds)
    }
    out = tmp_path_factory.mktemp("aligned") / "a.safetensors"
    write(out, tensors, note=note)
    assert_same(load_file(out), tensors)
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {"note": note}
    content = out.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    for name, tensor in tensors.items():
        start, end = header[name]["data_offsets"]
        assert end - start == tensor.nbytes
        power = next(p for p in (64, 32, 16, 8, 4, 2) if tensor.nbytes % p == 0)
        assert (8 + size + start) % power == 0


def test_bytes_that_are_taken_a_few_at_a_time_are_all_written(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, content, at: real(fd, content[:5], at))
    assert_same(load_file(write(out)), TENSORS)


@pytest.mark.parametrize("refused", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_disk_that_reserves_no_room_will_do(
    refused: int, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(refused, "not here")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    assert_same(load_file(write(out)), TENSORS)


@pytest.mark.skipif(sys.platform != "linux", reason="room is reserved on Linux alone")
def test_a_disk_without_the_room_is_found_out_before_the_first_tensor(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with out.open("xb") as file, pytest.raises(OSError, match="No space left"):
        SafetensorsWriter(file, index_of(TENSORS), {})
    assert out.stat().st_size == 0


# The metadata, after the check


def test_the_metadata_is_replaced_in_place(out: Path) -> None:
    with out.open("xb") as file:
        writer = write_all(file, TENSORS, {"verdict": "unverified"})
        size = out.stat().st_size
        writer.set_metadata({"verdict": "bitwise", "device": "x" * 100})
        writer.set_metadata({"verdict": "bitwise"})
    assert out.stat().st_size == size
    assert_same(load_file(out), TENSORS)
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {"verdict": "bitwise"}


# Torch files


@pytest.mark.parametrize("limit", [zipfile.ZIP64_LIMIT, 8], ids=["small", "as over 4 GB"])
def test_torch_reads_what_is_written(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "video.pt"
    tensors = {name: tensor for name, tensor in TENSORS.items() if tensor.ndim}
    with monkeypatch.context() as patch, out.open("x+b") as file:
        patch.setattr(zipfile, "ZIP64_LIMIT", limit)
        writer = write_all(file, tensors, {"verdict": "unverified" * 9}, "torch")
        writer.set_metadata({"verdict": "bitwise"})
    assert all(writer.position(name) % 64 == 0 for name in tensors)
    loaded = torch.load(out, weights_only=True, mmap=True)
    assert loaded["inflate"] == {"verdict": "bitwise"}
    assert_same(loaded["state_dict"], tensors)
    assert_same(read_all(out)[1], tensors)
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
