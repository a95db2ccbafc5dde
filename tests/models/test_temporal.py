"""The convolutions over time: each against its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from inflate.models import AE3DConv
from inflate.models.temporal import TimeConv, TimeStack, fold_frames, unfold_frames
from inflate.vocabulary import kernel_of

from .builders import noise, randomized, video

B, T, C, H, W = 2, 3, 32, 4, 5


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("kernel", [1, 3, 5, [3, 1, 1], [5, 3, 1], [1, 1, 3]], ids=str)
@torch.no_grad()
def test_time_conv_is_conv3d_that_keeps_the_size(kernel: Any, frames: int) -> None:
    conv = randomized(TimeConv(8, kernel)).double()
    x = noise(2, 8, frames, 4, 5, dtype=torch.float64)
    padding = tuple(k // 2 for k in kernel_of(kernel))
    out = conv(x)
    assert out.shape == x.shape
    torch.testing.assert_close(out, F.conv3d(x, conv.weight, conv.bias, padding=padding))


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@torch.no_grad()
def test_time_conv_of_few_channels(frames: int, dtype: torch.dtype) -> None:
    """As many channels as an image has, where a kernel of another library has read too far."""
    conv = randomized(TimeConv(3, 3))
    x = noise(2, 3, frames, 8, 8, dtype=dtype)
    expected = conv(x.float())
    torch.testing.assert_close(conv.to(dtype)(x).float(), expected, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("frames", [2, 3, 8])
@pytest.mark.parametrize("kernel", [[1, 1, 1], [3, 1, 1], [5, 1, 1], [9, 1, 1]], ids=str)
def test_time_conv_by_taps_is_conv3d_backwards_too(kernel: Any, frames: int) -> None:
    conv = randomized(TimeConv(8, kernel))
    x = noise(2, 8, frames, 4, 5).contiguous(memory_format=torch.channels_last_3d)
    x.requires_grad_()
    expected = F.conv3d(x, conv.weight, conv.bias, padding=(kernel[0] // 2, 0, 0))
    out = conv(x)
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(out, expected)
    towards, inputs = noise(*x.shape, seed=1), (x, conv.weight, conv.bias)
    grads = (torch.autograd.grad(y, inputs, towards) for y in (out, expected))
    for grad, expected_grad in zip(*grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kernel", [[3, 1, 1], [5, 1, 1]], ids=str)
@torch.no_grad()
def test_a_dirac_kernel_by_taps_is_the_identity(kernel: Any) -> None:
    conv = TimeConv(32, kernel)
    nn.init.dirac_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    x = noise(2, 32, 5, 4, 5).contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(conv(x), x)


@torch.no_grad()
def test_frames_are_folded_without_a_copy_where_channels_are_last() -> None:
    x = video().contiguous(memory_format=torch.channels_last)
    folded = fold_frames(unfold_frames(x, T))
    assert folded.data_ptr() == x.data_ptr()
    assert unfold_frames(x, T).is_contiguous(memory_format=torch.channels_last_3d)
    stack = TimeStack(C, 0.0, [3, 1, 1])
    out = fold_frames(stack(unfold_frames(x, T)))
    assert out.stride() == x.stride()


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


def test_time_stack_starts_as_the_identity() -> None:
    stack = TimeStack(C, 0.0, 3)
    x = noise(B, C, T, H, W)
    assert torch.equal(stack(x), x)
    assert stack.in_layers[2].weight.abs().max() > 0  # so that gradients arrive


def test_ae3dconv_is_two_convolutions() -> None:
    conv = randomized(AE3DConv(C, 3, [3, 1, 1], kernel_size=3, stride=1, padding=1)).double()
    x = video(dtype=torch.float64)
    with torch.no_grad():
        h = F.conv2d(x, conv.weight, conv.bias, padding=1)
        taps = conv.time_mix_conv.weight[:, :, :, 0, 0]  # O I K
        expected = torch.zeros_like(h)
        for i in range(B * T):
            b, t = divmod(i, T)
            expected[i] = conv.time_mix_conv.bias[:, None, None]
            for k, u in enumerate((t - 1, t, t + 1)):
                if 0 <= u < T:
                    expected[i] += torch.einsum("oi,ihw->ohw", taps[:, :, k], h[b * T + u])
        torch.testing.assert_close(conv(x, timesteps=T), expected)
