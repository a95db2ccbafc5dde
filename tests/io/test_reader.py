"""Checkpoints of every format, recognised by their content and read on demand."""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from inflate.errors import CheckpointError, FamilyError
from inflate.io.arrays import aligned_zeros
from inflate.io.files import like
from inflate.io.reader import open_checkpoint, same_bytes
from inflate.io.stored import Extent
from inflate.loading import as_tensor

from ..checkpoints import autoencoder, write_lightning, write_safetensors, write_torch
from .opening import assert_same, read_all, refusal

Writer = Callable[[Path, dict[str, Tensor]], Path]
LEGACY = {"_use_new_zipfile_serialization": False}
WRITERS: dict[str, Writer] = {
    "safetensors": write_safetensors,
    "torch": write_torch,
    "torch before 1.6": partial(write_torch, **LEGACY),
    "lightning": write_lightning,
    "lightning before 1.6": partial(write_lightning, **LEGACY),
}
WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(3, dtype=torch.float16)}


# Formats


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_file_is_known_by_its_content_not_its_name(
    writer: Writer, suffix: str, tmp_path: Path
) -> None:
    weights = autoencoder(ch_mult=[1])
    path = writer(tmp_path / f"img{suffix}", weights)
    checkpoint, tensors = read_all(path)
    assert_same(tensors, weights)
    for name, tensor in weights.items():
        info = checkpoint.tensors[name]
        assert (info.name, info.shape, info.dtype, info.nbytes) == (
            name, tuple(tensor.shape), "float32", tensor.nbytes
        )  # fmt: skip


# Reading


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_tensors_are_read_in_the_order_of_their_axes(writer: Writer, tmp_path: Path) -> None:
    square, last = torch.arange(400.0).view(20, 20), torch.channels_last
    tensors = {
        "square": square, "turned": square.T, "none": torch.ones(0), "one": torch.ones(()),
        "weight": torch.arange(72.0).view(2, 4, 3, 3).contiguous(memory_format=last),
        "pixel": torch.arange(8.0).view(2, 4, 1, 1).contiguous(memory_format=last),
        "part": torch.arange(10.0)[::2],
    }  # fmt: skip
    if writer is write_safetensors:
        tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    with open_checkpoint(writer(tmp_path / "a", tensors)) as checkpoint:
        for name, tensor in tensors.items():
            read = as_tensor(checkpoint.read(name))
            assert torch.equal(read, tensor)
            assert read.stride() == torch.empty(tensor.shape).stride()
            for nbytes in (64, 192, 1 << 12):
                found = [part.copy() for part in checkpoint.pieces(name, aligned_zeros(nbytes))]
                assert all(part.nbytes <= nbytes and part.ndim == 1 for part in found)
                assert [value for part in found for value in part] == tensor.flatten().tolist()


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_an_extent_is_where_exactly_the_bytes_of_a_tensor_lie(
    writer: Writer, tmp_path: Path
) -> None:
    whole = torch.arange(12.0).view(3, 4)
    path = writer(tmp_path / "a", {"whole": whole.clone(), **WEIGHTS})
    with open_checkpoint(path) as checkpoint:
        for name in checkpoint.tensors:
            extent = checkpoint.places[name]
            assert extent.file.path == path
            stored = path.read_bytes()[extent.offset : extent.offset + extent.nbytes]
            assert stored == checkpoint.read(name).tobytes()
    if writer is not write_safetensors:
        path = writer(tmp_path / "b", {"part": whole[1:], "turned": whole.T})
        with open_checkpoint(path) as checkpoint:
            part = checkpoint.places["part"]
            assert not isinstance(checkpoint.places["turned"], Extent)
        assert part.nbytes == 32


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("left", [0.0, 0.9])
def test_a_file_cut_short_while_it_is_open_is_an_error(
    writer: Writer, left: float, tmp_path: Path
) -> None:
    path = writer(tmp_path / "img", {**WEIGHTS, "big": torch.ones(1 << 16)})
    # Once more at its end: a file that has changed is never taken as read.
    with (  # noqa: PT012
        pytest.raises(CheckpointError, match=str(path)),
        open_checkpoint(path) as checkpoint,
    ):
        os.truncate(path, int(left * path.stat().st_size))
        with pytest.raises(CheckpointError, match=str(path)):
            checkpoint.read("big")
        with pytest.raises(CheckpointError, match=str(path)):
            list(checkpoint.pieces("big", aligned_zeros(64)))


