"""The attention kernel, and how ``mix_factor`` blends both branches."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inflate.models import attention
from inflate.models.attention import attend
from inflate.models.blend import TemporalBlock, frames_of

from .builders import MERGE_STRATEGIES, error, latents, noise, video_decoder

LOGGER = "inflate.models.attention"


@pytest.fixture(autouse=True)
def _fresh_log() -> Iterator[None]:
    """Log once per test what is logged once per process."""
    attention._log_fallback.cache_clear()
    yield
    attention._log_fallback.cache_clear()


def attention_of(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention of one head, ``... L C``."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return scores.softmax(-1) @ v


class FakeOps(ModuleType):
    """An ``xformers.ops`` that counts its calls and returns a given answer."""

    def __init__(self, answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__("xformers.ops")
        self.calls: list[tuple[tuple[int, ...], ...]] = []
        self.answer = answer

    def memory_efficient_attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The call that xformers answers."""
        assert all(t.is_contiguous() for t in (q, k, v))
        self.calls.append((tuple(q.shape), tuple(k.shape), tuple(v.shape)))
        return self.answer(q, k, v)


def no_kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    raise NotImplementedError("No operator found for `memory_efficient_attention_forward`")


@pytest.fixture
def pretend_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor says that it is on CUDA."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda _: True))


@pytest.fixture
def fake_xformers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeOps]:
    """Replace xformers by a fake."""

    def install(answer: Callable[[Tensor, Tensor, Tensor], Tensor] = attention_of) -> FakeOps:
        ops = FakeOps(answer)
        monkeypatch.setattr(attention, "_xformers_ops", lambda: ops)
        return ops

    return install


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [r for r in caplog.records if r.name == LOGGER]
    assert all(r.levelno == logging.WARNING for r in records)
    return [r.getMessage() for r in records]


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
    time_mode: str, fake_xformers: Callable[..., FakeOps], caplog: pytest.LogCaptureFixture
) -> None:
    ops = fake_xformers()
    efficient = video_decoder(time_mode, attn_type="vanilla-xformers")
    vanilla = video_decoder(time_mode)
    z = latents()
    with torch.no_grad():
        out = efficient(z, timesteps=3)
        spatial = {(6, 16, 64)}  # (B T) (H W) C
        temporal = {(2 * 16, 3, 64)} if time_mode != "conv-only" else set()  # (B H W) T C
        assert {shape for call in ops.calls for shape in call} == spatial | temporal
        blocks = 1 + 2  # in the middle, and two in the level of resolution 8
        assert len(ops.calls) == (blocks if time_mode == "conv-only" else 3 * blocks)
        calls = len(ops.calls)
        assert error(out, vanilla(z, timesteps=3)) < 1e-5
        assert len(ops.calls) == calls  # vanilla does not call it
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("case", ["off CUDA", "no kernel", "no xformers"])
def test_torch_serves_where_xformers_cannot_and_that_is_logged_once(
    case: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    if case != "off CUDA":
        request.getfixturevalue("pretend_cuda")
        ops = FakeOps(no_kernel) if case == "no kernel" else None
        request.getfixturevalue("monkeypatch").setattr(attention, "_xformers_ops", lambda: ops)
    q, k, v = (noise(2, 5, 32, seed=s) for s in (1, 2, 3))
    for _ in range(2):
        assert torch.equal(attend(q, k, v, memory_efficient=True), attend(q, k, v))
    assert len(warnings_in(caplog)) == 1


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


@pytest.mark.parametrize("frames", [None, 4, 12, 0, -3])
@pytest.mark.parametrize("built_in", [False, True])
def test_frames_that_do_not_divide_the_batch(frames: int | None, built_in: bool) -> None:
    with pytest.raises(ValueError, match="timesteps is"):
        frames_of(torch.empty(6, 1), *((None, frames) if built_in else (frames, None)))
