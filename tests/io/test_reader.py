"""Checkpoints of every format, recognised by their content and read when asked."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import subprocess
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import inflate
from inflate.errors import CheckpointError, FamilyError
from inflate.io.arrays import aligned_empty
from inflate.io.files import hash_file
from inflate.io.reader import open_checkpoint
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


def raw_safetensors(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


# Formats


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors", ".bin", ""])
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


@pytest.mark.parametrize("spare", range(0, 520, 8))
def test_a_header_of_any_length_is_one_of_safetensors(spare: int, tmp_path: Path) -> None:
    # Among them those of 128 and 384 bytes, which begin as a pickle does.
    path = write_safetensors(tmp_path / "a", {"a": torch.ones(2)}, {"spare": "x" * spare})
    assert_same(read_all(path)[1], {"a": torch.ones(2)})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64,
                                   torch.int8, torch.bool])  # fmt: skip
@pytest.mark.parametrize("writer", [write_safetensors, write_torch])
def test_types_are_named_as_torch_names_them(
    writer: Writer, dtype: torch.dtype, tmp_path: Path
) -> None:
    tensor = torch.tensor([[0, 1], [1, 1]]).to(dtype)
    checkpoint, tensors = read_all(writer(tmp_path / "a", {"a": tensor}))
    assert f"torch.{checkpoint.tensors['a'].dtype}" == str(dtype)
    assert checkpoint.tensors["a"].nbytes == tensor.nbytes
    assert_same(tensors, {"a": tensor})


def test_metadata_is_that_of_safetensors(tmp_path: Path) -> None:
    written = {"format": "pt", "note": "größer"}
    with open_checkpoint(write_safetensors(tmp_path / "a", WEIGHTS, written)) as checkpoint:
        assert checkpoint.metadata == written
    with open_checkpoint(write_safetensors(tmp_path / "b", WEIGHTS)) as checkpoint:
        assert checkpoint.metadata == {}
    with open_checkpoint(write_torch(tmp_path / "c", WEIGHTS)) as checkpoint:
        assert checkpoint.metadata == {}


# Reading


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("shift", range(1, 8))
def test_what_is_read_is_aligned_wherever_it_lies(
    writer: Writer, shift: int, tmp_path: Path
) -> None:
    tensors = {"before": torch.ones(shift, dtype=torch.int8), **WEIGHTS, "n" * shift: torch.ones(9)}
    with open_checkpoint(writer(tmp_path / "a", tensors)) as checkpoint:
        for name, tensor in tensors.items():
            array = checkpoint.read(name)
            assert array.ctypes.data % 64 == 0
            assert array.flags.c_contiguous
            assert torch.equal(as_tensor(array), tensor)


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_pieces_are_the_numbers_in_their_order(writer: Writer, tmp_path: Path) -> None:
    square = torch.arange(400.0).view(20, 20)
    tensors = {"square": square, "turned": square.T, "none": torch.ones(0), "one": torch.ones(())}
    if writer is write_safetensors:
        tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    with open_checkpoint(writer(tmp_path / "a", tensors)) as checkpoint:
        for name, tensor in tensors.items():
            for nbytes in (64, 192, 1 << 12):
                found = [part.copy() for part in checkpoint.pieces(name, aligned_empty(nbytes))]
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
            extent = checkpoint.extent(name)
            assert extent is not None
            assert extent.file.path == path
            stored = path.read_bytes()[extent.offset : extent.offset + extent.nbytes]
            assert stored == checkpoint.read(name).tobytes()
    if writer is not write_safetensors:
        path = writer(tmp_path / "b", {"part": whole[1:], "turned": whole.T, "row": whole[0, :3]})
        with open_checkpoint(path) as checkpoint:
            extents = {name: checkpoint.extent(name) for name in checkpoint.tensors}
        assert extents["turned"] is None
        part, row = extents["part"], extents["row"]
        assert part is not None
        assert row is not None
        assert (part.offset - row.offset, part.nbytes, row.nbytes) == (16, 32, 12)


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("left", [0.0, 0.5, 0.9])
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
            list(checkpoint.pieces("big", aligned_empty(64)))


def test_a_file_that_is_replaced_while_it_is_open_is_read_to_its_end(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "a", WEIGHTS)
    with (  # noqa: PT012
        pytest.raises(CheckpointError, match=str(path)),
        open_checkpoint(path) as checkpoint,
    ):
        write_safetensors(tmp_path / "b", {"other": torch.zeros(1)}).rename(path)
        assert checkpoint.read("a.weight").tolist() == WEIGHTS["a.weight"].tolist()


TORCH_FREE = """
import sys
sys.modules["torch"] = None
from pathlib import Path
from inflate.io.reader import open_checkpoint
for path in sys.argv[1:]:
    with open_checkpoint(Path(path)) as checkpoint:
        for key in checkpoint.tensors:
            print(key, checkpoint.read(key).tobytes().hex())
