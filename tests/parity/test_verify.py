"""``inflate.verify``: any pair of files, one alone, foreign ones, and every type to compute in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import inflate
from inflate.errors import ConfigError, FamilyError, PlanError
from inflate.parity.metrics import TOLERANCES, Tolerance
from inflate.parity.pair import DecoderPair
from inflate.parity.probes import SMALL_PROBES, SMALL_THOROUGH_PROBES
from inflate.parity.result import Environment, WeightsResult
from inflate.parity.verify import run_check

from ..checkpoints import (
    FIRST_STAGE,
    NO_ATTENTION,
    autoencoder,
    bare_decoder,
    prefixed,
    video_autoencoder,
    write_safetensors,
    write_torch,
)
from ..conversions import CPU, print_of

every_mode = pytest.mark.parametrize("mode", ["all", "conv-only", "attn-only"])


@every_mode
def test_a_pair(image: Path, videos: dict[str, Path], mode: str) -> None:
    report = inflate.verify(image, videos[mode], **CPU)
    assert (report.verdict, report.max_abs_error) == ("bitwise", 0.0)
    assert report.reference == (str(image), print_of(image))
    assert report.candidate == (str(videos[mode]), print_of(videos[mode]))
    assert report.environment == Environment("cpu", "float32", torch.__version__, tf32=False)
    assert not report.environment.fallback
    assert report.tolerance == Tolerance(TOLERANCES["float32"], TOLERANCES["float32"])
    assert report.cast is None
    assert report.notes == ()
    # Every tensor of the source was compared: all of it is decoder, encoder or quant convs.
    assert report.weights.compared == len(autoencoder())
    assert report.weights.different == ()
    assert [(p.name, p.shape, p.frames) for p in report.probes] == [
        *(
            (p.name, (p.batch * p.frames, 4, p.height, p.width), p.frames)
            for p in SMALL_THOROUGH_PROBES
        ),
        ("frame-permutation", (6, 4, 2, 3), 3),
        ("skip-video", (6, 4, 2, 3), 3),
    ]


@every_mode
def test_a_video_alone_against_its_own_image_layers(videos: dict[str, Path], mode: str) -> None:
    path = videos[mode]
    report = inflate.verify(path, **CPU)
    assert report.verdict == "bitwise"
    assert report.reference == report.candidate == (str(path), print_of(path))
    assert report.weights.compared == 0
    assert "compared with its own image layers" in " ".join(report.notes)


@every_mode
def test_a_trained_video_is_not_its_image_decoder(tmp_path: Path, mode: str) -> None:
    trained = video_autoencoder(temporal={"time_mode": mode})
    candidate = write_safetensors(tmp_path / "trained.safetensors", trained)
    report = inflate.verify(candidate, **CPU)
    assert report.verdict == "fail"
    assert report.max_abs_error is not None
    assert report.max_abs_error > 0.01


@every_mode
@pytest.mark.parametrize(("prefix", "write"), [("", write_torch), (FIRST_STAGE, write_safetensors)])
def test_a_foreign_file_in_sgms_names(
    image: Path, videos: dict[str, Path], tmp_path: Path, mode: str, prefix: str, write: Any
) -> None:
    candidate = write(tmp_path / "foreign", prefixed(load_file(videos[mode]), prefix))
    # 0.3 in every residual block could be either.
    options = {**CPU, "merge_strategy": "learned"} if mode == "conv-only" else CPU
    report = inflate.verify(image, candidate, **options)
    assert report.verdict == "bitwise"
    assert report.weights.compared == len(autoencoder())
    (note,) = report.notes
    assert "does not say how it blends: merge_strategy 'learned' was taken" in note
    assert inflate.verify(candidate, **options).verdict == "bitwise"


def test_a_foreign_kernel_is_read_off_its_tensors(tmp_path: Path) -> None:
    temporal = {"time_mode": "conv-only", "video_kernel_size": (3, 1, 1)}
    weights = video_autoencoder(temporal=temporal)
    candidate = write_safetensors(tmp_path / "svd.safetensors", weights)
    assert inflate.load_video_decoder(candidate).conv_out.time_mix_conv.kernel_size == (3, 1, 1)
    assert inflate.verify(candidate, **CPU).verdict == "fail"


def test_how_a_foreign_file_blends_can_be_said(tmp_path: Path) -> None:
    weights = video_autoencoder(temporal={"time_mode": "all", "merge_strategy": "fixed"})
    for key in weights:
        if key.endswith(".mix_factor"):
            # Fully spatial where fixed; learned would be a sigmoid of it.
            weights[key].fill_(1.0 if "attn" in key else 0.0)
    convolution = weights["decoder.conv_out.time_mix_conv.weight"]
    torch.nn.init.dirac_(convolution)
    weights["decoder.conv_out.time_mix_conv.bias"].zero_()
    candidate = write_safetensors(tmp_path / "fixed.safetensors", weights)
    assert inflate.verify(candidate, merge_strategy="learned", **CPU).verdict == "fail"
    for options in ({"merge_strategy": "fixed"}, {}):
        report = inflate.verify(candidate, **options, **CPU)
        assert report.verdict == "bitwise"
        assert "'fixed' was taken" in report.notes[0]


def decoder_of(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The decoder alone, without ``decoder.`` before its names."""
    return {k.removeprefix("decoder."): v for k, v in weights.items() if k.startswith("decoder.")}


