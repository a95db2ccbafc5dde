"""``verify --trained``: what passes, what fails, and what it measures."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import inflate
from inflate.errors import ConfigError
from inflate.parity.result import ParityReport

from ..checkpoints import autoencoder, write_safetensors
from ..conversions import CPU, metadata_of, rewritten

BIAS = "decoder.conv_out.time_mix_conv.bias"
SMALLEST: dict[str, Any] = {"ch_mult": [1]}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safetensors(tmp_path_factory.mktemp("image") / "img", autoencoder(**SMALLEST))


@pytest.fixture(scope="module")
def start(image: Path) -> Path:
    output = image.parent / "start.safetensors"
    inflate.convert(image, output, time_mode="all", skip_parity=True, **CPU)
    return output


@pytest.fixture(scope="module")
def trained(start: Path) -> Path:
    whole = inflate.load_video_autoencoder(start)
    with torch.no_grad():
        for parameter in whole.temporal_parameters():
            parameter.mul_(1.25).add_(0.5)
    return inflate.save_video_autoencoder(whole, start.parent / "trained.safetensors")


def check(image: Path, candidate: Path, **options: Any) -> ParityReport:
    return inflate.verify(image, candidate, trained=True, **options, **CPU)


def test_a_trained_file_passes_and_its_movement_is_measured(
    image: Path, start: Path, trained: Path
) -> None:
    report = check(image, trained)
    assert (report.verdict, report.max_abs_error) == ("bitwise", 0.0)
    found = report.trained
    assert found is not None
    assert found.problems == ()
    assert found.max_abs_difference is not None
    assert found.max_abs_difference > 0.1
    before, after = load_file(start), load_file(trained)
    for movement in found.movements:
        keys = [key for key in before if movement.part in key.split(".")]
        distance = math.sqrt(sum((after[k] - before[k]).double().square().sum() for k in keys))
        norm = math.sqrt(sum(before[k].double().square().sum() for k in keys))
        assert (movement.tensors, movement.moved) == (len(keys), len(keys))
        assert movement.distance == pytest.approx(distance)
        if norm:
            assert movement.relative == pytest.approx(distance / norm)
        else:
            assert movement.relative is None
    parts = {"mix_factor", "time_stack", "time_mix_conv", "time_mix_block", "video_time_embed"}
    assert {movement.part for movement in found.movements} == parts


def test_a_start_passes_and_has_not_moved(image: Path, start: Path) -> None:
    report = check(image, start)
    assert report.passed
    assert report.trained is not None
    assert report.trained.max_abs_difference == 0
    assert {m.distance for m in report.trained.movements} == {0.0}


def test_without_a_record_of_the_start_no_movement_is_made_up(
    image: Path, trained: Path, tmp_path: Path
) -> None:
    plain = write_safetensors(tmp_path / "plain", load_file(trained))
    report = check(image, plain, merge_strategy="learned")
    assert report.passed
    assert report.trained is not None
    assert report.trained.movements == ()


def set_nan(weights: dict[str, Tensor]) -> None:
    weights[BIAS][0] = float("nan")


def change_decoder(weights: dict[str, Tensor]) -> None:
    weights["decoder.conv_in.bias"][0] += 1e-6


def change_encoder(weights: dict[str, Tensor]) -> None:
    weights["encoder.conv_in.bias"][0] += 1e-6


@pytest.mark.parametrize("change", [set_nan, change_decoder, change_encoder])
def test_nan_and_changed_spatial_tensors_fail(
    change: Callable[[dict[str, Tensor]], None], image: Path, trained: Path, tmp_path: Path
) -> None:
    report = check(image, rewritten(trained, tmp_path / "bad", change))
    assert not report.passed
    assert report.trained is not None
    assert bool(report.trained.problems) == (change is set_nan)
    assert len(report.weights.different) == (0 if change is set_nan else 1)


def test_another_source_fails(image: Path, trained: Path, tmp_path: Path) -> None:
    header = {**metadata_of(trained), "inflate.source.fingerprint": "0" * 64}
    report = check(image, write_safetensors(tmp_path / "other", load_file(trained), header))
    assert report.weights.different == ()
    assert not report.passed


@pytest.mark.parametrize("old_header", [False, True])
def test_without_the_option_a_trained_file_fails_with_a_hint(
    old_header: bool, image: Path, start: Path, trained: Path, tmp_path: Path
) -> None:
    if old_header:  # As a training script leaves it that keeps the header of the start.
        trained = write_safetensors(tmp_path / "old", load_file(trained), metadata_of(start))
    report = inflate.verify(image, trained, **CPU)
    assert not report.passed
    assert any("--trained" in note for note in report.notes)
    damaged = rewritten(start, tmp_path / "damaged", lambda weights: weights[BIAS].add_(0.1))
    report = inflate.verify(image, damaged, **CPU)
    assert not any("--trained" in note for note in report.notes)


def test_a_fixed_blend_that_stayed_does_not_hide_training(image: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    fixed: Any = {"merge_strategy": "fixed", "alpha": 0.5, "skip_parity": True}
    inflate.convert(image, start, **fixed, **CPU)
    whole = inflate.load_video_autoencoder(start)
    weights = whole.state_dict()
    for parameter in whole.temporal_parameters():
        parameter.data.add_(0.5)
    moved = write_safetensors(tmp_path / "moved", weights, metadata_of(start))
    assert any("--trained" in note for note in inflate.verify(image, moved, **CPU).notes)


@pytest.mark.parametrize("options", [{"bisect": True}, {"self_test": True}, {"trainability": True}])
def test_options_about_a_start_are_refused(
    options: dict[str, bool], image: Path, trained: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        check(image, trained, **options)
    assert len(caught.value.problems) == 1


def test_a_source_is_needed(trained: Path) -> None:
    with pytest.raises(ConfigError):
        inflate.verify(trained, trained=True, **CPU)