"""


def test_no_file_needs_torch(tmp_path: Path) -> None:
    tensors = {**WEIGHTS, "half": torch.ones(3, dtype=torch.bfloat16)}
    paths = [write(tmp_path / f"{i}", tensors) for i, write in enumerate(WRITERS.values())]
    paths.append(write_torch(tmp_path / "turned", {"turned": torch.ones(2, 3).T}))
    shard = write_safetensors(tmp_path / "shard.safetensors", tensors)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, shard.name)}))
    ran = subprocess.run(
        [sys.executable, "-c", TORCH_FREE, *paths, index],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(inflate.__file__).parents[1],
    )
    lines = Counter(ran.stdout.splitlines())
    for name, tensor in tensors.items():
        content = tensor.view(torch.uint8).numpy().tobytes().hex()
        assert lines[f"{name} {content}"] == len(paths)


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_opening_safetensors_reads_no_tensor(tmp_path: Path) -> None:
    # A file of holes: four gigabytes that take no room on the disk, and should take none in memory.
    huge = 1 << 32
    header = json.dumps({
        "huge": {"dtype": "U8", "shape": [huge], "data_offsets": [0, huge]},
        "tiny": {"dtype": "F32", "shape": [1], "data_offsets": [huge, huge + 4]},
    }).encode()  # fmt: skip
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write(raw_safetensors(header))
        file.truncate(8 + len(header) + huge + 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.tensors["huge"].nbytes == huge
        assert checkpoint.read("tiny").tolist() == [0.0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < huge >> 12  # in KiB


@pytest.mark.parametrize("writer", [write_torch, partial(write_torch, **LEGACY)])
def test_weights_are_laid_out_in_the_order_of_their_axes(writer: Writer, tmp_path: Path) -> None:
    weight = torch.arange(72.0).view(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    pixel = torch.arange(8.0).view(2, 4, 1, 1).contiguous(memory_format=torch.channels_last)
    part = torch.arange(10.0)[::2]
    with open_checkpoint(
        writer(tmp_path / "a.pt", {"w": weight, "pixel": pixel, "part": part})
    ) as checkpoint:
        for name, written in (("w", weight), ("pixel", pixel), ("part", part)):
            read = as_tensor(checkpoint.read(name))
            assert torch.equal(read, written)
            assert read.stride() == torch.empty(written.shape).stride()


def test_parameters_are_read_as_plain_tensors(tmp_path: Path) -> None:
    path = write_torch(tmp_path / "a.pt", {"a": torch.nn.Parameter(torch.ones(2))})
    assert_same(read_all(path)[1], {"a": torch.ones(2)})


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


def test_bytes_that_come_a_few_at_a_time_are_all_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.preadv
    path = write_safetensors(tmp_path / "a.safetensors", WEIGHTS)
    monkeypatch.setattr(os, "preadv", lambda fd, into, at: real(fd, [into[0][:5]], at))
    assert_same(read_all(path)[1], WEIGHTS)


@pytest.mark.parametrize("shape", [(0, 1 << 61), (1 << 61, 0, 1 << 61)])
def test_nothing_in_a_shape_beyond_any_array_is_refused(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}})
    path = tmp_path / "a.safetensors"
    path.write_bytes(raw_safetensors(header.encode()))
    with open_checkpoint(path) as checkpoint, pytest.raises(CheckpointError):
        checkpoint.read("a")


# Where the tensors are


@pytest.mark.parametrize("legacy", [{}, LEGACY])
@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"state_dict": WEIGHTS},
        {"state_dict": WEIGHTS, "extra": {"b": torch.ones(1)}},
        {"model": WEIGHTS, "epoch": 3, "args": {"lr": 0.1}},
        {**WEIGHTS, "epoch": 3, 5: torch.ones(2), None: "x"},
        {"state_dict": {**WEIGHTS, "_metadata": {"version": 1}, 7: torch.ones(1)}},
    ],
)
def test_the_state_dict_is_found(content: Any, legacy: dict[str, Any], tmp_path: Path) -> None:
    assert_same(read_all(write_torch(tmp_path / "a.pt", content, **legacy))[1], WEIGHTS)


@pytest.mark.parametrize("legacy", [{}, LEGACY])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (torch.ones(2), "FILE holds a single tensor; expected a checkpoint of named tensors"),
        (
            [torch.ones(2)],
            "FILE holds a 'list' object, a whole pickled module perhaps; expected named tensors: "
            "save its state_dict() instead",
        ),
        (
            {"epoch": 3},
            "FILE holds no tensors at its top, under 'state_dict', or in one mapping alone; found "
            "the keys 'epoch'",
        ),
        (
            {},
            "FILE holds no tensors at its top, under 'state_dict', or in one mapping alone; found "
            "the keys (none)",
        ),
        (
            {"generator": WEIGHTS, "ema": WEIGHTS},
            "FILE holds no tensors at its top, under 'state_dict', or in one mapping alone; found "
            "the keys 'generator', 'ema'",
        ),
    ],
)
def test_a_file_without_named_tensors_is_of_no_family(
    content: Any, said: str, legacy: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    torch.save(content, path, **legacy)
    assert refusal(path, FamilyError) == said


# Tensors that are not what they claim


@pytest.mark.parametrize("legacy", [{}, LEGACY])
@pytest.mark.parametrize(
    ("tensor", "shape"),
    [
        (torch.ones(1).expand(1 << 20, 1 << 20), (1 << 20, 1 << 20)),
        (torch.ones(2, 1).expand(2, 3), (2, 3)),
        (torch.empty(5, 7, device="meta"), (5, 7)),
        (torch.eye(3).to_sparse(), (3, 3)),
    ],
    ids=["bomb", "expanded", "meta", "sparse"],
)
def test_a_tensor_that_the_file_does_not_hold_is_refused(
    tensor: Tensor, shape: tuple[int, ...], legacy: dict[str, Any], tmp_path: Path
) -> None:
    path = write_torch(tmp_path / "a.pt", {**WEIGHTS, "b": tensor}, **legacy)
    assert refusal(path) == (
        f"FILE: b claims the shape {shape}, and the file does not hold that many numbers; "
        "expected dense tensors with their data"
    )


# Files that are none


def test_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a.ckpt") == "FILE does not exist; expected a checkpoint file"


def test_a_directory(tmp_path: Path) -> None:
    assert "is a directory" in refusal(tmp_path)


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").touch()
    assert refusal(tmp_path / "a.ckpt") == "FILE is empty; copy or download it again"


def test_a_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    assert refusal(tmp_path / "a" / "b.ckpt") == "FILE cannot be read: Not a directory"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"GGUF\x03\x00\x00\x00" + bytes(64), "a GGUF file: quantised for inference"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file, as Keras writes: weights of another"),
        (b"\x1c\x00\x00\x00TFL3\x14\x00", "a TensorFlow Lite model: an export for inference"),
        (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0", "an ONNX model: an export for inference"),
        (b"\x08\x0a:\x80\x10\x0a\x10", "an ONNX model: an export for inference"),
        (b"\x08\x01\x12\x80\x10", "a TensorFlow SavedModel: an export for inference"),
        (b"\x82\xa7decoder\x86\xa7conv_in", "a MessagePack file, as Flax writes: weights of"),
        (b"\xde\x00\x10\xa7decoder\x86", "a MessagePack file, as Flax writes: weights of"),
        (b"\x1f\x8b\x08\x00" + bytes(64), "a gzip archive: unpack it first"),
        (bytes(257) + b"ustar\x0000", "a tar archive: unpack it first"),
        (b"\x7fELF" + bytes(64), "a program: check the name"),
        (b"%PDF-1.7\n", "a PDF: check the name"),
        (b"\x89PNG\r\n\x1a\n", "a picture: check the name"),
        (b"\n<!DOCTYPE html><html>", "a web page: the download was answered with a page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
            "the pointer of Git LFS to a file, not the file: fetch the file itself",
        ),
    ],
)
@pytest.mark.parametrize("name", ["a.safetensors", "a.onnx"])
def test_files_of_other_tools_are_refused_by_name(
    content: bytes, what: str, name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert refusal(path).startswith(f"FILE is {what}")


def test_an_archive_of_numpy_is_refused_by_name(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    numpy.savez(tmp_path / "a.npz", weight=numpy.ones(3))
    numpy.save(tmp_path / "a.npy", numpy.ones(3))
    assert refusal(tmp_path / "a.npz").startswith("FILE is a NumPy archive (.npz): weights of ")
    assert refusal(tmp_path / "a.npy").startswith("FILE is a NumPy array: expected a checkpoint")


@pytest.mark.parametrize(
    "content",
    [
        b"ch_mult: [1, 2]\n", b"\x08", b"\x08\x08\x12", b"\x08\x08\x12\x07\x0a\x05", b"\x82\xa7de",
        b"\x85", b"\xde", bytes(64), b"x",
    ],
)  # fmt: skip
def test_what_nobody_knows_is_shown(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert refusal(path) == (
        "FILE is neither a torch checkpoint nor a safetensors file (it begins with "
        f"{content[:8]!r}); expected .ckpt, .pt, .pth, .bin or .safetensors"
    )


def test_torchscript_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    assert refusal(path, FamilyError) == (
        "FILE is a TorchScript archive; expected named tensors: save its state_dict()"
    )


def test_another_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert refusal(path).startswith("FILE is damaged or no torch checkpoint: ")


# Damage


@pytest.mark.parametrize("kept", [0.001, 0.01, 0.3, 0.6, 0.99, -1])
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_file_cut_short_is_refused(writer: Writer, kept: float, tmp_path: Path) -> None:
    path = writer(tmp_path / "a.ckpt", WEIGHTS | {"big": torch.ones(1000)})
    content = path.read_bytes()
    path.write_bytes(content[:-1] if kept < 0 else content[: int(kept * len(content))])
    said = refusal(path)
    assert "again" in said or "neither a torch checkpoint nor a safetensors file" in said


@pytest.mark.parametrize("writer", [WRITERS["torch"], WRITERS["lightning before 1.6"]])
def test_damage_among_the_names_is_refused(writer: Writer, tmp_path: Path) -> None:
    path = writer(tmp_path / "a.ckpt", WEIGHTS)
    content = path.read_bytes()
    place = content.index(b"a.weight")
    path.write_bytes(content[: place - 6] + bytes(range(6)) + content[place:])
    assert refusal(path).endswith("Copy or download it again")


@pytest.mark.parametrize(
    "content",
    [
        raw_safetensors(b"{}"[:1] + b"\xff" * 20),
        raw_safetensors(b'{"a": 3}'),
        raw_safetensors(b'{"a"'),
        raw_safetensors(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"1234"),
        raw_safetensors(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"x" * 12),
        raw_safetensors(b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}', b"x" * 8),
        raw_safetensors(b'{"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}', b"x" * 8),
        (1 << 62).to_bytes(8, "little") + b'{"a":{}}',
        (500).to_bytes(8, "little") + b'{"a":{"dtype":"F32"',
    ],
    ids=["not text", "no entry", "not JSON", "data missing", "data left over", "wrong size",
         "unknown type", "huge header", "header cut short"],
)  # fmt: skip
def test_a_safetensors_header_that_does_not_add_up_is_refused(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert refusal(path).startswith("FILE")


def test_a_header_cut_short_is_told_with_both_sizes(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes((500).to_bytes(8, "little") + b'{"a"')
    assert refusal(path) == (
        "FILE is cut short: its header claims 500 bytes, the file has 12. Copy or download it again"
    )


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, (1 << 20) + 7])
def test_the_hash_is_that_of_the_files_bytes(size: int, tmp_path: Path) -> None:
    path = tmp_path / "a"
    content = bytes(range(256)) * (size // 256 + 1)
    path.write_bytes(content[:size])
    assert hash_file(path) == hashlib.sha256(content[:size]).hexdigest()
