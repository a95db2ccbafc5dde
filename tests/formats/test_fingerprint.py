"""One hash for the weights of an autoencoder, whatever file they are in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ..checkpoints import autoencoder, prefixed, write_lightning, write_safetensors, write_torch
from ..conversions import print_of
from .test_dialects import renamed

Weights = dict[str, Tensor]


def weights() -> Weights:
    return autoencoder("plain", ch_mult=[1])


SAME: dict[str, Callable[[Path, Weights], Path]] = {
    "torch": write_torch,
    "lightning": write_lightning,
    "under a prefix": lambda path, w: write_safetensors(path, prefixed(w)),
    "in another order": lambda path, w: write_torch(path, dict(reversed(w.items()))),
    "among others": lambda path, w: write_torch(path, {**w, "loss.logvar": torch.ones(1)}),
    "in the names of diffusers": lambda path, w: write_safetensors(path, renamed(w, 1)),
}


@pytest.mark.parametrize("way", SAME)
def test_the_same_weights_have_the_same_fingerprint(way: str, tmp_path: Path) -> None:
    plain = write_safetensors(tmp_path / "plain", weights())
    assert print_of(SAME[way](tmp_path / "other", weights())) == print_of(plain)


NORM = "decoder.norm_out"
CHANGES: dict[str, Callable[[Weights], Weights]] = {
    "a bit": lambda w: w | {f"{NORM}.bias": w[f"{NORM}.bias"].nextafter(torch.tensor(9.0))},
    "a type": lambda w: w | {f"{NORM}.bias": w[f"{NORM}.bias"].double()},
    "two names": lambda w: w | {f"{NORM}.bias": w[f"{NORM}.weight"],
                                f"{NORM}.weight": w[f"{NORM}.bias"]},
    "no encoder": lambda w: {k: v for k, v in w.items() if not k.startswith("encoder.")},
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_other_weights_have_another_fingerprint(change: str, tmp_path: Path) -> None:
    one = write_torch(tmp_path / "a", weights())
    other = write_torch(tmp_path / "b", CHANGES[change](weights()))
    assert print_of(one) != print_of(other)
