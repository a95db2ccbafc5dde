"""Parity holds where it should, bit for bit, and not where it should not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import inflate
from inflate.parity.pair import Decode, DecoderPair
from inflate.parity.probes import LARGE_PROBES, SMALL_PROBES, Probe
from inflate.parity.result import WeightsResult

from ..checkpoints import (
    ATTENTION_IN_UP,
    DDCONFIG,
    NO_ATTENTION,
    autoencoder,
    write_lightning,
    write_torch,
)
from ..conversions import CPU, converted, image_decode, nudged, rewritten
from ..models.builders import noise
from .damage import checked

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
    "wrong in the last frame": over_time(lambda x: torch.cat([x[:, :-1], x[:, -1:] + 1], dim=1)),
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
    (ATTENTION_IN_UP, "all", "learned", 0.3, 3),
    (ATTENTION_IN_UP, "all", "fixed", 0.25, (3, 1, 1)),
    (ATTENTION_IN_UP, "attn-only", "fixed", 1, 3),
    (NO_ATTENTION, "all", "learned", 0.3, 3),
    (NO_ATTENTION, "conv-only", "learned", 0.3, 3),
    *(
        pytest.param(ATTENTION_IN_UP, *case, marks=pytest.mark.slow)
        for case in product(("all", "conv-only"), ("learned", "fixed"), (0, 1), ((5, 3, 3),))
    ),
]


@pytest.mark.parametrize(("changes", "mode", "merge", "alpha", "kernel"), CASES)
def test_every_start_is_bitwise_the_image_decoder(
    tmp_path: Path, changes: dict[str, Any], mode: str, merge: str, alpha: float, kernel: Any
) -> None:
    weights, path = autoencoder(**changes), tmp_path / "video.safetensors"
    image = write_lightning(tmp_path / "image.ckpt", weights)
    options: dict[str, Any] = {"time_mode": mode, "merge_strategy": merge, "alpha": alpha}
    report = converted(image, path, **options, video_kernel_size=kernel).parity
    assert report is not None
    assert report.max_abs_error == 0.0
    assert {probe.verdict for probe in report.probes} == {"bitwise"}
    assert report.weights.different == ()

    # Once more without the package's own check: a decoder filled by hand on the one side.
    z = noise(6, DDCONFIG["z_channels"], 3, 4)
    whole = inflate.load_video_autoencoder(path)
    with torch.inference_mode():
        assert torch.equal(whole.decode(z, timesteps=3), image_decode(weights, z, **changes))
