"""The probes: shapes in which a bad inflation shows, and frames that cannot be mistaken."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from inflate.parity.probes import (
    LARGE_PROBES,
    LARGE_THOROUGH_PROBES,
    SMALL_PROBES,
    SMALL_THOROUGH_PROBES,
    Probe,
    clip_for,
    probes_for,
    thorough_probes_for,
)

every_set = pytest.mark.parametrize("probes", [SMALL_PROBES, LARGE_PROBES], ids=["small", "large"])


@every_set
def test_the_shapes_cover_what_breaks_bad_inflations(probes: Sequence[Probe]) -> None:
    assert any(p.batch > 1 and p.frames > 1 for p in probes), "videos must not run into each other"
    frames = {p.frames for p in probes}
    assert {1, 2} < frames
    assert any(t > 2 and t % 2 for t in frames)
    assert any(p.height > p.width for p in probes)
    assert any(p.height < p.width for p in probes)
    assert len({p.name for p in probes}) == len(probes)


@every_set
def test_no_two_frames_are_alike(probes: Sequence[Probe]) -> None:
    frames = [frame for p in probes for frame in p.latents(4, seed=0)[:, :, :3, :3].flatten(1)]
    assert len(torch.stack(frames).unique(dim=0)) == len(frames)


@pytest.mark.parametrize("probe", SMALL_PROBES, ids=lambda p: p.name)
def test_latents_are_what_the_probe_says(probe: Probe) -> None:
    z = probe.latents(5, seed=3)
    assert z.shape == (probe.batch * probe.frames, 5, probe.height, probe.width)
    assert z.dtype == torch.float32
    assert torch.equal(z, probe.latents(5, seed=3))
    assert not torch.equal(z, probe.latents(5, seed=4))


def test_latents_are_standard_normal() -> None:
    z = Probe("many", batch=2, frames=5, height=32, width=32).latents(4, seed=0)
    assert abs(z.mean()) < 0.05
    assert abs(z.std() - 1) < 0.05


def test_latents_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    SMALL_PROBES[0].latents(4, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("device", "probes"), [("cpu", SMALL_PROBES), ("cuda", LARGE_PROBES), ("mps", LARGE_PROBES)]
)
def test_an_accelerator_gets_larger_probes(device: str, probes: Sequence[Probe]) -> None:
    assert probes_for(torch.device(device)) == probes


@pytest.mark.parametrize(
    ("device", "probes"),
    [
        ("cpu", SMALL_THOROUGH_PROBES),
        ("cuda", LARGE_THOROUGH_PROBES),
        ("mps", LARGE_THOROUGH_PROBES),
    ],
)
def test_a_check_that_was_asked_for_has_each_shape_apart(
    device: str, probes: Sequence[Probe]
) -> None:
    where = torch.device(device)
    assert thorough_probes_for(where) == probes
    assert set(probes) > set(probes_for(where))
    assert len({p.name for p in probes}) == len(probes)
    # One thing at a time: two frames of one square video, and a single frame that is not square.
    (two,) = (p for p in probes if p.name == "two-frames")
    assert (two.batch, two.frames, two.height) == (1, 2, two.width)
    (oblong,) = (p for p in probes if p.name == "non-square")
    assert (oblong.batch, oblong.frames) == (1, 1)
    assert oblong.height != oblong.width


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_clip_to_look_at_has_several_frames(device: str) -> None:
    assert clip_for(torch.device(device)).frames == 8
