"""Parity holds where it should, bit for bit, and not where it should not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

import inflate
from inflate.parity.pair import Decode, DecoderPair
from inflate.parity.probes import LARGE_PROBES, SMALL_PROBES, Probe
from inflate.parity.result import Tolerance, WeightsResult

from ..checkpoints import (
    ATTENTION_IN_UP,
    CODES,
    DDCONFIG,
    NO_ATTENTION,
    autoencoder,
    write_lightning,
    write_torch,
)
from ..conversions import CPU, image_decode, nudged, rewritten
from ..models.builders import noise
from .damage import checked


def test_the_tolerance_is_the_callers(image: Path, videos: dict[str, Path], tmp_path: Path) -> None:
    key = "decoder.conv_out.time_mix_conv.bias"  # moves every pixel of a channel by itself
    clear = nudged(videos["all"], tmp_path / "clear.safetensors", key, by=1e-2)
    assert not inflate.verify(image, clear, **CPU).passed
    report = inflate.verify(image, clear, atol=0.011, rtol=0, **CPU)
    assert report.verdict == "within-tolerance"
    assert report.tolerance == Tolerance(0.011, 0)


AROUND = ("encoder.conv_in.weight", "quant_conv.weight")


@pytest.mark.parametrize("key", ["decoder.conv_in.weight", "post_quant_conv.weight", *AROUND])
def test_one_spatial_weight_changed(tiny: Path, tiny_video: Path, tmp_path: Path, key: str) -> None:
    candidate = nudged(tiny_video, tmp_path / "changed.safetensors", key)
    report = inflate.verify(tiny, candidate, **CPU)
    assert report.verdict == "fail"
    assert report.weights.different == (key,)
    # What stands before the latents shows in the weights alone.
    probes = {probe.verdict for probe in report.probes}
    assert probes == ({"bitwise"} if key in AROUND else {"fail"})


def test_the_last_bit_of_a_weight_counts(tmp_path: Path) -> None:
    key = "quantize.embedding.weight"

    def change(weights: dict[str, Tensor]) -> None:
        weights[key].view(-1)[0] = torch.nextafter(weights[key].view(-1)[0], torch.tensor(math.inf))

    source = write_torch(tmp_path / "vq.pt", autoencoder("vq", ch_mult=[1]))
    inflate.convert(source, **CPU)
    candidate = rewritten(tmp_path / "vq.video.safetensors", tmp_path / "bit.safetensors", change)
    report = inflate.verify(source, candidate, atol=1, **CPU)
    assert report.weights.different == (key,)
    assert not report.passed


def test_what_the_reference_lacks_is_different(tiny_video: Path, tmp_path: Path) -> None:
    weights = {k: v for k, v in autoencoder(ch_mult=[1]).items() if not k.startswith("encoder.")}
    reference = write_torch(tmp_path / "decoder.pt", weights)
    report = inflate.verify(reference, tiny_video, **CPU)
    assert report.verdict == "fail"
    assert {k.split(".")[0] for k in report.weights.different} == {"encoder"}


@pytest.mark.parametrize(
    ("bad", "sides"),
    [(math.nan, "reference"), (math.inf, "candidate"), (math.nan, "both"), (math.inf, "both")],
)
def test_weights_that_are_not_finite(
    tiny_video: Path, tmp_path: Path, bad: float, sides: str
) -> None:
    key = "decoder.conv_in.weight"

    def corrupt(weights: dict[str, Tensor]) -> None:
        weights[key].view(-1)[0] = bad

    source = autoencoder(ch_mult=[1])
    if sides != "candidate":
        corrupt(source)
    reference = write_torch(tmp_path / "reference.pt", source)
    candidate = tiny_video
    if sides != "reference":
        candidate = rewritten(candidate, tmp_path / "corrupted.safetensors", corrupt)
    report = inflate.verify(reference, candidate, atol=1e9, **CPU)
    assert report.verdict == "fail"
    assert report.max_abs_error is None
    assert report.not_finite == ((key,) if sides != "reference" else ())
    assert report.weights.different == (() if sides == "both" else (key,))


def unchanged(z: Tensor, _frames: int) -> Tensor:
    return z


def over_time(change: Callable[[Tensor], Tensor]) -> Decode:
    """A candidate that changes ``B T C H W``."""
    return lambda z, t: change(z.unflatten(0, (-1, t))).flatten(0, 1)


MIXES: dict[str, Decode] = {
    "frames reversed": over_time(lambda x: x.flip(1)),
    "frames moved on by one": over_time(lambda x: x.roll(1, dims=1)),
    "the first frame alone": over_time(lambda x: x[:, :1].expand_as(x)),
    "frames averaged": over_time(lambda x: x.mean(1, keepdim=True).expand_as(x)),
    "videos exchanged": over_time(lambda x: x.flip(0)),
    "time before video": over_time(lambda x: x.transpose(0, 1)),
    "a trace of the frame before": over_time(lambda x: x + 1e-3 * x.roll(1, dims=1)),
    "a trace of another video": over_time(lambda x: x + 1e-3 * x.roll(1, dims=0)),
    "mirrored": over_time(lambda x: x.flip(-1)),
    "wrong for a single frame": over_time(lambda x: x + (x.shape[1] == 1)),
    "wrong for two frames": over_time(lambda x: x + (x.shape[1] == 2)),
    "wrong for odd frames": over_time(lambda x: x + (x.shape[1] in (3, 5))),
    "wrong for several videos": over_time(lambda x: x + (x.shape[0] > 1)),
    "wrong for wide pictures": over_time(lambda x: x + (x.shape[-1] > x.shape[-2])),
    "wrong for tall pictures": over_time(lambda x: x + (x.shape[-1] < x.shape[-2])),
    "wrong in a corner": over_time(lambda x: F.pad(x[..., 1:, 1:], (1, 0, 1, 0))),
}


@pytest.mark.parametrize("probes", [SMALL_PROBES[:2], SMALL_PROBES, LARGE_PROBES[:2], LARGE_PROBES])
@pytest.mark.parametrize("mix", MIXES)
def test_a_candidate_that_mixes_what_it_should_not(mix: str, probes: Sequence[Probe]) -> None:
    pair = DecoderPair(unchanged, MIXES[mix], 3, WeightsResult(1, ()))
    report = checked(pair, 1e-5, probes=probes)
    if mix == "wrong for two frames" and len(probes) == 2:
        assert report.passed, "only verify has videos of two frames"
        return
    assert report.verdict == "fail"
    errors = [probe.max_abs_error for probe in report.probes]
    assert report.max_abs_error == max(e for e in errors if e is not None) > 0


CASES: list[Any] = [
    ("all", "learned", 0.3, 3),
    ("all", "fixed", 0.25, (3, 1, 1)),
    ("attn-only", "fixed", 1, 3),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in product(("all", "conv-only"), ("learned", "fixed"), (0, 1), ((5, 3, 3),))
    ),
]


@pytest.fixture(scope="module")
def rich_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with attention inside ``up`` too."""
    folder = tmp_path_factory.mktemp("rich")
    return write_lightning(folder / "rich.ckpt", autoencoder(**ATTENTION_IN_UP))


