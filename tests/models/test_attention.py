"""The attention kernel: its formula, and when xformers serves it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from inflate.models import VideoDecoder, attention
from inflate.models.attention import attend

from .builders import SMALL, error, latents, noise, shapes_of, video_decoder

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


def test_xformers_off_cuda_is_vanilla(caplog: pytest.LogCaptureFixture) -> None:
    vanilla = video_decoder("all")
    efficient = VideoDecoder(time_mode="all", **SMALL, attn_type="vanilla-xformers")
    assert shapes_of(efficient) == shapes_of(vanilla)
    efficient.load_state_dict(vanilla.state_dict(), strict=True)
    z = latents()
    with torch.no_grad():
        assert torch.equal(efficient(z, timesteps=3), vanilla(z, timesteps=3))
    assert len(warnings_in(caplog)) == 1


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