def test_a_disk_that_refuses_to_read_is_an_error_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    path = write_safetensors(tmp_path / "a.safetensors", WEIGHTS)
    with open_checkpoint(path) as checkpoint:
        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(CheckpointError) as caught:
            checkpoint.read("a.bias")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("shape", [(0, 1 << 61), (1 << 61, 0, 1 << 61)])
def test_nothing_in_a_shape_beyond_any_array_is_refused(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}})
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with open_checkpoint(path) as checkpoint, pytest.raises(CheckpointError):
        checkpoint.read("a")


# Files of other tools


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'{\n "schema": "x"}', "a JSON document"),
        (b"GGUF\x03\x00\x00\x00" + bytes(64), "a GGUF file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file, as Keras writes"),
        (b"\x1c\x00\x00\x00TFL3\x14\x00", "a TensorFlow Lite model"),
        (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0", "an ONNX model"),
        (b"\x08\x0a:\x80\x10\x0a\x10", "an ONNX model"),
        (b"\x08\x01\x12\x80\x10", "a TensorFlow SavedModel"),
        (b"\x82\xa7decoder\x86\xa7conv_in", "a MessagePack file, as Flax writes"),
        (b"\xde\x00\x10\xa7decoder\x86", "a MessagePack file, as Flax writes"),
        (b"\x1f\x8b\x08\x00" + bytes(64), "a packed archive"),
        (bytes(257) + b"ustar\x0000", "a tar archive"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "the pointer of Git LFS"),
    ],
)
def test_files_of_other_tools_are_refused_by_name(
    content: bytes, what: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert refusal(path).startswith(f"FILE is {what}")


def test_torchscript_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    assert "state_dict()" in refusal(path, FamilyError)


# Damage


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_file_cut_short_is_refused(writer: Writer, tmp_path: Path) -> None:
    path = writer(tmp_path / "a.ckpt", WEIGHTS | {"big": torch.ones(1000)})
    content = path.read_bytes()
    for kept in (5, 60, len(content) // 3, len(content) * 2 // 3, len(content) - 1):
        path.write_bytes(content[:kept])
        refusal(path)


@pytest.mark.parametrize(
    ("missing", "near"),
    [("imgs.ckpt", "img.ckpt"), ("img.pt", "img.ckpt"), ("nothere.ckpt", None), ("img.ckpt", None)],
)
def test_a_missing_name_is_like_one_of_the_same_folder_by_its_stem(
    missing: str, near: str | None, tmp_path: Path
) -> None:
    (tmp_path / "img.ckpt").touch()
    (tmp_path / "trained.ckpt").touch()
    found = like(tmp_path / missing)
    assert (near is None) == (found == "")
    assert near is None or repr(near) in found


@pytest.mark.parametrize("changed", [None, 0, 1 << 16, -1])
def test_the_bytes_of_two_files_are_compared_to_the_last(
    changed: int | None, tmp_path: Path
) -> None:
    numbers = torch.arange((1 << 17) + 1.0)  # Three pieces.
    first = write_safetensors(tmp_path / "first.safetensors", {"a": numbers})
    if changed is not None:
        numbers[changed] += 1
    second = write_torch(tmp_path / "second.pt", {"a": numbers})
    with open_checkpoint(first) as one, open_checkpoint(second) as other:
        assert same_bytes(one, "a", other) is (changed is None)
        assert same_bytes(one, "a", numbers.numpy()) is (changed is None)
        assert not same_bytes(one, "a", numbers.double().numpy())
        assert not same_bytes(one, "a", numbers.numpy()[:-1])


@pytest.mark.parametrize("place", [None, 0, 70_000, 65_536, 65_535, 199_999])
def test_zeros_and_what_follows_them_are_read(place: int | None, tmp_path: Path) -> None:
    numbers = torch.zeros(200_000)
    if place is not None:
        numbers[place] = -0.0
    path = write_safetensors(
        tmp_path / "zeros.safetensors", {"before": torch.ones(3), "x": numbers}
    )
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.read("x").tobytes() == numbers.numpy().tobytes()
