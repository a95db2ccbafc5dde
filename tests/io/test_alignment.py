"""Tensors lie at multiples of 64 bytes in memory, wherever they lie in their file.

Some kernels round the same numbers differently at another address, so weights that are equal in two
files would decode to images that are not.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inflate
from inflate.formats.source import describe
from inflate.formats.views import with_learned_blend, with_post_quant_folded
from inflate.io.reader import open_checkpoint
from inflate.loading import as_tensor, load_encoder, load_image_decoder, load_video
from inflate.models.chunked import Clip, FrameFile
from inflate.parity.media import read_latents

from ..checkpoints import video_autoencoder, write_safetensors, write_torch
from ..conversions import at_offset
from .opening import assert_same

OFFSETS = range(0, 64, 4)
WEIGHTS = {
    # Sizes that move those behind them to any multiple of 4.
    "a": torch.arange(3.0),
    "b": torch.arange(12.0).view(3, 4),
    "c": torch.arange(5, dtype=torch.float64),
    "d": torch.arange(7.0).half(),
    "e": torch.arange(6.0).view(2, 3)[:, :2],
}


def misaligned(tensors: Iterable[Tensor]) -> list[int]:
    """How far tensors are from a multiple of 64 bytes, where they are not at one."""
    return [t.data_ptr() % 64 for t in tensors if t.data_ptr() % 64]


def sliced(weights: Mapping[str, Tensor], offset: int) -> dict[str, Tensor]:
    """The same tensors, each ``offset`` bytes or a little more behind the start of a storage."""
    moved = {}
    for name, tensor in weights.items():
        start = -(-offset // tensor.element_size()) * tensor.element_size()
        storage = torch.zeros(start + tensor.nbytes, dtype=torch.uint8)
        view = storage[start:].view(tensor.dtype).view(tensor.shape)
        moved[name] = view.copy_(tensor)
    return moved


def as_safetensors(folder: Path, offset: int) -> Path:
    dense = {name: tensor.contiguous() for name, tensor in WEIGHTS.items()}
    return at_offset(write_safetensors(folder / "a.safetensors", dense), offset)


def as_torch(folder: Path, offset: int) -> Path:
    return write_torch(folder / "a.pt", sliced(WEIGHTS, offset))


def as_old_torch(folder: Path, offset: int) -> Path:
    # Names of any length move what lies behind them.
    weights = {"n" * (offset // 4): torch.zeros(1), **sliced(WEIGHTS, offset)}
    return write_torch(folder / "a.pt", weights, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [as_safetensors, as_torch, as_old_torch])
def test_what_is_read_is_aligned(write: Callable[[Path, int], Path], tmp_path: Path) -> None:
    for offset in OFFSETS:
        with open_checkpoint(write(tmp_path, offset)) as checkpoint:
            read = {name: as_tensor(checkpoint.read(name)) for name in WEIGHTS}
        assert misaligned(read.values()) == []
        assert_same(read, WEIGHTS)


# Everything that is made of a file


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole video autoencoder in which everything is there: attention, codebook, quant convs."""
    temporal: dict[str, Any] = {"time_mode": "all"}
    weights = video_autoencoder("vq", temporal=temporal, attn_resolutions=[16])
    path = tmp_path_factory.mktemp("video") / "video.safetensors"
    return at_offset(write_safetensors(path, weights), 0)


def tensors_of(module: nn.Module) -> list[Tensor]:
    return list(module.state_dict().values())


@pytest.mark.parametrize("offset", [4, 40])
def test_the_same_weights_at_every_offset_are_the_same_module(
    video: Path, offset: int, tmp_path: Path
) -> None:
    path = at_offset(Path(shutil.copy(video, tmp_path / "moved")), offset)
    decoder = inflate.load_video_decoder(path)
    whole = inflate.load_video_autoencoder(path)
    with open_checkpoint(path) as checkpoint:
        source = describe(checkpoint)
        folded = source.seen_as(with_post_quant_folded(source.checkpoint))
        logits = source.seen_as(with_learned_blend(source.checkpoint))
        seen = [
            load_encoder(source, torch.float32), load_image_decoder(source, torch.float32),
            load_video(folded), load_video(logits),
            load_video(source, torch.float32, stored_as=source), load_video(source, torch.bfloat16),
        ]  # fmt: skip
    for module in (decoder, whole, *seen):
        assert misaligned(tensors_of(module)) == []
    # A single frame: a row of one in every product with a matrix.
    z = torch.linspace(-2, 2, 4 * 3 * 5).view(1, 4, 3, 5)
    with torch.inference_mode():
        at_start = inflate.load_video_decoder(video)
        assert torch.equal(decoder(z, timesteps=1), at_start(z, timesteps=1))


# Latents


def test_latents_are_aligned(tmp_path: Path) -> None:
    z = torch.linspace(-1, 1, 3 * 4 * 3 * 5).view(3, 4, 3, 5)
    for offset in OFFSETS:
        stored = at_offset(write_safetensors(tmp_path / "a.safetensors", {"latents": z}), offset)
        torch.save(sliced({"z": z}, offset)["z"], tmp_path / "a.pt")
        probes = [read_latents(path, 4) for path in (stored, tmp_path / "a.pt")]
        assert misaligned(probe.z for probe in probes) == []
        assert all(torch.equal(probe.z, z) for probe in probes)


def test_frames_that_waited_on_disk_are_aligned() -> None:
    frames = torch.arange(6 * 32 * 5 * 3.0).view(6, 32, 5, 3)
    with FrameFile(Clip(1, 6, 2)) as file:
        file.append(frames)
        read = [file.frames(first, first + 1) for first in range(6)]
        read.append(file.read(0, 6, 0, 15))
    assert misaligned(read) == []
    assert torch.equal(torch.cat(read[:6]), frames)
