"""The check checked: every damage is caught, and a check that is blind is found out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from inflate.parity.metrics import Tolerance
from inflate.parity.result import Damage, ParityReport
from inflate.parity.running import ProbeRun
from inflate.parity.selftest import self_test
from inflate.parity.verify import Scope

from ..checkpoints import DDCONFIG
from .damage import check, pair_of, sound_pair

SELF_TEST = Scope(self_test=True)
ALL = {"temporal-bias", "spatial-weight", "branch-not-zeroed", "dirac-off-centre", "frames-swapped"}


def tried(**config: Any) -> ParityReport:
    image, video = sound_pair(**{**DDCONFIG, "alpha": 0.3, **config})
    before = {key: value.clone() for key, value in video.state_dict().items()}
    report = check(image, video, scope=SELF_TEST)
    assert report.verdict == "bitwise"
    # In memory only, and put back.
    after = video.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    return report


def damages_of(report: ParityReport) -> dict[str, Damage]:
    assert report.self_test is not None
    return {damage.name: damage for damage in report.self_test.damages}


@pytest.mark.parametrize(
    ("config", "left_out"),
    [
        ({"time_mode": "all"}, set()),
        ({"time_mode": "conv-only"}, set()),
        ({"time_mode": "conv-only", "attn_type": "none"}, set()),
        ({"time_mode": "conv-only", "video_kernel_size": (3, 1, 1)}, set()),
        ({"time_mode": "conv-only", "video_kernel_size": (1, 3, 3)}, set()),
        ({"time_mode": "all", "video_kernel_size": 1}, {"dirac-off-centre"}),
        ({"time_mode": "attn-only"}, {"dirac-off-centre"}),
        (
            {"time_mode": "all", "merge_strategy": "fixed", "alpha": 0.0},
            {"branch-not-zeroed"},
        ),
        (
            {"time_mode": "attn-only", "alpha": -20.0},
            {"branch-not-zeroed", "dirac-off-centre", "temporal-bias"},
        ),
        (
            {"time_mode": "attn-only", "merge_strategy": "fixed", "alpha": 0.0},
            {"branch-not-zeroed", "dirac-off-centre", "temporal-bias"},
        ),
    ],
)
def test_every_damage_is_caught(config: dict[str, Any], left_out: set[str]) -> None:
    report = tried(**config)
    damages = damages_of(report)
    assert damages.keys() == ALL - left_out
    assert report.self_test is not None
    assert report.self_test.passed
    assert {damage.caught_by for damage in damages.values()} <= {
        "single-frame",
        "two-videos",
    }
    # One video of one frame cannot be in the wrong order.
    assert damages["frames-swapped"].caught_by == "two-videos"
    assert len([note for note in report.notes if note.startswith("self-test: ")]) == len(left_out)


def test_a_blind_check_is_found_out() -> None:
    image, video = sound_pair(**{**DDCONFIG, "time_mode": "all"})
    blind = Tolerance(1e6, 0.0)
    z = torch.randn(2, 4, 3, 3)
    with torch.inference_mode():
        runs = [ProbeRun.judged("probe", z, 2, (image(z), video(z, 2)), blind)]
        result, notes = self_test(pair_of(image, video), runs, blind)
    assert notes == ()
    assert result is not None
    assert not result.passed
    caught = {damage.name: damage.caught_by for damage in result.damages}
    # The weights are compared bit for bit, whatever the tolerance.
    assert caught.pop("spatial-weight") == "weights"
    assert set(caught.values()) == {None}


def test_a_check_of_single_frames_does_not_see_their_order() -> None:
    image, video = sound_pair(**{**DDCONFIG, "time_mode": "all"})
    z = torch.randn(1, 4, 3, 3)
    with torch.inference_mode():
        tolerance = Tolerance(1e-5, 1e-5)
        runs = [ProbeRun.judged("probe", z, 1, (image(z), video(z, 1)), tolerance)]
        result, _ = self_test(pair_of(image, video), runs, tolerance)
    assert result is not None
    missed = [damage.name for damage in result.damages if damage.caught_by is None]
    assert missed == ["frames-swapped"]


def test_what_fails_is_not_spoilt_further() -> None:
    image, video = sound_pair(**{**DDCONFIG, "time_mode": "all"})
    video.state_dict()["conv_out.bias"] += 1
    report = check(image, video, scope=SELF_TEST)
    assert report.self_test is None
    assert [note for note in report.notes if "self-test" in note]