def test_a_bare_video_decoder(image: Path, videos: dict[str, Path], tmp_path: Path) -> None:
    weights = decoder_of(load_file(videos["all"]))
    candidate = write_safetensors(tmp_path / "bare.safetensors", weights)
    report = inflate.verify(image, candidate, **CPU)
    assert report.verdict == "bitwise"
    assert any("the candidate has no post_quant_conv" in note for note in report.notes)
    # Only what it holds can be compared: the decoder.
    decoder = [k for k in autoencoder() if k.startswith("decoder.")]
    assert report.weights.compared == len(decoder)

    reference = write_torch(tmp_path / "bare.pt", bare_decoder(seed=1))
    assert inflate.verify(reference, candidate, **CPU).verdict == "fail"


def test_a_bare_reference(videos: dict[str, Path], tmp_path: Path) -> None:
    reference = write_torch(tmp_path / "bare.pt", decoder_of(autoencoder()))
    report = inflate.verify(reference, videos["all"], **CPU)
    assert report.verdict == "bitwise"
    assert any("the reference has no post_quant_conv" in note for note in report.notes)


def test_swapped_arguments(image: Path, videos: dict[str, Path]) -> None:
    with pytest.raises(FamilyError, match="the wrong way round") as caught:
        inflate.verify(videos["all"], image, **CPU)
    assert str(image) in str(caught.value)


def test_two_videos(videos: dict[str, Path]) -> None:
    with pytest.raises(FamilyError, match="is a video checkpoint; expected the image checkpoint"):
        inflate.verify(videos["all"], videos["conv-only"], **CPU)


def test_decoders_of_different_architectures(videos: dict[str, Path], tmp_path: Path) -> None:
    weights = autoencoder(z_channels=2, ch_mult=[1], num_res_blocks=2)
    reference = write_torch(tmp_path / "other.pt", weights)
    with pytest.raises(PlanError) as caught:
        inflate.verify(reference, videos["all"], **CPU)
    said = str(caught.value)
    assert str(videos["all"]) in said
    assert str(reference) in said
    assert caught.value.problems == (
        "level_channels: the reference has (32,), the candidate (32, 64)",
        "num_res_blocks: the reference has 2, the candidate 1",
        "z_channels: the reference has 2, the candidate 4",
    )


def test_attention_on_one_side_alone_never_passes(videos: dict[str, Path], tmp_path: Path) -> None:
    reference = write_torch(tmp_path / "none.pt", autoencoder(**NO_ATTENTION))
    with pytest.raises(PlanError, match="attention: the reference has False, the candidate True"):
        inflate.verify(reference, videos["all"], **CPU)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("mode", ["all"])
def test_every_type_to_compute_in(
    image: Path, videos: dict[str, Path], mode: str, dtype: str
) -> None:
    report = inflate.verify(image, videos[mode], dtype=dtype, **CPU)
    assert report.verdict == "bitwise"
    assert report.environment.dtype == dtype
    assert report.tolerance == Tolerance(TOLERANCES[dtype], TOLERANCES[dtype])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "float8"}, "dtype is 'float8'"),
        ({"atol": -1.0}, "--atol is -1.0; expected a finite number, 0 or more"),
        ({"rtol": float("nan")}, "--rtol is nan; expected"),
        ({"atol": float("inf")}, "--atol is inf; expected"),
        ({"merge_strategy": "mean"}, "merge_strategy is 'mean'"),
    ],
)
def test_options_that_mean_nothing(
    image: Path, videos: dict[str, Path], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        inflate.verify(image, videos["all"], **options, **CPU)


def test_progress_tells_of_every_probe(image: Path, videos: dict[str, Path]) -> None:
    told: list[tuple[str, int, int]] = []
    inflate.verify(image, videos["all"], progress=lambda *step: told.append(step), **CPU)
    assert told == [("checking parity", done, 5) for done in range(6)]


def test_what_a_check_runs_in() -> None:
    seen = []

    def decode(z: Tensor, frames: int) -> Tensor:
        convolution: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
        seen.append((convolution.fp32_precision, torch.is_inference_mode_enabled(), z.dtype))
        return z

    report = run_check(
        DecoderPair(
            decode, decode, 2, WeightsResult(0, ()), decode, ("float32", "float16"), ("n",)
        ),
        reference=("r", "0"),
        candidate=("c", "1"),
        dtype=torch.float64,
        device=torch.device("cpu"),
        tolerance=Tolerance(0, 0),
    )
    assert set(seen) == {("ieee", True, torch.float64)}
    assert len(seen) == 3 * len(SMALL_PROBES)
    assert report.cast is not None
    assert report.cast.max_abs_error == 0.0
    assert report.notes == ("n",)
