"""A plan carried out."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from inflate.errors import PlanError
from inflate.formats.source import Source
from inflate.inflation import apply
from inflate.inflation.apply import Digests, carry_out
from inflate.inflation.initializers import draw_chunks
from inflate.inflation.plan import InflationPlan
from inflate.io.writer import SafetensorsWriter
from inflate.progress import silent
from tests.io.opening import assert_same

from ..checkpoints import autoencoder, prefixed
from .planning import planned

SMALLEST: dict[str, Any] = {"ch_mult": [1]}


def carried_out(weights: dict[str, Tensor], folder: Path, **settings: Any) -> dict[str, Tensor]:
    """The tensors that a plan gives, by their keys."""
    with planned(weights, folder, settings) as (plan, source):
        digests = written(plan, source, folder / "out")
    # Copies, since the library maps the file, which the next one replaces.
    tensors = {key: tensor.clone() for key, tensor in load_file(folder / "out").items()}
    for key, tensor in tensors.items():
        content = tensor.flatten().view(torch.uint8).numpy()
        assert digests.written[key] == hashlib.sha256(content).hexdigest()
    return tensors


def written(plan: InflationPlan, source: Source, path: Path) -> Digests:
    """Carry out a plan into a file."""
    with path.open("wb") as file:
        writer = SafetensorsWriter(file, [tensor.info for tensor in plan.tensors], {})
        return carry_out(plan, source.checkpoint, writer, silent)


def complaints(weights: dict[str, Tensor], folder: Path, **settings: Any) -> list[str]:
    """The problems of a plan's tensors, found together."""
    with pytest.raises(PlanError) as caught:
        carried_out(weights, folder, **settings)
    return sorted(problem.split()[0].rstrip(",") for problem in caught.value.problems)


@pytest.mark.parametrize("mode", ["all", "conv-only"])
def test_what_is_copied_is_the_sources_and_what_is_made_follows_its_rule(
    mode: str, tmp_path: Path
) -> None:
    weights = prefixed(autoencoder("vq", **SMALLEST))
    with planned(weights, tmp_path, {"temporal.time_mode": mode, "seed": 5}) as (plan, source):
        written(plan, source, tmp_path / "out")
    tensors = load_file(tmp_path / "out")
    assert set(tensors) == {target.key for target in plan.tensors}
    for target in plan.tensors:
        tensor = tensors[target.key]
        assert tuple(tensor.shape) == target.shape
        if isinstance(target.origin, str):
            assert torch.equal(tensor, weights[target.origin])
        else:
            made = draw_chunks(target.origin, target.shape, target.key, 5, 100)
            assert tensor.flatten().tolist() == [value for piece in made for value in piece]


@pytest.mark.parametrize(
    ("dtype", "names"),
    [
        ("float16", ["decoder.conv_out.bias", "encoder.conv_out.bias"]),
        ("bfloat16", ["encoder.conv_out.bias"]),
    ],
)
def test_weights_that_the_stored_type_cannot_hold_are_reported_all_at_once(
    dtype: str, names: list[str], tmp_path: Path
) -> None:
    weights = autoencoder(dtype=torch.float64, **SMALLEST)
    weights["encoder.conv_in.bias"][0] = 6e4  # Any type holds it.
    weights["decoder.conv_out.bias"][0] = 7e4
    weights["encoder.conv_out.bias"][0] = -1e39
    assert complaints(weights, tmp_path, dtype=dtype) == names


def test_a_start_that_the_stored_type_cannot_hold_is_reported(tmp_path: Path) -> None:
    settings = {"temporal.alpha": 7e4, "dtype": "float16"}
    assert complaints(autoencoder(**SMALLEST), tmp_path, **settings) == [
        f"decoder.{block}.mix_factor"
        for block in ("mid.block_1", "mid.block_2", "up.0.block.0", "up.0.block.1")
    ]


@pytest.mark.parametrize(("piece", "dtype"), [(256, "float32"), (4096, "bfloat16")])
def test_tensors_larger_than_a_piece_are_the_same(
    piece: int, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = autoencoder(**SMALLEST)
    weights["decoder.conv_in.weight"] = weights["decoder.conv_in.weight"].transpose(2, 3)
    whole = carried_out(weights, tmp_path, dtype=dtype, **{"temporal.alpha": 2.0})
    monkeypatch.setattr(apply, "_PIECE", piece)
    in_pieces = carried_out(weights, tmp_path, dtype=dtype, **{"temporal.alpha": 2.0})
    assert_same(in_pieces, whole)
