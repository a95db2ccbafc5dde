"""What ``mix_factor`` holds and weighs, and how many frames a batch is folded from."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from inflate.mix_factor import alpha_of, mix_factor_of
from inflate.models import MemoryEfficientVideoBlock, VideoBlock, VideoResBlock
from inflate.models.blend import TemporalBlock, frames_of

from .builders import MERGE_STRATEGIES, noise

ALPHAS = (0.0, 0.1, 0.25, 0.3, 0.5, 0.75, 1.0)


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


@pytest.mark.parametrize("alpha", [*ALPHAS, -2.0, 3.0])
@pytest.mark.parametrize(
    ("kind", "merge_strategy", "stored"),
    [
        (VideoResBlock, "fixed", lambda alpha: alpha),
        (VideoResBlock, "learned", lambda alpha: alpha),
        (VideoBlock, "fixed", lambda alpha: 1 - alpha),
        (VideoBlock, "learned", lambda alpha: -alpha),
        (MemoryEfficientVideoBlock, "fixed", lambda alpha: 1 - alpha),
        (MemoryEfficientVideoBlock, "learned", lambda alpha: -alpha),
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


@pytest.mark.parametrize("kind", [VideoResBlock, VideoBlock])
@pytest.mark.parametrize("merge_strategy", MERGE_STRATEGIES)
def test_a_stored_zero_has_no_sign(kind: type[nn.Module], merge_strategy: str) -> None:
    alpha = 1.0 if kind is VideoBlock and merge_strategy == "fixed" else 0.0
    value = block_of(kind, alpha, merge_strategy).mix_factor.detach()
    assert float(value) == 0.0
    assert not torch.signbit(value).any()


@pytest.mark.parametrize("kind", [VideoResBlock, VideoBlock])
def test_fixed_is_a_buffer_and_learned_a_parameter(kind: type[nn.Module]) -> None:
    fixed, learned = (block_of(kind, 0.5, strategy) for strategy in ("fixed", "learned"))
    assert "mix_factor" in dict(fixed.named_buffers())
    assert "mix_factor" not in dict(fixed.named_parameters())
    assert "mix_factor" in dict(learned.named_parameters())
    assert "mix_factor" not in dict(learned.named_buffers())
    assert not fixed.mix_factor.requires_grad
    assert learned.mix_factor.requires_grad
    assert set(fixed.state_dict()) == set(learned.state_dict())


@pytest.mark.parametrize("kind", [VideoResBlock, VideoBlock])
def test_another_merge_strategy_is_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"merge_strategy is 'mean'.*learned, fixed"):
        block_of(kind, 0.5, "mean")


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_alpha_is_the_temporal_share_of_a_fixed_blend(
    blend: type[WeighsTemporal], alpha: float
) -> None:
    spatial, temporal = noise(2, 5, seed=1), noise(2, 5, seed=2)
    out = blend(alpha, "fixed").blend(spatial, temporal)
    torch.testing.assert_close(out, alpha * temporal + (1 - alpha) * spatial)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("alpha", [-3.0, -0.5, 0.0, 0.5, 3.0])
def test_alpha_is_the_temporal_share_before_the_sigmoid_of_a_learned_blend(
    blend: type[WeighsTemporal], alpha: float
) -> None:
    spatial, temporal = noise(2, 5, seed=1), noise(2, 5, seed=2)
    share = float(torch.sigmoid(torch.tensor(alpha)))
    out = blend(alpha, "learned").blend(spatial, temporal)
    torch.testing.assert_close(out, share * temporal + (1 - share) * spatial)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_ends_of_a_fixed_blend_are_exact(
    blend: type[WeighsTemporal], dtype: torch.dtype
) -> None:
    spatial, temporal = noise(50, seed=1, dtype=dtype), noise(50, seed=2, dtype=dtype)
    assert torch.equal(blend(0.0, "fixed").blend(spatial, temporal), spatial)
    assert torch.equal(blend(1.0, "fixed").blend(spatial, temporal), temporal)


def test_the_two_blocks_read_one_number_in_opposite_ways() -> None:
    spatial, temporal = noise(7, seed=1), noise(7, seed=2)
    for stored, weighs_temporal, weighs_spatial in (
        (1.0, temporal, spatial),
        (0.0, spatial, temporal),
    ):
        for blend, expected in zip(BLENDS, (weighs_temporal, weighs_spatial), strict=True):
            block = blend(0.5, "fixed")
            block.mix_factor.fill_(stored)
            assert torch.equal(block.blend(spatial, temporal), expected)


@settings(derandomize=True, deadline=None, max_examples=200)
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
@pytest.mark.parametrize("merge_strategy", MERGE_STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_equal_branches_are_kept_in_every_dtype(
    blend: type[WeighsTemporal], merge_strategy: str, dtype: torch.dtype
) -> None:
    branch = noise(1000, seed=3, dtype=dtype)
    for step in range(101):
        out = blend(step / 100, merge_strategy).blend(branch, branch.clone())
        assert out.dtype == dtype
        assert torch.equal(out, branch)


@pytest.mark.parametrize("blend", BLENDS)
def test_the_blend_is_laid_out_as_its_spatial_branch(blend: type[WeighsTemporal]) -> None:
    """Convolutions after it choose their algorithm, and so their rounding, by the layout."""
    spatial = noise(2, 32, 4, 5, seed=1)
    temporal = noise(2, 32, 4, 5, seed=2).to(memory_format=torch.channels_last)
    for one, other in ((spatial, temporal), (temporal, spatial)):
        assert one.stride() != other.stride()
        assert blend(0.3, "fixed").blend(one, other).stride() == one.stride()


def test_a_weighted_sum_would_not_keep_equal_branches() -> None:
    """The formula of the contract rounds: the property above is worth its test."""
    branch = noise(1000, seed=3)
    assert not torch.equal(0.3 * branch + (1 - 0.3) * branch, branch)


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
    block.mix_factor.requires_grad_()  # A gradient is asked for.
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


@pytest.mark.parametrize("blend", BLENDS)
def test_a_blend_without_a_value_is_not_silent(blend: type[WeighsTemporal]) -> None:
    with torch.device("meta"):
        block = blend(0.0, "fixed")
    assert not block.is_silent()
    block.load_state_dict(blend(0.0, "fixed").state_dict(), assign=True)
    assert block.is_silent()


@pytest.mark.parametrize("blend", BLENDS)
def test_the_gradient_of_the_mix_factor(blend: type[WeighsTemporal]) -> None:
    spatial, temporal = noise(9, seed=1), noise(9, seed=2)
    block = blend(0.4, "learned")
    block.blend(spatial, temporal).sum().backward()
    weight = torch.sigmoid(block.mix_factor.detach())
    expected = weight * (1 - weight) * (temporal - spatial).sum()
    expected = expected if block.mix_weighs == "temporal" else -expected
    torch.testing.assert_close(block.mix_factor.grad, expected)


@pytest.mark.parametrize(
    ("timesteps", "default", "frames"),
    [(3, None, 3), (None, 3, 3), (2, 3, 2), (6, 4, 6), (1, 3, 1)],
)
def test_frames_given_win_over_frames_built_in(
    timesteps: int | None, default: int | None, frames: int
) -> None:
    assert frames_of(torch.empty(6, 1), timesteps, default) == frames


def test_frames_given_nowhere() -> None:
    with pytest.raises(ValueError, match=r"given nowhere.*forward\(z, timesteps=T\).*build"):
        frames_of(torch.empty(6, 1), None, None)


@pytest.mark.parametrize("frames", [4, 5, 7, 12, 0, -1, -3])
@pytest.mark.parametrize("built_in", [False, True])
def test_frames_that_do_not_divide_the_batch(frames: int, built_in: bool) -> None:
    x: Tensor = torch.empty(6, 1)
    with pytest.raises(ValueError, match=rf"timesteps is {frames}, and the batch holds 6 frames"):
        frames_of(x, None, frames) if built_in else frames_of(x, frames, None)
