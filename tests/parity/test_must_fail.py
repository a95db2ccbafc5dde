"""Parity does not hold where it should not: each kind of damage is found, and no harmless one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import inflate
from inflate.models import VideoDecoder
from inflate.parity.metrics import Tolerance
from inflate.parity.pair import DecoderPair
from inflate.parity.probes import SMALL_PROBES, SMALL_THOROUGH_PROBES, Probe
from inflate.parity.result import ParityReport, WeightsResult
from inflate.parity.verify import run_check

from ..checkpoints import DDCONFIG, autoencoder, write_torch
from ..conversions import CPU, nudged, rewritten
from ..models.builders import shapes_of

TEMPORAL = ("time_stack", "time_mix_block", "time_mix_conv", "video_time_embed", "mix_factor")
BLOCKS = ("mid.block_1.", "mid.attn_1.", "conv_out.")


def temporal_keys() -> list[str]:
    """The temporal tensors of one block of each kind."""
    with torch.device("meta"):
        keys = shapes_of(VideoDecoder(**DDCONFIG, time_mode="all"))
    return [k for k in keys if k.startswith(BLOCKS) and not set(TEMPORAL).isdisjoint(k.split("."))]


REACHING = {
    f"{layer}.{name}"
    for name in ("weight", "bias")
    for layer in (
        "conv_out.time_mix_conv",
        "mid.block_1.time_stack.out_layers.3",
        "mid.attn_1.time_mix_block.attn1.to_out.0",
        "mid.attn_1.time_mix_block.attn2.to_out.0",
        "mid.attn_1.time_mix_block.ff_in.net.2",
        "mid.attn_1.time_mix_block.ff.net.2",
        "mid.attn_1.video_time_embed.2",
    )
}
"""What must be exactly as it starts; everything else stands before a layer of zeros."""


@pytest.mark.parametrize("key", sorted(REACHING))
def test_one_temporal_number_fails_where_it_reaches_the_output(
    image: Path, videos: dict[str, Path], tmp_path: Path, key: str
) -> None:
    candidate = nudged(videos["all"], tmp_path / "nudged.safetensors", f"decoder.{key}")
    for files in ((image, candidate), (candidate,)):
        report = inflate.verify(*files, **CPU)
        assert report.verdict == "fail"
        assert report.weights.different == ()


def test_all_others_together_fail_nothing(
    image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    others = sorted(f"decoder.{key}" for key in set(temporal_keys()) - REACHING)

    def change(weights: dict[str, Tensor]) -> None:
        for key in others:
            weights[key] += 0.1

    candidate = rewritten(videos["all"], tmp_path / "changed.safetensors", change)
    report = inflate.verify(image, candidate, **CPU)
    assert report.verdict == "bitwise"
    assert report.weights.temporal is not None
    assert sorted(report.weights.temporal.changed) == others


def test_a_tap_over_time_shows_only_where_there_is_time(
    image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    key = "decoder.conv_out.time_mix_conv.weight"  # its first number is of the frame before
    candidate = nudged(videos["conv-only"], tmp_path / "tap.safetensors", key)
    report = inflate.verify(image, candidate, **CPU)
    decoded = [p for p in report.probes if p.name != "skip-video"]
    assert {p.frames: p.verdict for p in decoded} == {1: "bitwise", 2: "fail", 3: "fail"}


def test_a_fixed_blend_with_alpha_0_is_dead(image: Path, tmp_path: Path) -> None:
    video = tmp_path / "fixed.safetensors"
    inflate.convert(image, video, time_mode="all", merge_strategy="fixed", alpha=0, **CPU)
    for key in ("mid.block_1.time_stack.out_layers.3.bias", "mid.attn_1.video_time_embed.2.bias"):
        candidate = nudged(video, tmp_path / "nudged.safetensors", f"decoder.{key}", by=100)
        assert inflate.verify(image, candidate, **CPU).verdict == "bitwise"


def test_the_tolerance_is_the_callers(image: Path, videos: dict[str, Path], tmp_path: Path) -> None:
    key = "decoder.conv_out.time_mix_conv.bias"  # moves every pixel of a channel by itself
    slight = nudged(videos["all"], tmp_path / "slight.safetensors", key, by=1e-6)
    report = inflate.verify(image, slight, **CPU)
    assert report.verdict == "within-tolerance"
    assert report.passed
    assert report.max_abs_error == pytest.approx(1e-6, rel=0.5)
    assert not inflate.verify(image, slight, atol=0, rtol=0, **CPU).passed

    clear = nudged(videos["all"], tmp_path / "clear.safetensors", key, by=1e-2)
    assert not inflate.verify(image, clear, **CPU).passed
    report = inflate.verify(image, clear, atol=0.011, rtol=0, **CPU)
    assert report.verdict == "within-tolerance"
    assert report.tolerance == Tolerance(0.011, 0)


DECODED = ("decoder.conv_in.weight", "decoder.mid.attn_1.proj_out.weight", "decoder.conv_out.bias")
AROUND = ("encoder.conv_in.weight", "quant_conv.weight")


@pytest.mark.parametrize("key", [*DECODED, "post_quant_conv.weight", *AROUND])
@pytest.mark.parametrize("mode", ["all"])
def test_one_spatial_weight_changed(
    image: Path, videos: dict[str, Path], tmp_path: Path, mode: str, key: str
) -> None:
    candidate = nudged(videos[mode], tmp_path / "changed.safetensors", key)
    report = inflate.verify(image, candidate, **CPU)
    assert report.verdict == "fail"
    assert report.weights.different == (key,)
    # What stands before the latents shows in the weights alone.
    probes = {probe.verdict for probe in report.probes}
    assert probes == ({"bitwise"} if key in AROUND else {"fail"})


def test_the_last_bit_of_a_weight_counts(
    image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    def change(weights: dict[str, Tensor]) -> None:
        first = weights["encoder.conv_in.weight"].view(-1)
        first[0] = torch.nextafter(first[0], torch.tensor(math.inf))

    candidate = rewritten(videos["all"], tmp_path / "bit.safetensors", change)
    report = inflate.verify(image, candidate, **CPU)
    assert report.weights.different == ("encoder.conv_in.weight",)
    assert not report.passed
    assert not inflate.verify(image, candidate, atol=1, **CPU).passed


def test_a_changed_codebook(tmp_path: Path) -> None:
    source = write_torch(tmp_path / "vq.pt", autoencoder("vq"))
    video = tmp_path / "vq.video.safetensors"
    inflate.convert(source, **CPU)
    changed = nudged(video, tmp_path / "changed.safetensors", "quantize.embedding.weight")
    report = inflate.verify(source, changed, **CPU)
    assert report.verdict == "fail"
    assert report.weights.different == ("quantize.embedding.weight",)


def test_what_the_reference_lacks_is_different(videos: dict[str, Path], tmp_path: Path) -> None:
    weights = {k: v for k, v in autoencoder().items() if not k.startswith("encoder.")}
    reference = write_torch(tmp_path / "decoder.pt", weights)
    report = inflate.verify(reference, videos["all"], **CPU)
    assert report.verdict == "fail"
    assert {k.split(".")[0] for k in report.weights.different} == {"encoder"}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("sides", ["reference", "candidate", "both"])
def test_a_file_with_weights_that_are_not_finite(
    videos: dict[str, Path], tmp_path: Path, bad: float, sides: str
) -> None:
    key = "decoder.conv_in.weight"

    def spoil(weights: dict[str, Tensor]) -> None:
        weights[key].view(-1)[0] = bad

    source = autoencoder()
    if sides != "candidate":
        spoil(source)
    reference = write_torch(tmp_path / "reference.pt", source)
    candidate = videos["all"]
    if sides != "reference":
        candidate = rewritten(candidate, tmp_path / "spoilt.safetensors", spoil)
    report = inflate.verify(reference, candidate, atol=1e9, **CPU)
    assert report.verdict == "fail"
    assert report.max_abs_error is None
    # Equal infinities are equal weights; NaN is never equal to itself.
    same = sides == "both" and not math.isnan(bad)
    assert report.weights.different == (() if same else (key,))


Decoding = Callable[[Tensor, int], Tensor]


def checked(
    candidate: Decoding,
    reference: Decoding = lambda z, _: z,
    probes: Sequence[Probe] | None = None,
    weights: WeightsResult = WeightsResult(1, ()),  # noqa: B008 - it is frozen
) -> ParityReport:
    """A check of two functions in the place of decoders."""
    return run_check(
        DecoderPair(reference, candidate, 3, weights),
        reference=("r", "0"),
        candidate=("c", "1"),
        dtype=torch.float32,
        device=torch.device("cpu"),
        tolerance=Tolerance(1e-5, 1e-5),
        probes=probes,
    )


def over_time(change: Callable[[Tensor], Tensor]) -> Decoding:
    """A candidate that does something to ``B T C H W``, and says nothing of the frames to it."""
    return lambda z, t: change(z.unflatten(0, (-1, t))).flatten(0, 1)


MIXES: dict[str, Decoding] = {
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


@pytest.mark.parametrize("probes", [SMALL_PROBES, SMALL_THOROUGH_PROBES], ids=["few", "all"])
@pytest.mark.parametrize("mix", MIXES)
def test_a_candidate_that_mixes_what_it_should_not(mix: str, probes: Sequence[Probe]) -> None:
    report = checked(MIXES[mix], probes=probes)
    if mix == "wrong for two frames" and probes is SMALL_PROBES:
        assert report.passed, "only verify has videos of two frames"
        return
    assert report.verdict == "fail"
    assert not report.passed
    errors = [probe.max_abs_error for probe in report.probes]
    assert report.max_abs_error == max(e for e in errors if e is not None) > 0


def test_one_bad_probe_is_enough() -> None:
    report = checked(lambda z, t: z * math.nan if t == 3 else z)
    assert [p.verdict for p in report.probes] == ["bitwise", "fail"]
    assert (report.verdict, report.max_abs_error) == ("fail", None)


def test_no_probes_prove_nothing() -> None:
    report = checked(lambda z, _: z, probes=())
    assert (report.verdict, report.max_abs_error) == ("fail", None)


def test_different_weights_fail_whatever_the_probes_say() -> None:
    report = checked(lambda z, _: z, weights=WeightsResult(2, ("decoder.conv_in.weight",)))
    assert {p.verdict for p in report.probes} == {"bitwise"}
    assert report.verdict == "fail"
