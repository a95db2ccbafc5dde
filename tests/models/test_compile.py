"""The video decoder as one graph: ``torch.compile`` finds nothing to break it at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from inflate.models import VideoDecoder, VideoResBlock

from .builders import MERGE_STRATEGIES, TIME_MODES, TINY, latents, noise, randomized

pytestmark = pytest.mark.slow

every_mode = pytest.mark.parametrize("time_mode", TIME_MODES)
BACKENDS = ("eager", "aot_eager")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(module: torch.nn.Module, backend: str = "eager") -> Any:
    return torch.compile(module, backend=backend, fullgraph=True)


KERNELS: dict[str, Any] = {"all": [3, 1, 1], "conv-only": 3, "attn-only": 3}


@every_mode
@pytest.mark.parametrize(
    ("merge_strategy", "backend"),
    [*((strategy, "eager") for strategy in MERGE_STRATEGIES), ("learned", "aot_eager")],
)
@torch.no_grad()
def test_compiles_to_one_graph(time_mode: str, merge_strategy: str, backend: str) -> None:
    decoder = VideoDecoder(
        time_mode=time_mode,
        merge_strategy=merge_strategy,
        alpha=0.3,
        video_kernel_size=KERNELS[time_mode],
        **TINY,
    )
    randomized(decoder, keep_mix=True)
    z = latents(1, size=2)
    out = compiled(decoder, backend)(z, timesteps=3)
    assert torch.equal(out, decoder(z, timesteps=3))


def block_of(alpha: float) -> VideoResBlock:
    block = VideoResBlock(32, in_channels=32, alpha=alpha, merge_strategy="fixed", timesteps=3)
    return randomized(block, keep_mix=True)


def test_compiles_backwards() -> None:
    block = VideoResBlock(32, in_channels=32, video_kernel_size=[3, 1, 1], timesteps=3)
    randomized(block)
    x, towards = noise(3, 32, 2, 2), noise(3, 32, 2, 2, seed=1)
    parameters = list(block.parameters())
    plain = torch.autograd.grad(block(x), parameters, towards)
    graph = torch.autograd.grad(compiled(block, "aot_eager")(x), parameters, towards)
    for grad, expected in zip(graph, plain, strict=True):
        torch.testing.assert_close(grad, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_graph_follows_what_is_loaded_into_a_fixed_blend() -> None:
    x = noise(3, 32, 2, 2)
    block, silent, sounding = block_of(0.5), block_of(0.0), block_of(0.5)
    graph = compiled(block)
    for other in (sounding, silent, sounding):
        block.load_state_dict(other.state_dict())
        assert torch.equal(graph(x), other(x))


@torch.no_grad()
def test_a_graph_without_its_branch_refuses_a_blend_that_needs_it() -> None:
    """The one write that a graph does not follow fails, and gives no wrong image."""
    block, x = block_of(0.0), noise(3, 32, 2, 2)
    graph = compiled(block)
    graph(x)
    block.mix_factor.fill_(0.5)
    with pytest.raises(RuntimeError, match=r"mix_factor was written to.*torch\.compiler\.reset"):
        graph(x)
