"""The attention kernel: its formula, and when xformers serves it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from inflate.models import AttnBlock, MemoryEfficientAttnBlock, VideoDecoder, attention
from inflate.models.attention import attend

from . import formulas
from .builders import SMALL, TIME_MODES, error, latents, noise, randomized, shapes_of, video_decoder

LOGGER = "inflate.models.attention"


@pytest.fixture(autouse=True)
def _fresh_log() -> Iterator[None]:
    """What is said once a process is said once a test."""
    attention._log_fallback.cache_clear()
    yield
    attention._log_fallback.cache_clear()


class FakeOps(ModuleType):
    """An ``xformers.ops`` that counts its calls and answers as it is told."""

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
    """Put a fake in the place of xformers."""

    def install(answer: Callable[[Tensor, Tensor, Tensor], Tensor] = formulas.attention) -> FakeOps:
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
    torch.testing.assert_close(out, formulas.attention(q, k, v))


def test_the_fallback_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    block = randomized(MemoryEfficientAttnBlock(32))
    block(noise(1, 32, 3, 3))
    block(noise(2, 32, 4, 4))
    (message,) = warnings_in(caplog)
    assert "vanilla-xformers" in message
    assert "torch's attention" in message
    assert "the device is cpu" in message


def test_vanilla_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    randomized(AttnBlock(32))(noise(1, 32, 3, 3))
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("time_mode", TIME_MODES)
def test_xformers_off_cuda_is_vanilla(time_mode: str, caplog: pytest.LogCaptureFixture) -> None:
    vanilla = video_decoder(time_mode)
    efficient = VideoDecoder(time_mode=time_mode, **SMALL, attn_type="vanilla-xformers")
    assert shapes_of(efficient) == shapes_of(vanilla)
    efficient.load_state_dict(vanilla.state_dict(), strict=True)
    z = latents()
    with torch.no_grad():
        assert torch.equal(efficient(z, timesteps=3), vanilla(z, timesteps=3))
    assert len(warnings_in(caplog)) == 1


@pytest.mark.usefixtures("pretend_cuda")
@pytest.mark.parametrize("time_mode", TIME_MODES)
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
        assert len(ops.calls) == calls  # vanilla asked nothing of it
    assert warnings_in(caplog) == []


@pytest.mark.usefixtures("pretend_cuda")
def test_what_xformers_answers_is_what_comes_back(fake_xformers: Callable[..., FakeOps]) -> None:
    fake_xformers(lambda *qkv: qkv[2] + 1)
    q, k, v = (noise(2, 5, 32, seed=s) for s in (1, 2, 3))
    assert torch.equal(attend(q, k, v, memory_efficient=True), v + 1)
    assert not torch.equal(attend(q, k, v), v + 1)


@pytest.mark.usefixtures("pretend_cuda")
def test_without_a_kernel_torch_serves(
    fake_xformers: Callable[..., FakeOps], caplog: pytest.LogCaptureFixture
) -> None:
    ops = fake_xformers(no_kernel)
    q, k, v = (noise(2, 5, 32, seed=s) for s in (1, 2, 3))
    for _ in range(2):
        assert torch.equal(attend(q, k, v, memory_efficient=True), attend(q, k, v))
    assert len(ops.calls) == 2
    (message,) = warnings_in(caplog)
    assert "no kernel for torch.float32 of 32 channels" in message


@pytest.mark.usefixtures("pretend_cuda")
def test_another_error_of_xformers_is_not_hidden(fake_xformers: Callable[..., FakeOps]) -> None:
    def broken(*_: Any) -> Tensor:
        raise RuntimeError("out of memory")

    fake_xformers(broken)
    q = noise(2, 5, 32)
    with pytest.raises(RuntimeError, match="out of memory"):
        attend(q, q, q, memory_efficient=True)


@pytest.mark.usefixtures("pretend_cuda")
def test_without_xformers_torch_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(attention, "_xformers_ops", lambda: None)
    q, k, v = (noise(2, 5, 32, seed=s) for s in (1, 2, 3))
    assert torch.equal(attend(q, k, v, memory_efficient=True), attend(q, k, v))
    (message,) = warnings_in(caplog)
    assert "xformers is not installed" in message


def test_xformers_is_looked_for_where_python_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    find = attention._xformers_ops.__wrapped__
    package, ops = ModuleType("xformers"), FakeOps(formulas.attention)
    package.ops = ops  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    assert find() is ops
    monkeypatch.setitem(sys.modules, "xformers", None)
    assert find() is None
