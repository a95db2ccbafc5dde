"""One hash for the weights of an autoencoder, whatever file they are in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from inflate.formats.dialects import to_diffusers
from inflate.formats.fingerprint import fingerprint, fingerprint_of
from inflate.formats.source import describe
from inflate.io.index import TensorInfo
from inflate.io.reader import open_checkpoint

from ..checkpoints import autoencoder, prefixed, write_lightning, write_safetensors, write_torch

Weights = dict[str, Tensor]


def weights() -> Weights:
    return autoencoder("plain", ch_mult=[1])


def print_of(path: Path, **options: Any) -> str:
    with open_checkpoint(path) as checkpoint:
        return fingerprint_of(describe(checkpoint, **options).checkpoint)


def sharded(path: Path, tensors: Weights) -> Path:
    names = list(tensors)
    placed = {}
    for shard, part in (("1", names[::2]), ("2", names[1::2])):
        file = path.with_name(f"{path.name}-{shard}")
        write_safetensors(file, {name: tensors[name] for name in part})
        placed.update(dict.fromkeys(part, file.name))
    index = path.with_name(f"{path.name}.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": placed}))
    return index


def named_by_diffusers(path: Path, tensors: Weights) -> Path:
    names = to_diffusers(list(tensors), 1, video=False)
    return write_safetensors(
        path,
        {
            names[key]: tensor[:, :, 0, 0].contiguous() if ".attn_1." in key and tensor.dim() == 4
            else tensor
            for key, tensor in tensors.items()
        },
    )  # fmt: skip


def with_strides(path: Path, tensors: Weights) -> Path:
    """As training scripts leave weights behind, in parts of larger storages."""
    whole = {key: torch.stack([tensor, tensor], -1)[..., 1] for key, tensor in tensors.items()}
    assert not any(tensor.is_contiguous() for tensor in whole.values())
    return write_torch(path, whole)


SAME: dict[str, Callable[[Path, Weights], Path]] = {
    "torch": write_torch,
    "torch before 1.6": lambda path, w: write_torch(path, w, _use_new_zipfile_serialization=False),
    "lightning": write_lightning,
    "under a prefix": lambda path, w: write_safetensors(path, prefixed(w)),
    "in another order": lambda path, w: write_torch(path, dict(reversed(w.items()))),
    "among others": lambda path, w: write_torch(path, {**w, "loss.logvar": torch.ones(1)}),
    "in shards": sharded,
    "in the names of diffusers": named_by_diffusers,
    "with strides": with_strides,
}


@pytest.mark.parametrize("way", SAME)
def test_the_same_weights_have_the_same_fingerprint(way: str, tmp_path: Path) -> None:
    plain = write_safetensors(tmp_path / "plain", weights())
    assert print_of(SAME[way](tmp_path / "other", weights())) == print_of(plain)


def change_one_bit(w: Weights) -> None:
    w["decoder.norm_out.bias"].view(torch.uint8)[-1] ^= 1


def change_one_type(w: Weights) -> None:
    w["decoder.norm_out.bias"] = w["decoder.norm_out.bias"].double()


def swap_two_names(w: Weights) -> None:
    a, b = "decoder.norm_out.bias", "decoder.norm_out.weight"
    w[a], w[b] = w[b], w[a]


def take_away_the_encoder(w: Weights) -> None:
    for key in [key for key in w if key.startswith("encoder.")]:
        del w[key]


@pytest.mark.parametrize(
    "change", [change_one_bit, change_one_type, swap_two_names, take_away_the_encoder]
)
def test_other_weights_have_another_fingerprint(
    change: Callable[[Weights], None], tmp_path: Path
) -> None:
    before, after = weights(), weights()
    change(after)
    paths = [write_torch(tmp_path / name, w) for name, w in (("a", before), ("b", after))]
    assert print_of(paths[0]) != print_of(paths[1])


def test_every_part_of_an_entry_counts() -> None:
    entries = [
        ("a", TensorInfo("x", (2, 3), "float32", 24), "00"),
        ("b", TensorInfo("x", (2, 3), "float32", 24), "00"),
        ("a", TensorInfo("x", (3, 2), "float32", 24), "00"),
        ("a", TensorInfo("x", (2, 3), "int32", 24), "00"),
        ("a", TensorInfo("x", (2, 3), "float32", 24), "01"),
    ]
    prints = [fingerprint({key: info}, {key: digest}) for key, info, digest in entries]
    assert len(set(prints)) == len(entries)
    key, info, digest = entries[0]
    renamed = TensorInfo("y", info.shape, info.dtype, info.nbytes)
    assert fingerprint({key: renamed}, {key: digest}) == prints[0]
