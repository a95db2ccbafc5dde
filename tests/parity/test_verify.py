"""``inflate.verify``: any pair of files, one alone, foreign ones; what its report says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import inflate
from inflate.errors import ConfigError, PlanError
from inflate.parity.metrics import TOLERANCES
from inflate.parity.pair import DecoderPair
from inflate.parity.probes import SMALL_PROBES, probes_for
from inflate.parity.result import (
    Environment,
    RecordedSource,
    TemporalResult,
    Tolerance,
    WeightsResult,
)

from ..checkpoints import (
    FIRST_STAGE,
    autoencoder,
    bare_decoder,
    prefixed,
    write_safetensors,
    write_torch,
)
from ..conversions import CPU, converted, metadata_of, nudged, print_of
from .damage import checked


@pytest.mark.parametrize("mode", ["all", "conv-only", "attn-only"])
def test_a_pair(image: Path, videos: dict[str, Path], mode: str) -> None:
    report = inflate.verify(image, videos[mode], **CPU)
    assert (report.verdict, report.max_abs_error) == ("bitwise", 0.0)
    assert report.reference == (str(image), print_of(image))
    assert report.candidate == (str(videos[mode]), print_of(videos[mode]))
    assert report.environment == Environment("cpu", "float32", torch.__version__, tf32=False)
    assert (report.cast, report.notes) == (None, ())
    assert report.recorded_source is not None
    assert report.recorded_source.given
    # Every tensor of the source was compared: all of it is decoder, encoder or quant convs.
    assert report.weights.compared == len(autoencoder())
    assert report.weights.different == ()
    temporal = report.weights.temporal
    weights = load_file(videos[mode])
    made = set(weights) - set(autoencoder())
    assert temporal == TemporalResult(len(made), ())
    assert {row.name: row.shape for row in report.plan} == {k: v.shape for k, v in weights.items()}
    assert sum(row.nbytes for row in report.plan) == sum(t.nbytes for t in weights.values())
    for row in report.plan:
        kept = "copied" if row.name.startswith("decoder.") else "passed-through"
        assert row.origin == ("initialised" if row.name in made else kept)
        assert (row.rule is not None) == (row.name in made)
    assert report.layers[0].name == "post_quant_conv"
    assert report.layers[-1].name == "decoder.conv_out"
    assert {layer.verdict for layer in report.layers} == {"bitwise"}
    assert report.first_divergence is None
    assert report.floor is not None
    assert report.floor.multiple == 0.0
    assert (report.bisect, report.self_test, report.overflow) == (None, None, None)
    assert [(p.name, p.shape, p.frames) for p in report.probes] == [
        *((p.name, (p.batch * p.frames, 4, p.height, p.width), p.frames) for p in SMALL_PROBES),
        ("frame-permutation", (6, 4, 2, 3), 3),
        ("skip-video", (6, 4, 2, 3), 3),
    ]


def test_a_video_alone_against_its_own_image_layers(videos: dict[str, Path]) -> None:
    path = videos["all"]
    report = inflate.verify(path, **CPU)
    assert report.verdict == "bitwise"
    assert report.reference == report.candidate == (str(path), print_of(path))
    assert report.weights.compared == 0
    assert len(report.notes) == 1


@pytest.mark.parametrize(
    ("mode", "prefix", "write"),
    [("all", FIRST_STAGE, write_safetensors), ("conv-only", "", write_torch)],
)
def test_a_foreign_file_in_sgms_names(
    image: Path, videos: dict[str, Path], tmp_path: Path, mode: str, prefix: str, write: Any
) -> None:
    candidate = write(tmp_path / "foreign", prefixed(load_file(videos[mode]), prefix))
    # 0.3 in every residual block could be either.
    options = {**CPU, "merge_strategy": "learned"} if mode == "conv-only" else CPU
    report = inflate.verify(image, candidate, **options)
    assert report.verdict == "bitwise"
    assert report.weights.compared == len(autoencoder())
    assert len(report.notes) == 2
    assert report.weights.temporal is None
    assert {row.rule for row in report.plan} == {None}
    assert {row.origin for row in report.plan} == {"copied", "initialised", "passed-through"}
    assert inflate.verify(candidate, **options).verdict == "bitwise"


def test_a_bare_video_decoder(image: Path, videos: dict[str, Path], tmp_path: Path) -> None:
    weights = load_file(videos["all"])
    bare = {k.removeprefix("decoder."): v for k, v in weights.items() if k.startswith("decoder.")}
    candidate = write_safetensors(tmp_path / "bare.safetensors", bare)
    report = inflate.verify(image, candidate, **CPU)
    assert report.verdict == "bitwise"
    assert any("the candidate has no post_quant_conv" in note for note in report.notes)
    # Only what it holds can be compared: the decoder.
    assert report.weights.compared == sum(k.startswith("decoder.") for k in autoencoder())
    reference = write_torch(tmp_path / "bare.pt", bare_decoder(seed=1))
    assert inflate.verify(reference, candidate, **CPU).verdict == "fail"


def test_decoders_of_different_architectures(videos: dict[str, Path], tmp_path: Path) -> None:
    weights = autoencoder(z_channels=2, ch_mult=[1], num_res_blocks=2)
    reference = write_torch(tmp_path / "other.pt", weights)
    with pytest.raises(PlanError) as caught:
        inflate.verify(reference, videos["all"], **CPU)
    names = [problem.partition(":")[0] for problem in caught.value.problems]
    assert names == ["level_channels", "num_res_blocks", "z_channels"]


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_every_type_to_compute_in(tiny: Path, tiny_video: Path, dtype: Any) -> None:
    report = inflate.verify(tiny, tiny_video, dtype=dtype, **CPU)
    assert report.verdict == "bitwise"
    assert report.environment.dtype == dtype
    assert report.tolerance == Tolerance(TOLERANCES[dtype], TOLERANCES[dtype])


def test_what_a_check_runs_in() -> None:
    seen = []

    def decode(z: Tensor, frames: int) -> Tensor:
        convolution: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
        seen.append((convolution.fp32_precision, torch.is_inference_mode_enabled(), z.dtype))
        return z

    weights, types = WeightsResult(0, ()), ("float32", "float16")
    pair = DecoderPair(decode, decode, 2, weights, decode, types, ("n",))
    report = checked(pair, 0.0, dtype=torch.float64)
    assert set(seen) == {("ieee", True, torch.float64)}
    assert len(seen) == 3 * len(probes_for(torch.device("cpu")))
    assert report.cast is not None
    assert report.cast.max_abs_error == 0.0
    assert report.notes == ("n",)


UNREACHED = "decoder.mid.block_1.time_stack.in_layers.2.weight"
REACHED = "decoder.mid.block_1.time_stack.out_layers.3.weight"


@pytest.mark.parametrize("key", [UNREACHED, REACHED])
def test_temporal_tensors_that_differ_from_their_start_are_listed(
    image: Path, videos: dict[str, Path], tmp_path: Path, key: str
) -> None:
    candidate = nudged(videos["all"], tmp_path / "changed.safetensors", key)
    for files in ((image, candidate), (candidate,)):
        report = inflate.verify(*files, bisect=True, **CPU)
        assert report.verdict == ("bitwise" if key == UNREACHED else "fail")
        assert report.weights.different == ()
        assert report.weights.temporal is not None
        assert report.weights.temporal.changed == (key,)
        assert report.first_divergence == (None if key == UNREACHED else "decoder.mid.block_1")
        assert report.bisect is not None
        guilty = [suspect.name for suspect in report.bisect if suspect.guilty]
        assert guilty == ([] if key == UNREACHED else ["decoder.mid.block_1.time_stack"])


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 7, "dtype": "bfloat16", "float32_norms": True},
        {"layout": "sgm", "post_quant": "fold", "allow_inexact": True},
        {"layout": "decoder", "merge_strategy": "fixed", "video_kernel_size": (3, 1, 1)},
    ],
)
def test_a_start_can_be_made_again(tiny: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    output = tmp_path / "video.safetensors"
    inflate.convert(tiny, output, time_mode="all", skip_parity=True, **options, **CPU)
    report = inflate.verify(tiny, output, **CPU)
    temporal = report.weights.temporal
    assert temporal is not None
    assert (temporal.compared > 0, temporal.changed, report.verdict) == (True, (), "bitwise")


@pytest.mark.parametrize(("device", "fallback"), [("auto", True), ("cpu", False)])
def test_a_cpu_fallback_is_reported(
    tiny: Path, tiny_video: Path, device: str, fallback: bool, monkeypatch: Any
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert inflate.verify(tiny, tiny_video, device=device).environment.fallback == fallback


def image_file(path: Path, **architecture: Any) -> Path:
    """An image checkpoint whose own header records this of its architecture."""
    header = {"inflate.config": json.dumps({"architecture": architecture})}
    return write_safetensors(path, autoencoder(), header if architecture else None)


@pytest.mark.parametrize("setting", ["tanh_out=true", "attn_type=vanilla-xformers"])
def test_settings_of_a_conversion_hold_for_its_reference(setting: str, tmp_path: Path) -> None:
    image, output = image_file(tmp_path / "image.safetensors"), tmp_path / "video.safetensors"
    converted(image, output, set_=[setting])
    assert inflate.verify(image, output, **CPU).verdict == "bitwise"


def test_a_reference_that_says_otherwise_is_a_conflict(tmp_path: Path) -> None:
    output = tmp_path / "video.safetensors"
    inflate.convert(image_file(tmp_path / "a"), output, set_=["tanh_out=true"], **CPU)
    with pytest.raises(ConfigError) as caught:
        inflate.verify(image_file(tmp_path / "b", tanh_out=False), output, **CPU)
    assert len(caught.value.problems) == 1
    assert inflate.verify(image_file(tmp_path / "b", tanh_out=True), output, **CPU).passed


def test_another_reference_is_reported(
    image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    elsewhere = "0" * 64
    header = {**metadata_of(videos["all"]), "inflate.source.fingerprint": elsewhere}
    video = write_safetensors(tmp_path / "v.safetensors", load_file(videos["all"]), header)
    report = inflate.verify(image, video, **CPU)
    assert report.verdict == "bitwise"
    assert report.recorded_source == RecordedSource(image.name, elsewhere, given=False)
    assert elsewhere in " ".join(report.notes)