@pytest.mark.parametrize(("mode", "merge", "alpha", "kernel"), CASES)
def test_every_start_is_bitwise_the_image_decoder(
    rich_image: Path, tmp_path: Path, mode: Any, merge: Any, alpha: float, kernel: Any
) -> None:
    path = tmp_path / "video.safetensors"
    options = {"time_mode": mode, "merge_strategy": merge, "alpha": alpha}
    result = inflate.convert(rich_image, path, **options, video_kernel_size=kernel, **CPU)
    report = result.parity
    assert report is not None
    assert (report.verdict, report.max_abs_error) == ("bitwise", 0.0)
    assert {probe.verdict for probe in report.probes} == {"bitwise"}
    assert report.weights.different == ()

    # Once more without the package's own check: a decoder filled by hand on the one side.
    z = noise(6, DDCONFIG["z_channels"], 3, 4)
    expected = image_decode(autoencoder(**ATTENTION_IN_UP), z, **ATTENTION_IN_UP)
    whole = inflate.load_video_autoencoder(path)
    with torch.inference_mode():
        assert torch.equal(whole.decode(z, timesteps=3), expected)


@pytest.mark.parametrize(
    ("kind", "mode", "changes"),
    [
        ("vq", "all", {}),
        ("plain", "attn-only", {}),
        ("kl", "all", NO_ATTENTION),
        ("kl", "conv-only", NO_ATTENTION),
    ],
)
def test_every_kind_is_bitwise(
    tmp_path: Path, kind: str, mode: str, changes: dict[str, Any]
) -> None:
    source = write_torch(tmp_path / "image.pt", autoencoder(kind, ch_mult=[1], **changes))
    result = inflate.convert(source, time_mode=mode, alpha=0.3, **CPU)
    assert result.parity is not None
    assert result.parity.verdict == "bitwise"
    weights = load_file(tmp_path / "image.video.safetensors")
    assert ("post_quant_conv.weight" in weights) == (kind != "plain")
    if kind == "vq":
        assert weights["quantize.embedding.weight"].shape[0] == CODES
