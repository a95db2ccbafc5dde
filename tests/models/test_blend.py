"""What ``mix_factor`` holds and weighs, and how many frames a batch is folded from."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from inflate.mix_factor import alpha_of, mix_factor_of
from inflate.models import VideoBlock, VideoResBlock
from inflate.models.blend import TemporalBlock, frames_of

from .builders import MERGE_STRATEGIES, noise


class WeighsTemporal(TemporalBlock):
    """The least of a block whose ``mix_factor`` weighs the temporal branch."""

    mix_weighs = "temporal"

    def __init__(self, alpha: float, merge_strategy: str) -> None:
        super().__init__()
        self.init_blend(alpha, merge_strategy, timesteps=None)


class WeighsSpatial(WeighsTemporal):
    """The least of a block whose ``mix_factor`` weighs the spatial branch."""

    mix_weighs = "spatial"


BLENDS = (WeighsTemporal, WeighsSpatial)


def block_of(kind: type[nn.Module], alpha: float, merge_strategy: str) -> TemporalBlock:
    if kind is VideoResBlock:
        return VideoResBlock(32, in_channels=32, alpha=alpha, merge_strategy=merge_strategy)
    assert issubclass(kind, VideoBlock)
    return kind(32, alpha=alpha, merge_strategy=merge_strategy)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, -2.0])
@pytest.mark.parametrize(
    ("kind", "merge_strategy", "stored"),
    [
        (VideoResBlock, "fixed", lambda alpha: alpha),
        (VideoResBlock, "learned", lambda alpha: alpha),
        (VideoBlock, "fixed", lambda alpha: 1 - alpha),
        (VideoBlock, "learned", lambda alpha: -alpha),
    ],
)
def test_stored_value(
    kind: type[nn.Module],
    merge_strategy: str,
    stored: Callable[[float], float],
    alpha: float,
) -> None:
    block = block_of(kind, alpha, merge_strategy)
    assert block.mix_factor.shape == (1,)
    assert block.mix_factor.dtype == torch.float32
    assert torch.equal(block.mix_factor.detach(), torch.tensor([float(stored(alpha))]))
    assert mix_factor_of(alpha, merge_strategy, block.mix_weighs) == stored(alpha)
    assert alpha_of(stored(alpha), merge_strategy, block.mix_weighs) == pytest.approx(alpha)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("merge_strategy", MERGE_STRATEGIES)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, -3.0])
def test_alpha_is_the_temporal_share_or_that_before_its_sigmoid(
    blend: type[WeighsTemporal], merge_strategy: str, alpha: float
) -> None:
    spatial, temporal = noise(2, 5, seed=1), noise(2, 5, seed=2)
    share = float(torch.tensor(alpha).sigmoid()) if merge_strategy == "learned" else alpha
    out = blend(alpha, merge_strategy).blend(spatial, temporal)
    torch.testing.assert_close(out, share * temporal + (1 - share) * spatial)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_ends_of_a_fixed_blend_are_exact(
    blend: type[WeighsTemporal], dtype: torch.dtype
) -> None:
    spatial, temporal = noise(50, seed=1, dtype=dtype), noise(50, seed=2, dtype=dtype)
    assert torch.equal(blend(0.0, "fixed").blend(spatial, temporal), spatial)
    assert torch.equal(blend(1.0, "fixed").blend(spatial, temporal), temporal)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    alpha=st.floats(0, 1, width=32),
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20),
    blend=st.sampled_from(BLENDS),
    merge_strategy=st.sampled_from(MERGE_STRATEGIES),
)
def test_the_blend_of_equal_branches_is_bit_identical(
    alpha: float, values: list[float], blend: type[WeighsTemporal], merge_strategy: str
) -> None:
    branch = torch.tensor(values, dtype=torch.float32)
    assert torch.equal(blend(alpha, merge_strategy).blend(branch, branch.clone()), branch)


@pytest.mark.parametrize("blend", BLENDS)
def test_the_blend_is_laid_out_as_its_spatial_branch(blend: type[WeighsTemporal]) -> None:
    """Convolutions after it choose their algorithm, and so their rounding, by the layout."""
    spatial = noise(2, 32, 4, 5, seed=1)
    temporal = noise(2, 32, 4, 5, seed=2).to(memory_format=torch.channels_last)
    for one, other in ((spatial, temporal), (temporal, spatial)):
        assert one.stride() != other.stride()
        assert blend(0.3, "fixed").blend(one, other).stride() == one.stride()


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_blend_in_place_is_the_blend(blend: type[WeighsTemporal], dtype: torch.dtype) -> None:
    block = blend(0.3, "fixed")
    spatial = noise(2, 32, 4, 5, seed=1, dtype=dtype)
    temporal = noise(2, 32, 4, 5, seed=2, dtype=dtype).to(memory_format=torch.channels_last)
    expected = block.blend(spatial, temporal)
    assert not torch.equal(expected, spatial)
    assert block.blend(spatial, temporal, overwrite=True) is spatial
    assert torch.equal(spatial, expected)


def test_what_a_gradient_needs_is_not_overwritten() -> None:
    spatial, temporal = noise(9, seed=1), noise(9, seed=2)
    before = spatial.clone()
    block = WeighsTemporal(0.3, "learned")
    out = block.blend(spatial, temporal, overwrite=True)
    assert torch.equal(spatial, before)
    out.sum().backward()
    assert block.mix_factor.grad is not None
    assert block.mix_factor.grad.abs() > 0


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize(
    ("alpha", "merge_strategy", "silent"),
    [(0.0, "fixed", True), (1e-3, "fixed", False), (1.0, "fixed", False), (0.0, "learned", False)],
)
def test_a_fixed_blend_of_nothing_is_silent(
    blend: type[WeighsTemporal], alpha: float, merge_strategy: str, silent: bool
) -> None:
    assert blend(alpha, merge_strategy).is_silent() is silent
    assert copy.deepcopy(blend(alpha, merge_strategy)).is_silent() is silent
    with torch.inference_mode():
        assert blend(alpha, merge_strategy).is_silent() is silent


@pytest.mark.parametrize("blend", BLENDS)
def test_what_is_written_to_a_fixed_blend_is_noticed(blend: type[WeighsTemporal]) -> None:
    """However it gets there: loaded, assigned, filled in, moved to another type."""
    silent, sounding = blend(0.0, "fixed"), blend(0.5, "fixed")
    block = blend(0.5, "fixed")
    for assign in (False, True):
        block.load_state_dict(silent.state_dict(), assign=assign)
        assert block.is_silent()
        block.load_state_dict(sounding.state_dict(), assign=assign)
        assert not block.is_silent()
    block.mix_factor.copy_(silent.mix_factor)
    assert block.is_silent()
    assert block.half().is_silent()
    block.mix_factor.fill_(0.5)
    assert not block.is_silent()
    block.mix_factor = blend(0.0, "fixed").mix_factor
    assert block.is_silent()
    block.mix_factor.requires_grad_()  # A gradient is needed.
    assert not block.is_silent()


@pytest.mark.parametrize("blend", BLENDS)
def test_a_blend_is_read_where_it_is_written_and_not_each_time(
    blend: type[WeighsTemporal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading it waits for the device."""
    block = blend(0.5, "fixed")
    block.load_state_dict(blend(0.0, "fixed").state_dict())
    with monkeypatch.context() as patch:
        patch.setattr(block, "temporal_share", lambda: pytest.fail("it was read"))
        assert all(block.is_silent() for _ in range(3))


@pytest.mark.parametrize("frames", [None, 4, 12, 0, -3])
@pytest.mark.parametrize("built_in", [False, True])
def test_frames_that_are_missing_or_do_not_divide_the_batch(
    frames: int | None, built_in: bool
) -> None:
    with pytest.raises(ValueError, match="timesteps is"):
        frames_of(torch.empty(6, 1), *((None, frames) if built_in else (frames, None)))
