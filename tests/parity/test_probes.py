"""The probes: shapes that expose bad inflations, and frames that differ."""

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
    probes_for,
    thorough_probes_for,
)


@pytest.mark.parametrize("probes", [SMALL_PROBES, LARGE_PROBES])
def test_the_shapes_of_convert_expose_bad_inflations(probes: Sequence[Probe]) -> None:
    assert any(p.batch > 1 and p.frames > 1 for p in probes), "videos must not mix"
    assert {1} < {p.frames for p in probes}
    assert any(p.frames > 2 for p in probes), "a frame between two others"
    assert any(p.height > p.width for p in probes)
    assert any(p.height < p.width for p in probes)


@pytest.mark.parametrize("probes", [SMALL_THOROUGH_PROBES, LARGE_THOROUGH_PROBES])
def test_the_shapes_of_verify_expose_each_thing_by_itself(probes: Sequence[Probe]) -> None:
    named = {p.name: p for p in probes}
    assert len(named) == len(probes)
    two, tall = named["two-frames"], named["non-square"]
    assert (two.batch, two.frames, two.height) == (1, 2, two.width)
    assert (tall.batch, tall.frames) == (1, 1)
    assert tall.height > tall.width
    assert named["odd-frames"].frames % 2
    assert any(min(p.height, p.width) > 2 for p in probes), "pixels inside the border"


@pytest.mark.parametrize("probes", [SMALL_THOROUGH_PROBES, LARGE_THOROUGH_PROBES])
def test_all_frames_differ(probes: Sequence[Probe]) -> None:
    frames = [frame for p in probes for frame in p.latents(4, seed=0)[:, :, :2, :2].flatten(1)]
    assert len(torch.stack(frames).unique(dim=0)) == len(frames)


def test_latents_are_normal_and_given_by_seed_and_name() -> None:
    probe = Probe("many", batch=2, frames=5, height=32, width=24)
    state = torch.get_rng_state()
    z = probe.latents(4, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert (z.shape, z.dtype) == ((10, 4, 32, 24), torch.float32)
    assert abs(z.mean()) < 0.05
    assert abs(z.std() - 1) < 0.05
    assert torch.equal(z, probe.latents(4, seed=3))
    assert not torch.equal(z, probe.latents(4, seed=4))


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_an_accelerator_gets_larger_probes(device: str) -> None:
    where, cpu = torch.device(device), torch.device("cpu")
    assert (probes_for(cpu), probes_for(where)) == (SMALL_PROBES, LARGE_PROBES)
    for one in (cpu, where):
        assert set(thorough_probes_for(one)) > set(probes_for(one))
