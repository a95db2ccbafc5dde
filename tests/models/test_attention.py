"""The attention kernel, and how ``mix_factor`` blends both branches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inflate.mix_factor import Weighs
from inflate.models import attention
from inflate.models.attention import attend
from inflate.models.temporal import TemporalBlock, frames_of
from inflate.vocabulary import MERGE_STRATEGIES

from .builders import error, latents, noise, video_decoder


def attention_of(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention of one head, ``... L C``."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return scores.softmax(-1) @ v


class FakeOps(ModuleType):
    """An ``xformers.ops`` that records the shapes of its calls and returns a given answer."""

    def __init__(self, answer: Callable[[Tensor, Tensor, Tensor], Tensor] = attention_of) -> None:
        super().__init__("xformers.ops")
        self.shapes: list[tuple[int, ...]] = []
        self.answer = answer

    def memory_efficient_attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The call that xformers answers."""
        assert all(t.is_contiguous() for t in (q, k, v))
        assert q.shape == k.shape == v.shape
        self.shapes.append(tuple(q.shape))
        return self.answer(q, k, v)


def no_kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    raise NotImplementedError("No operator found for `memory_efficient_attention_forward`")


@pytest.fixture
def pretend_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor reports that it is on CUDA."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda _: True))


@pytest.mark.parametrize("memory_efficient", [False, True])
@pytest.mark.parametrize(("length", "keys"), [(1, 1), (7, 7), (5, 9)])
def test_attend_is_its_formula(length: int, keys: int, memory_efficient: bool) -> None:
    q = noise(3, length, 32, seed=1, dtype=torch.float64)
    k, v = (noise(3, keys, 32, seed=s, dtype=torch.float64) for s in (2, 3))
    out = attend(q, k, v, memory_efficient=memory_efficient)
    torch.testing.assert_close(out, attention_of(q, k, v))


@pytest.mark.usefixtures("pretend_cuda")
@pytest.mark.parametrize("time_mode", ["all", "conv-only"])
def test_xformers_serves_on_cuda(
    time_mode: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ops = FakeOps()
    monkeypatch.setattr(attention, "_xformers_ops", lambda: ops)
    z = latents()
    with torch.no_grad():
        out = video_decoder(time_mode, attn_type="vanilla-xformers")(z, timesteps=3)
        shapes = Counter(ops.shapes)
        assert error(out, video_decoder(time_mode)(z, timesteps=3)) < 1e-5
    # Three blocks: in the middle, and two in the level of resolution 8.
    spatial, temporal = {(6, 16, 64): 3}, {(2 * 16, 3, 64): 6}  # (B T) (H W) C, (B H W) T C
    assert shapes == (spatial if time_mode == "conv-only" else spatial | temporal)
    assert len(ops.shapes) == shapes.total()  # vanilla does not call it
    assert caplog.records == []


@pytest.mark.parametrize("case", ["off CUDA", "no kernel", "no xformers"])
def test_torch_serves_where_xformers_cannot_and_that_is_logged_once(
    case: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    attention._log_fallback.cache_clear()
    if case != "off CUDA":
        request.getfixturevalue("pretend_cuda")
        ops = FakeOps(no_kernel) if case == "no kernel" else None
        monkeypatch.setattr(attention, "_xformers_ops", lambda: ops)
    q, k, v = (noise(2, 5, 32, seed=s) for s in (1, 2, 3))
    for _ in range(2):
        assert torch.equal(attend(q, k, v, memory_efficient=True), attend(q, k, v))
    assert [record.levelname for record in caplog.records] == ["WARNING"]


BRANCHES: tuple[Weighs, ...] = ("temporal", "spatial")
every_branch = pytest.mark.parametrize("weighs", BRANCHES)


def block_of(weighs: Weighs, alpha: float, merge_strategy: str) -> TemporalBlock:
    """The least of a block whose ``mix_factor`` weighs a branch."""
    block = TemporalBlock()
    block.mix_weighs = weighs
    block.init_blend(alpha, merge_strategy)
    return block


@every_branch
@pytest.mark.parametrize("merge_strategy", MERGE_STRATEGIES)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, -3.0])
def test_alpha_is_the_temporal_share_or_that_before_its_sigmoid(
    weighs: Weighs, merge_strategy: str, alpha: float
) -> None:
    spatial, temporal = noise(2, 5, seed=1), noise(2, 5, seed=2)
    share = float(torch.tensor(alpha).sigmoid()) if merge_strategy == "learned" else alpha
    out = block_of(weighs, alpha, merge_strategy).blend(spatial.clone(), temporal)
    torch.testing.assert_close(out, share * temporal + (1 - share) * spatial)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    alpha=st.floats(0, 1, width=32),
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20),
    weighs=st.sampled_from(BRANCHES),
    merge_strategy=st.sampled_from(MERGE_STRATEGIES),
)
def test_the_blend_of_equal_branches_is_bit_identical(
    alpha: float, values: list[float], weighs: Weighs, merge_strategy: str
) -> None:
    branch = torch.tensor(values, dtype=torch.float32)
    assert torch.equal(
        block_of(weighs, alpha, merge_strategy).blend(branch, branch.clone()), branch
    )


@every_branch
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_blend_is_in_place_unless_a_gradient_needs_its_branch(
    weighs: Weighs, dtype: torch.dtype
) -> None:
    block = block_of(weighs, 0.3, "fixed")
    temporal = noise(2, 32, 4, 5, seed=2, dtype=dtype).to(memory_format=torch.channels_last)
    spatial = noise(2, 32, 4, 5, seed=1, dtype=dtype).requires_grad_()
    expected = block.blend(spatial, temporal)
    # Convolutions after it choose their algorithm, and so their rounding, by the layout.
    assert expected.stride() == spatial.stride() != temporal.stride()
    expected.sum().backward()
    assert spatial.grad is not None
    with torch.no_grad():
        branch = spatial.detach().clone()
        assert block.blend(branch, temporal) is branch
        assert torch.equal(branch, expected)


@pytest.mark.parametrize("frames", [None, 4, 12, 0, -3])
def test_frames_that_do_not_divide_the_batch(frames: int | None) -> None:
    with pytest.raises(ValueError, match="timesteps is"):
        frames_of(torch.empty(6, 1), frames)
