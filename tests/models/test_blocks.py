"""The layers of image and time, and the keywords that the networks refuse."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from inflate.models import Decoder, Encoder, VideoDecoder
from inflate.models.blocks import LayerNorm, spatial_norm
from inflate.models.temporal import AE3DConv, TimeConv, TimeStack, VideoResBlock
from inflate.models.time_attention import VideoBlock
from inflate.vocabulary import kernel_of

from .builders import SMALL, noise, randomized

HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    ("kind", "shape"), [(lambda: spatial_norm(64), (2, 64, 5, 5)), (lambda: LayerNorm(64), (9, 64))]
)
def test_a_norm_in_half_is_the_float32_norm_rounded_once(
    kind: Callable[[], nn.Module], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    half = randomized(kind()).to(dtype)
    wide = kind().float()
    wide.load_state_dict(half.state_dict(), strict=True)
    x = noise(*shape, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(half(x), wide(x.float()).to(dtype))


@pytest.mark.parametrize("module", [Encoder, Decoder, VideoDecoder])
@pytest.mark.parametrize(
    ("keyword", "meant"), [("chmult", ["'ch_mult'"]), ("embed_dim", []), ("use_linear_attn", None)]
)
def test_keywords_of_other_networks_are_refused(
    module: type[nn.Module], keyword: str, meant: list[str] | None
) -> None:
    with pytest.raises(TypeError if meant is not None else ValueError, match=keyword) as caught:
        module(**SMALL, **{keyword: True})
    assert meant is None or re.findall(r"'\w+'", str(caught.value)) == [repr(keyword), *meant]


B, T, C, H, W = 2, 3, 32, 4, 5


@pytest.mark.parametrize("frames", [1, 2, 8])
@pytest.mark.parametrize("kernel", [1, 3, 5, [1, 1, 3], *([t, 1, 1] for t in (3, 5, 9))], ids=str)
def test_time_conv_is_conv3d_that_keeps_the_size(kernel: Any, frames: int) -> None:
    conv = randomized(TimeConv(8, kernel))
    x = noise(2, 8, frames, 4, 5).contiguous(memory_format=torch.channels_last_3d)
    x.requires_grad_()
    padding = tuple(k // 2 for k in kernel_of(kernel))
    expected = F.conv3d(x, conv.weight, conv.bias, padding=padding)
    out = conv(x)
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    towards, inputs = noise(*x.shape, seed=1), (x, conv.weight, conv.bias)
    grads = (torch.autograd.grad(y, inputs, towards) for y in (out, expected))
    for grad, expected_grad in zip(*grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, atol=1e-4, rtol=1e-4)


def test_time_stack_is_its_formula() -> None:
    stack = randomized(TimeStack(2 * C, 0.0, [3, 1, 1])).double()
    x = noise(B, 2 * C, T, H, W, dtype=torch.float64) * 1e-2  # where eps is felt
    h = x
    with torch.no_grad():
        for norm, conv in (
            (stack.in_layers[0], stack.in_layers[2]),
            (stack.out_layers[0], stack.out_layers[3]),
        ):
            h = F.group_norm(h, 32, norm.weight, norm.bias, eps=1e-5)
            h = F.conv3d(h * h.sigmoid(), conv.weight, conv.bias, padding=(1, 0, 0))
        torch.testing.assert_close(stack(x), x + h)


@pytest.mark.parametrize(
    "build",
    [
        lambda: VideoResBlock(in_channels=C, out_channels=2 * C),
        lambda: AE3DConv(C, 3, kernel_size=3, padding=1),
        lambda: VideoBlock(C),
    ],
)
def test_what_runs_in_place_changes_neither_inputs_nor_results(build: Callable[[], Any]) -> None:
    block = randomized(build())
    for layout in (torch.contiguous_format, torch.channels_last):
        x = noise(B * T, C, H, W).contiguous(memory_format=layout)
        before = x.clone()
        expected = block(x, timesteps=T)
        assert expected.requires_grad
        with torch.no_grad():
            assert torch.equal(block(x, timesteps=T), expected)
        assert torch.equal(x, before)
