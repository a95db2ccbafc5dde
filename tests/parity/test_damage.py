"""Each kind of damage fails a check, and the report names the layer where it sits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inflate.models import Decoder, VideoDecoder, temporal
from inflate.parity.probes import SMALL_PROBES
from inflate.parity.result import OverflowResult, ParityReport
from inflate.parity.verify import Scope

from ..checkpoints import ATTENTION_IN_UP, DDCONFIG
from ..models.builders import shapes_of
from .damage import check, sound_pair

WIDE = {"ch_mult": [2, 3]}
"""More than one channel a group: alone in it, a bias is what the next norm takes out again."""

CONFIG: dict[str, Any] = {
    **DDCONFIG,
    **ATTENTION_IN_UP,
    **WIDE,
    "time_mode": "all",
    "alpha": 0.3,
}
BISECT = Scope(layers=True, bisect=True)
ONE = [probe for probe in SMALL_PROBES if probe.name == "two-videos"]
"""Enough to show any tensor; each probe alone is tried elsewhere."""

ZEROED = {
    "time_stack": ("out_layers.3",),
    "time_mix_block": ("attn1.to_out.0", "attn2.to_out.0", "ff_in.net.2", "ff.net.2"),
    "video_time_embed": ("2",),
}
"""In each temporal branch, the layers whose zeros make it an identity."""


def keys_of(kind: type[Decoder], **config: Any) -> list[str]:
    with torch.device("meta"):
        return list(shapes_of(kind(**config)))


SPATIAL = keys_of(Decoder, **{k: v for k, v in CONFIG.items() if k not in ("time_mode", "alpha")})
TEMPORAL = [key for key in keys_of(VideoDecoder, **CONFIG) if key not in SPATIAL]


def branch_of(key: str) -> tuple[str, str, str]:
    """A temporal key as block, branch and the rest: ``mid.block_1``, ``time_stack``, ..."""
    parts = key.split(".")
    at = next(i for i, part in enumerate(parts) if part in (*ZEROED, "time_mix_conv"))
    return ".".join(parts[:at]), parts[at], ".".join(parts[at + 1 : -1])


def reaches(key: str) -> bool:
    """Whether a temporal tensor moves the output, its branch being blended in."""
    if key.endswith(".mix_factor"):
        return False  # Both branches are equal, whatever their shares.
    _, branch, layer = branch_of(key)
    return branch == "time_mix_conv" or layer in ZEROED[branch]


REACHING = [key for key in TEMPORAL if reaches(key)]
ONE_OF_EACH = (
    *("conv_in.", "mid.block_1.", "mid.attn_1.", "up.1.upsample.", "up.0.block.0."),
    *("norm_out.", "conv_out."),
)
"""Blocks of every kind, in one of each place."""


def spoil(decoder: nn.Module, key: str, by: float = 1.0) -> None:
    """Move one number of a tensor."""
    decoder.state_dict()[key].view(-1)[0] += by


def module_of(key: str) -> str:
    """The temporal module that a key belongs to, as a bisection names it."""
    block, branch, _ = branch_of(key)
    return f"decoder.{block}.{'time_mix_block' if branch == 'video_time_embed' else branch}"


@pytest.mark.parametrize("key", [key for key in REACHING if key.startswith(ONE_OF_EACH)])
def test_any_one_temporal_tensor_that_reaches_the_output(key: str) -> None:
    image, video = sound_pair(**CONFIG)
    spoil(video, key)
    report = check(image, video, scope=BISECT, probes=ONE)
    assert report.verdict == "fail"
    assert report.first_divergence == f"decoder.{branch_of(key)[0]}"
    assert report.bisect is not None
    assert report.bisect.guilty == (module_of(key),)
    left = {suspect.name: suspect.max_abs_error for suspect in report.bisect.suspects}
    assert left.pop(module_of(key)) == 0.0
    assert set(left.values()) == {report.max_abs_error}


def test_temporal_tensors_that_do_not_reach_the_output_fail_nothing() -> None:
    image, video = sound_pair(**CONFIG)
    for key in TEMPORAL:
        if not reaches(key):
            spoil(video, key)
    report = check(image, video)
    assert report.verdict == "bitwise"
    assert report.first_divergence is None
    assert {layer.verdict for layer in report.layers} == {"bitwise"}


@pytest.mark.parametrize("key", [key for key in SPATIAL if key.startswith(ONE_OF_EACH)])
def test_any_one_spatial_tensor(key: str) -> None:
    image, video = sound_pair(**CONFIG)
    spoil(video, key)
    report = check(image, video, scope=Scope(layers=True), probes=ONE)
    assert report.first_divergence == f"decoder.{key.rpartition('.')[0]}"
    # That bias moves all scores of a query alike, which softmax takes out again: the layer tells,
    # and the weights, but not the images.
    assert report.verdict == ("within-tolerance" if key.endswith(".k.bias") else "fail")


def verdicts(report: ParityReport) -> dict[str, str]:
    return {probe.name: probe.verdict for probe in report.probes}


def test_frames_out_of_order(monkeypatch: pytest.MonkeyPatch) -> None:
    image, video = sound_pair(**CONFIG)
    fold = temporal.fold_frames

    monkeypatch.setattr(temporal, "fold_frames", lambda x: fold(x.flip(2)))
    report = check(image, video)
    assert report.first_divergence == "decoder.mid.block_1"
    whole = {name for name, verdict in verdicts(report).items() if verdict != "fail"}
    assert whole == {"single-frame", "skip-video"}
    (three,) = (probe for probe in report.probes if probe.name == "two-videos")
    errors = {part.name: part.max_abs_error or 0.0 for part in three.parts}
    # In reverse order the middle frame alone stays where it was.
    assert min(errors["first frame"], errors["last frame"]) > 1000 * errors["middle frame"]


def test_one_wrong_frame_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    image, video = sound_pair(**CONFIG)
    fold = temporal.fold_frames

    def spoilt(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, :, -1] += 0.0 if x.shape[1] > 3 else 0.1  # The output alone has three channels.
        return fold(x)

    monkeypatch.setattr(temporal, "fold_frames", spoilt)
    report = check(image, video)
    assert report.first_divergence == "decoder.conv_out"
    (three,) = (probe for probe in report.probes if probe.name == "two-videos")
    parts = {part.name: part.verdict for part in three.parts}
    assert parts == {
        "first frame": "bitwise",
        "middle frame": "bitwise",
        "last frame": "fail",
    }
    assert three.worst is not None
    assert three.worst.frame == 2


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_a_dirac_off_centre(axis: int) -> None:
    image, video = sound_pair(**CONFIG)
    weight = video.state_dict()["conv_out.time_mix_conv.weight"]
    weight.copy_(weight.roll(1, dims=axis))
    report = check(image, video, scope=BISECT)
    assert report.verdict == "fail"
    assert report.first_divergence == "decoder.conv_out"
    assert report.bisect is not None
    assert report.bisect.guilty == ("decoder.conv_out.time_mix_conv",)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_that_went_through_a_narrower_type(dtype: torch.dtype) -> None:
    image, video = sound_pair(**CONFIG)
    video.to(dtype).float()
    report = check(image, video)
    assert report.verdict == "fail"
    assert report.first_divergence == "decoder.conv_in"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("key", "layer"),
    [
        ("mid.block_2.time_stack.out_layers.3.bias", "decoder.mid.block_2"),
        ("mid.attn_1.time_mix_block.ff.net.2.bias", "decoder.mid.attn_1"),
        ("up.1.attn.1.v.weight", "decoder.up.1.attn.1.v"),
        ("conv_out.time_mix_conv.weight", "decoder.conv_out"),
    ],
)
def test_what_is_not_finite(key: str, layer: str, bad: float) -> None:
    image, video = sound_pair(**CONFIG)
    spoil(video, key, bad)
    report = check(image, video)
    assert (report.verdict, report.max_abs_error) == ("fail", None)
    assert report.first_divergence == layer
    assert report.overflow is None
    (found,) = (one for one in report.layers if one.name == layer)
    assert not found.errors.finite
    assert found.errors.max_abs is None


def test_several_guilty_modules_are_named_in_one_run() -> None:
    image, video = sound_pair(**CONFIG)
    keys = (
        "mid.block_1.time_stack.out_layers.3.bias",
        "up.1.attn.0.video_time_embed.2.bias",
        "conv_out.time_mix_conv.bias",
    )
    for key in keys:
        spoil(video, key)
    report = check(image, video, scope=BISECT)
    assert report.bisect is not None
    assert report.bisect.guilty == tuple(module_of(key) for key in keys)
    # With one of them an identity the others' errors are left.
    assert all(suspect.max_abs_error for suspect in report.bisect.suspects)
    assert report.first_divergence == "decoder.mid.block_1"


@pytest.mark.parametrize("key", ["conv_in.weight", "mid.block_1.conv2.bias", "conv_out.bias"])
def test_no_temporal_module_is_guilty_of_a_spatial_fault(key: str) -> None:
    image, video = sound_pair(**CONFIG)
    spoil(video, key)
    report = check(image, video, scope=BISECT)
    assert report.bisect is not None
    assert report.bisect.guilty == ()
    assert report.notes


def test_a_temporal_and_a_spatial_fault_are_told_apart() -> None:
    image, video = sound_pair(**CONFIG)
    spoil(video, "mid.block_2.conv1.weight")
    spoil(video, "up.0.block.0.time_stack.out_layers.3.bias")
    report = check(image, video, scope=BISECT)
    assert report.first_divergence == "decoder.mid.block_2.conv1"
    assert report.bisect is not None
    assert report.bisect.guilty == ("decoder.up.0.block.0.time_stack",)


@pytest.mark.parametrize(
    ("dtype", "verdict", "overflow"),
    [
        (torch.float16, "fail", ("float16", "decoder.up.0.block.0.conv2", "bfloat16")),
        (torch.bfloat16, "bitwise", None),
        (torch.float32, "bitwise", None),
    ],
)
def test_an_image_decoder_that_overflows_says_which_type_to_use(
    dtype: torch.dtype, verdict: str, overflow: tuple[str, str, str] | None
) -> None:
    image, video = sound_pair(dtype=dtype, **CONFIG)
    for decoder in (image, video):
        decoder.state_dict()["up.0.block.0.conv2.weight"].mul_(1e5)
        assert all(weight.isfinite().all() for weight in decoder.state_dict().values())
    report = check(image, video, dtype=dtype)
    assert report.verdict == verdict
    assert report.overflow == (None if overflow is None else OverflowResult(*overflow))
    assert report.first_divergence is None
    assert bool(report.notes) == (overflow is not None)


def test_what_no_type_can_hold_is_no_overflow() -> None:
    image, video = sound_pair(**CONFIG)
    for decoder in (image, video):
        spoil(decoder, "mid.block_1.conv1.weight", math.nan)
    report = check(image, video)
    assert report.verdict == "fail"
    assert report.overflow is None
    assert report.first_divergence == "decoder.mid.block_1.conv1"


def test_a_failure_is_located_though_nobody_asked() -> None:
    image, video = sound_pair(**CONFIG)
    assert check(image, video, scope=Scope()).layers == ()
    spoil(video, "mid.block_2.conv1.weight")
    report = check(image, video, scope=Scope())
    assert report.first_divergence == "decoder.mid.block_2.conv1"
    assert report.floor is None
    assert report.bisect is None
