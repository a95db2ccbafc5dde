"""``inflate.verify``: what its report says of files beside the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import inflate
from inflate.parity.result import OverflowResult
from inflate.workflow import verify

from ..checkpoints import FIRST_STAGE, autoencoder, prefixed, write_safetensors, write_torch
from ..conversions import CPU, nudged, spoil_start

every_mode = pytest.mark.parametrize("mode", ["all", "conv-only", "attn-only"])


def temporal_of(video: Path, image: dict[str, Tensor]) -> set[str]:
    return set(load_file(video)) - set(image)


@every_mode
def test_a_sound_candidate_has_every_part(image: Path, videos: dict[str, Path], mode: str) -> None:
    report = inflate.verify(image, videos[mode], **CPU)
    assert report.weights.temporal is not None
    assert report.weights.temporal.compared == len(temporal_of(videos[mode], autoencoder()))
    assert report.weights.temporal.changed == ()
    assert report.layers[0].name == "post_quant_conv"
    assert report.layers[-1].name == "decoder.conv_out"
    assert {layer.verdict for layer in report.layers} == {"bitwise"}
    assert report.first_divergence is None
    assert report.floor is not None
    assert report.floor.multiple == 0.0
    assert (report.bisect, report.self_test, report.overflow) == (None, None, None)
    assert report.pictures == ()


UNREACHED = "decoder.mid.block_1.time_stack.in_layers.2.weight"
REACHED = "decoder.mid.block_1.time_stack.out_layers.3.weight"


def test_a_temporal_tensor_that_does_not_reach_the_output_is_listed_as_changed(
    image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    candidate = nudged(videos["all"], tmp_path / "trained.safetensors", UNREACHED)
    for report in (inflate.verify(image, candidate, **CPU), inflate.verify(candidate, **CPU)):
        assert report.verdict == "bitwise"
        assert report.weights.different == ()
        assert report.weights.temporal is not None
        assert report.weights.temporal.changed == (UNREACHED,)


def test_one_that_reaches_it_is_listed_and_fails(
    image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    candidate = nudged(videos["all"], tmp_path / "wrong.safetensors", REACHED)
    report = inflate.verify(image, candidate, bisect=True, **CPU)
    assert report.verdict == "fail"
    assert report.weights.temporal is not None
    assert report.weights.temporal.changed == (REACHED,)
    assert report.first_divergence == "decoder.mid.block_1"
    assert report.bisect is not None
    assert report.bisect.guilty == ("decoder.mid.block_1.time_stack",)


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 7},
        {"dtype": "float16"},
        {"dtype": "bfloat16", "float32_norms": True},
        {"layout": "decoder"},
        {"layout": "sgm", "post_quant": "fold", "allow_inexact": True},
        {"merge_strategy": "fixed", "alpha": 0.25, "video_kernel_size": (3, 1, 1)},
    ],
)
def test_what_was_made_can_be_made_again(
    image: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    output = tmp_path / "video.safetensors"
    inflate.convert(image, output, time_mode="all", **options, **CPU)
    report = inflate.verify(image, output, **CPU)
    assert report.weights.temporal is not None
    assert report.weights.temporal.compared > 0
    assert report.weights.temporal.changed == ()
    assert report.verdict == "bitwise"


def test_of_a_foreign_file_nobody_knows_how_it_was_made(
    image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    weights = prefixed(load_file(videos["all"]), FIRST_STAGE)
    foreign = write_safetensors(tmp_path / "foreign.safetensors", weights)
    report = inflate.verify(image, foreign, **CPU)
    assert report.weights.temporal is None
    assert {row.rule for row in report.plan} == {None}
    assert {row.origin for row in report.plan} == {"copied", "initialised", "passed-through"}


def test_the_plan_has_every_tensor_of_the_candidate(image: Path, videos: dict[str, Path]) -> None:
    report = inflate.verify(image, videos["all"], **CPU)
    weights = load_file(videos["all"])
    rows = {row.name: row for row in report.plan}
    assert {name: row.shape for name, row in rows.items()} == {
        name: tuple(tensor.shape) for name, tensor in weights.items()
    }
    assert sum(row.nbytes for row in report.plan) == sum(t.nbytes for t in weights.values())
    assert rows["decoder.conv_in.weight"].origin == "copied"
    assert rows["encoder.conv_in.weight"].origin == "passed-through"
    made = rows["decoder.conv_out.time_mix_conv.weight"]
    assert (made.origin, made.rule, made.dtype) == ("initialised", "dirac", "float32")
    initialised = {name for name, row in rows.items() if row.origin == "initialised"}
    assert initialised == temporal_of(videos["all"], autoencoder())


def overflowing(image: dict[str, Tensor]) -> dict[str, Tensor]:
    image["decoder.up.0.block.0.conv2.weight"] *= 1e5
    return image


@pytest.mark.parametrize(
    ("dtype", "overflow"),
    [
        ("float16", OverflowResult("float16", "decoder.up.0.block.0.conv2", "bfloat16")),
        ("bfloat16", None),
        ("float32", None),
    ],
)
@pytest.mark.parametrize("alone", [False, True])
def test_an_image_decoder_that_overflows_in_float16(
    tmp_path: Path, dtype: str, overflow: OverflowResult | None, alone: bool
) -> None:
    source = write_torch(tmp_path / "image.pt", overflowing(autoencoder()))
    video = tmp_path / "video.safetensors"
    inflate.convert(source, video, time_mode="all", **CPU)
    files = (video,) if alone else (source, video)
    report = inflate.verify(*files, dtype=dtype, **CPU)
    assert report.overflow == overflow
    assert report.verdict == ("bitwise" if overflow is None else "fail")
    assert report.first_divergence is None


@pytest.fixture
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("_no_gpu")
@pytest.mark.parametrize(("device", "fallback"), [("auto", True), ("cpu", False)])
def test_a_cpu_that_stands_in_for_a_gpu_is_told(
    image: Path, videos: dict[str, Path], tmp_path: Path, device: str, fallback: bool
) -> None:
    checked = inflate.verify(image, videos["all"], device=device)
    made = inflate.convert(image, tmp_path / "video.safetensors", device=device).parity
    for report in (checked, made):
        assert report is not None
        assert report.environment.fallback == fallback
        assert any("--device cpu" in note for note in report.notes) == fallback


def test_pictures_are_kept_where_they_are_asked_for(image: Path, videos: dict[str, Path]) -> None:
    report = verify(image, videos["all"], pictures=True, **CPU)
    assert report.verdict == "bitwise"
    assert [picture.frame for picture in report.pictures] == list(range(8))
    for picture in report.pictures:
        assert picture.probe == "clip"
        assert picture.reference.shape == (3, 8, 12)
        assert picture.source is None
        assert torch.equal(picture.reference, picture.candidate)
    assert not torch.equal(report.pictures[0].reference, report.pictures[1].reference)


def test_a_conversion_that_fails_names_the_layer(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = "up.1.block.0.time_stack.out_layers.3"
    spoil_start(monkeypatch, lambda key, _: layer in key, by=1.0)
    result = inflate.convert(image, tmp_path / "video.safetensors", time_mode="all", **CPU)
    assert not result.passed
    assert result.parity is not None
    assert result.parity.first_divergence == "decoder.up.1.block.0"
    monkeypatch.undo()
    result = inflate.convert(image, tmp_path / "video.safetensors", time_mode="all", **CPU)
    assert result.parity is not None
    assert result.parity.layers == ()  # A conversion that passes is not slowed down.
