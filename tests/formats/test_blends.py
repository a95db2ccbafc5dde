"""Video files that do not record whether their blend is learned or fixed: never guessed."""

from __future__ import annotations

import json
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import inflate
from inflate import convert
from inflate.errors import ConfigError
from inflate.formats.source import describe
from inflate.io.reader import open_checkpoint
from inflate.models import VideoDecoder

from ..checkpoints import DDCONFIG, write_safetensors
from ..conversions import CPU, metadata_of
from ..models.builders import drawn_weights, noise, shapes_of

LATENTS = noise(2, 4, 3, 5)


def saved(path: Path, *, dtype: torch.dtype = torch.float32, **temporal: Any) -> VideoDecoder:
    """A module that is saved as people do, ``save_file(module.state_dict())``; nothing is recorded.

    Its temporal layers are trained, but for the blend.
    """
    module = VideoDecoder(**{**DDCONFIG, "ch_mult": [1]}, **temporal).to(dtype).eval()
    drawn = drawn_weights(shapes_of(module), 3)
    state = module.state_dict()
    for key, value in state.items():
        if not key.endswith("mix_factor"):
            value.copy_(drawn[key])
    write_safetensors(path, state)
    return module


def with_numbers(path: Path, residual: list[float], attention: list[float]) -> Path:
    """A file whose blocks blend by these numbers in turn; no ``attention`` means none over time."""
    mode = "all" if residual and attention else "conv-only" if residual else "attn-only"
    saved(path, time_mode=mode)
    weights = load_file(path)
    turns = cycle(residual), cycle(attention)
    for key in weights:
        if key.endswith("mix_factor"):
            weights[key] = torch.tensor([next(turns[".attn" in key])])
    return write_safetensors(path, weights)


FIXED = {"merge_strategy": "fixed"}
KNOWN: dict[str, dict[str, Any]] = {
    "fixed": {**FIXED, "alpha": 0.3, "time_mode": "all"},
    "fixed, bfloat16": {**FIXED, "alpha": 0.3, "time_mode": "all", "dtype": torch.bfloat16},
    "learned": {"alpha": 0.3, "time_mode": "all"},
    "learned from 0": {"time_mode": "all"},
    "learned, convolutions": {"alpha": -0.5, "time_mode": "conv-only"},
}
"""Starts that the numbers of a file show."""


@pytest.mark.parametrize("case", KNOWN)
def test_what_the_numbers_show_is_taken(case: str, tmp_path: Path) -> None:
    path = tmp_path / "video.safetensors"
    module = saved(path, **KNOWN[case])
    loaded = inflate.load_video_decoder(path)
    assert loaded.merge_strategy == module.merge_strategy
    with torch.inference_mode():
        z = LATENTS.to(next(module.parameters()).dtype)
        assert torch.equal(loaded(z, timesteps=2), module(z, timesteps=2))
    result = convert(path, tmp_path / "copy.safetensors", layout="autoencoder", **CPU)
    assert result.plan.config.temporal.merge_strategy == module.merge_strategy
    assert result.notes
    header = metadata_of(tmp_path / "copy.safetensors")
    recorded = json.loads(header["inflate.config"])["temporal"]
    assert recorded["merge_strategy"] == module.merge_strategy
    if module.merge_strategy == "fixed":
        assert recorded["alpha"] == pytest.approx(module.alpha, abs=2e-3)
    assert header["inflate.source.blend"].startswith(f"{module.merge_strategy}: ")
    # From then on it is recorded.
    again = convert(tmp_path / "copy.safetensors", tmp_path / "b", layout="decoder", **CPU)
    assert again.plan.config.temporal == result.plan.config.temporal
    assert again.notes == ()


AMBIGUOUS: dict[str, tuple[list[float], list[float]]] = {
    "convolutions": ([0.25], []),
    "attention alone": ([], [0.75]),
    "blocks of several shares": ([0.25, 0.5], [0.75, 0.5]),
    "nearly a fixed start": ([0.25], [0.751]),
}


@pytest.fixture(params=AMBIGUOUS)
def ambiguous(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file whose numbers can be read either way."""
    return with_numbers(tmp_path / "video.safetensors", *AMBIGUOUS[request.param])


def test_what_they_do_not_show_is_asked_for(ambiguous: Path, tmp_path: Path) -> None:
    for attempt in (
        lambda: convert(ambiguous, tmp_path / "out", layout="sgm", **CPU),
        lambda: inflate.verify(ambiguous, **CPU),
        lambda: inflate.load_video_autoencoder(ambiguous),
    ):
        with pytest.raises(ConfigError, match="--merge-strategy"):
            attempt()
    assert list(tmp_path.iterdir()) == [ambiguous]
    for strategy in ("learned", "fixed"):
        loaded = inflate.load_video_decoder(ambiguous, merge_strategy=strategy)
        assert loaded.merge_strategy == strategy
    result = convert(ambiguous, tmp_path / "out", merge_strategy="fixed", layout="sgm", **CPU)
    assert result.plan.config.temporal.merge_strategy == "fixed"
    assert metadata_of(tmp_path / "out")["inflate.source.blend"].startswith("fixed: ")


@pytest.mark.parametrize("outside", [-0.25, 1.25])
def test_numbers_that_are_not_shares_are_never_fixed(outside: float, tmp_path: Path) -> None:
    path = with_numbers(tmp_path / "video.safetensors", [0.25, outside], [0.75])
    assert inflate.load_video_decoder(path).merge_strategy == "learned"
    for attempt in (
        lambda: inflate.load_video_decoder(path, merge_strategy="fixed"),
        lambda: inflate.verify(path, merge_strategy="fixed", **CPU),
        lambda: convert(path, tmp_path / "out", merge_strategy="fixed", layout="sgm", **CPU),
    ):
        with pytest.raises(ConfigError):
            attempt()


def test_what_a_file_records_cannot_be_said_otherwise(videos: dict[str, Path]) -> None:
    path = videos["conv-only"]
    assert inflate.load_video_decoder(path, merge_strategy="learned").merge_strategy == "learned"
    for attempt in (
        lambda: inflate.load_video_decoder(path, merge_strategy="fixed"),
        lambda: inflate.verify(path, merge_strategy="fixed", **CPU),
    ):
        with pytest.raises(ConfigError):
            attempt()


def test_a_header_that_leaves_the_blend_out_does_not_record_it(tmp_path: Path) -> None:
    path = with_numbers(tmp_path / "video.safetensors", [0.25], [])
    header = {"inflate.config": json.dumps({"seed": 3, "temporal": {"alpha": 0.5}})}
    write_safetensors(path, load_file(path), header)
    with pytest.raises(ConfigError, match="--merge-strategy"):
        inflate.load_video_decoder(path)
    with open_checkpoint(path) as checkpoint:
        config = describe(checkpoint, {"temporal.merge_strategy": "fixed"}).config
    assert (config.seed, config.temporal.time_mode, config.temporal.alpha) == (3, "conv-only", 0.5)
