"""Each kind of damage fails a check, the report names its layer, and a blind check is found out."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from inflate.inflation.initializers import IDENTITY_LAYERS
from inflate.parity.faults import self_test
from inflate.parity.metrics import judge
from inflate.parity.probes import Probe, probes_for
from inflate.parity.result import OverflowResult, Tolerance
from inflate.vocabulary import TEMPORAL_PARTS, TemporalPart

from ..checkpoints import ATTENTION_IN_UP, DDCONFIG
from .damage import check, pair_of, sound_pair

WIDE = {"ch_mult": [2, 3]}
"""More than one channel per group: alone in it, a bias is what the next norm takes out again."""

CONFIG: dict[str, Any] = {**DDCONFIG, **ATTENTION_IN_UP, **WIDE, "time_mode": "all", "alpha": 0.3}
ONE = probes_for(torch.device("cpu"))


SPATIAL, BOTH = (list(decoder.state_dict()) for decoder in sound_pair(**CONFIG))
TEMPORAL = [key for key in BOTH if key not in SPATIAL]


def branch_of(key: str) -> tuple[str, TemporalPart, str]:
    """A temporal key as block, branch and the rest: ``mid.block_1``, ``time_stack``, ..."""
    parts = key.split(".")
    part = next(part for part in TEMPORAL_PARTS if part in parts)
    at = parts.index(part)
    return ".".join(parts[:at]), part, ".".join(parts[at + 1 : -1])


def reaches(key: str) -> bool:
    """Whether a temporal tensor moves the output, its branch being blended in."""
    if key.endswith(".mix_factor"):
        return False  # Both branches are equal, whatever their shares.
    _, branch, layer = branch_of(key)
    return branch == "time_mix_conv" or layer in IDENTITY_LAYERS[branch]


def one_of_each(keys: list[str], *parts: str) -> list[str]:
    return [next(key for key in keys if part in key) for part in parts]


def corrupt(decoder: nn.Module, key: str, by: float = 1.0) -> None:
    """Move one number of a tensor."""
    decoder.state_dict()[key].view(-1)[0] += by


def module_of(key: str) -> str:
    """The temporal module that a key belongs to, as a bisection names it."""
    block, branch, _ = branch_of(key)
    return f"decoder.{block}.{'time_mix_block' if branch == 'video_time_embed' else branch}"


@pytest.mark.parametrize(
    "key",
    one_of_each(
        [key for key in TEMPORAL if reaches(key)],
        *("mid.block_1.time_stack", "up.0.block.0.time_stack", "attn1.to_out", "attn2.to_out"),
        *("ff_in.net.2", "ff.net.2.bias", "time_embed.2.bias", "conv.weight"),
    ),
)
def test_any_one_temporal_tensor_that_reaches_the_output(key: str) -> None:
    image, video = sound_pair(**CONFIG)
    corrupt(video, key)
    report = check(image, video, find_faulty=True, probes=ONE)
    assert report.verdict == "fail"
    assert report.first_divergence == f"decoder.{branch_of(key)[0]}"
    assert report.bisect is not None
    assert [s.name for s in report.bisect if s.guilty] == [module_of(key)]
    left = {suspect.name: suspect.max_abs_error for suspect in report.bisect}
    assert left.pop(module_of(key)) == 0.0
    assert set(left.values()) == {report.probes[0].max_abs_error}


def test_temporal_tensors_that_do_not_reach_the_output_fail_nothing() -> None:
    image, video = sound_pair(**CONFIG)
    for key in TEMPORAL:
        if not reaches(key):
            corrupt(video, key)
    report = check(image, video)
    assert report.verdict == "bitwise"
    assert report.first_divergence is None
    assert {layer.verdict for layer in report.layers} == {"bitwise"}


@pytest.mark.parametrize(
    "key",
    one_of_each(
        SPATIAL,
        *("conv_in.weight", "norm1.weight", "mid.attn_1.k.bias", "attn_1.proj_out.weight"),
        *("upsample.conv.bias", "norm_out.bias", "conv_out.bias"),
    ),
)
def test_any_one_spatial_tensor(key: str) -> None:
    image, video = sound_pair(**CONFIG)
    corrupt(video, key)
    report = check(image, video, find_faulty=True, probes=ONE)
    assert report.first_divergence == f"decoder.{key.rpartition('.')[0]}"
    assert report.bisect is not None
    assert not any(suspect.guilty for suspect in report.bisect), "no temporal module is"
    # That bias moves all scores of a query alike, which softmax takes out again: the layer and
    # the weights show it, but not the images.
    assert report.verdict == ("within-tolerance" if key.endswith(".k.bias") else "fail")


@pytest.mark.parametrize(
    ("key", "layer", "bad"),
    [
        ("mid.block_2.time_stack.out_layers.3.bias", "decoder.mid.block_2", math.nan),
        ("up.1.attn.1.v.weight", "decoder.up.1.attn.1.v", math.nan),
        ("conv_out.time_mix_conv.weight", "decoder.conv_out", math.inf),
    ],
)
def test_what_is_not_finite(key: str, layer: str, bad: float) -> None:
    image, video = sound_pair(**CONFIG)
    corrupt(video, key, bad)
    report = check(image, video)
    assert (report.verdict, report.max_abs_error) == ("fail", None)
    assert (report.first_divergence, report.overflow) == (layer, None)
    (found,) = (one for one in report.layers if one.name == layer)
    assert not found.errors.finite


def test_every_guilty_module_is_named_and_no_other() -> None:
    image, video = sound_pair(**CONFIG)
    temporal = (
        "mid.block_2.time_stack.out_layers.3.bias",
        "up.1.attn.0.video_time_embed.2.bias",
        "conv_out.time_mix_conv.bias",
    )
    for key in ("mid.block_1.conv2.bias", *temporal):
        corrupt(video, key)
    report = check(image, video, find_faulty=True, probes=ONE)
    assert (report.verdict, report.first_divergence) == ("fail", "decoder.mid.block_1.conv2")
    assert report.bisect is not None
    guilty = [suspect.name for suspect in report.bisect if suspect.guilty]
    assert guilty == [module_of(key) for key in temporal]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_image_decoder_that_overflows_says_which_type_to_use(dtype: torch.dtype) -> None:
    image, video = sound_pair(dtype=dtype, **CONFIG)
    for decoder in (image, video):
        decoder.state_dict()["up.0.block.0.conv2.weight"].mul_(1e5)
        assert all(weight.isfinite().all() for weight in decoder.state_dict().values())
    report = check(image, video, dtype=dtype)
    overflow = OverflowResult("float16", "decoder.up.0.block.0.conv2", "bfloat16")
    expected = ("fail", overflow) if dtype == torch.float16 else ("bitwise", None)
    assert (report.verdict, report.overflow) == expected
    assert report.first_divergence is None


def test_a_failure_is_located_though_not_requested() -> None:
    image, video = sound_pair(**CONFIG)
    assert check(image, video, thorough=False).layers == ()
    corrupt(video, "mid.block_2.conv1.weight")
    report = check(image, video, thorough=False)
    assert report.first_divergence == "decoder.mid.block_2.conv1"
    assert report.floor is None
    assert report.bisect is None


ALL = {"temporal-bias", "spatial-weight", "branch-not-zeroed", "dirac-off-centre", "frames-swapped"}


@pytest.mark.parametrize(
    ("config", "left_out"),
    [
        ({"time_mode": "all"}, set()),
        ({"time_mode": "conv-only", "attn_type": "none", "video_kernel_size": (1, 3, 3)}, set()),
        ({"time_mode": "all", "video_kernel_size": 1}, {"dirac-off-centre"}),
        ({"time_mode": "attn-only"}, {"dirac-off-centre"}),
        ({"time_mode": "all", "merge_strategy": "fixed", "alpha": 0.0}, {"branch-not-zeroed"}),
        ({"time_mode": "attn-only", "ch_mult": [1]}, {"temporal-bias", "dirac-off-centre"}),
        (
            {"time_mode": "attn-only", "alpha": -20.0},
            {"branch-not-zeroed", "dirac-off-centre", "temporal-bias"},
        ),
    ],
)
def test_every_damage_is_caught(config: dict[str, Any], left_out: set[str]) -> None:
    image, video = sound_pair(**{**DDCONFIG, "alpha": 0.3, **config})
    before = {key: value.clone() for key, value in video.state_dict().items()}
    report = check(image, video, thorough=False, test_itself=True)
    assert report.verdict == "bitwise"
    # In memory only, and put back.
    after = video.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert report.self_test is not None
    caught = {damage.name: damage.caught_by for damage in report.self_test}
    assert caught.keys() == ALL - left_out
    assert set(caught.values()) == {"two-videos"}
    assert len([note for note in report.notes if note.startswith("self-test: ")]) == len(left_out)


@pytest.mark.parametrize("kernel", [(3, 5, 5), (7, 1, 1), (1, 3, 9)])
def test_the_probe_of_a_conversion_reaches_every_weight_of_a_kernel(kernel: Any) -> None:
    image, video = sound_pair(**{**DDCONFIG, "time_mode": "conv-only", "video_kernel_size": kernel})
    probes = probes_for(torch.device("cpu"), kernel)
    assert check(image, video, thorough=False, probes=probes).verdict == "bitwise"
    for tap in (0, -1):
        damaged = copy.deepcopy(video)
        layer: Any = damaged.get_submodule("mid.block_1.time_stack.out_layers.3")
        layer.weight.data[:, :, tap, tap, tap] = 1.0
        assert check(image, damaged, thorough=False, probes=probes).verdict == "fail"


def test_a_blind_check_is_found_out() -> None:
    image, video = sound_pair(**{**DDCONFIG, "time_mode": "all"})
    blind = Tolerance(1e6, 0.0)
    z = torch.randn(2, 4, 3, 3)
    with torch.inference_mode():
        runs = [judge(Probe.of("probe", z, 2), z, (image(z), video(z, 2)), blind)]
        result, notes = self_test(pair_of(image, video), runs, blind)
    assert notes == ()
    caught = {damage.name: damage.caught_by for damage in result}
    # The weights are compared bit for bit, whatever the tolerance.
    assert caught.pop("spatial-weight") == "weights"
    assert set(caught.values()) == {None}
