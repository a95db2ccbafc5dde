"""The temporal modules: convolutions and attention over time, blends, the image layer inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from inflate.models import (
    AE3DConv,
    AttnBlock,
    MemoryEfficientVideoBlock,
    ResnetBlock,
    VideoBlock,
    VideoResBlock,
)
from inflate.models.temporal import TimeConv, TimeStack
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


Build = Callable[..., Any]

TEMPORAL: dict[str, Build] = {
    "VideoResBlock": lambda **kwargs: VideoResBlock(2 * C, in_channels=C, **kwargs),
    "AE3DConv": lambda **kwargs: AE3DConv(C, 3, 3, kernel_size=3, padding=1, **kwargs),
    "VideoBlock": lambda **kwargs: VideoBlock(C, **kwargs),
    "MemoryEfficientVideoBlock": lambda **kwargs: MemoryEfficientVideoBlock(C, **kwargs),
}
every_temporal_module = pytest.mark.parametrize("build", TEMPORAL.values(), ids=TEMPORAL)


def image_layer(module: nn.Module) -> nn.Module:
    """The image layer that a temporal module extends, with the same weights."""
    image: nn.Module
    if isinstance(module, VideoResBlock):
        image = ResnetBlock(in_channels=C, out_channels=2 * C)
    elif isinstance(module, AE3DConv):
        image = nn.Conv2d(C, 3, 3, padding=1)
    else:
        image = AttnBlock(C)
    weights = module.state_dict()
    image.load_state_dict({key: weights[key] for key in image.state_dict()}, strict=True)
    return image


@pytest.mark.parametrize("build", [TEMPORAL["VideoResBlock"], TEMPORAL["VideoBlock"]])
@pytest.mark.parametrize("grad", [False, True])
def test_a_silent_branch_does_not_run(build: Build, grad: bool) -> None:
    silent, sounding = (build(alpha=alpha, merge_strategy="fixed") for alpha in (0.0, 0.5))
    ran: list[nn.Module] = []
    for block in (silent, sounding):
        branch = block.time_stack if isinstance(block, VideoResBlock) else block.time_mix_block
        branch.register_forward_hook(lambda module, *_: ran.append(module))
    with torch.set_grad_enabled(grad):
        x = video()
        silent(x, timesteps=T)
        assert ran == []
        sounding(x, timesteps=T)
        assert len(ran) == 1
        with pytest.raises(ValueError, match="timesteps is 4"):  # It is checked all the same.
            silent(x, timesteps=4)


@every_temporal_module
@torch.no_grad()
def test_inputs_are_not_overwritten(build: Build) -> None:
    block = randomized(build())
    for layout in (torch.contiguous_format, torch.channels_last):
        x = video().contiguous(memory_format=layout)
        before = x.clone()
        out = block(x, timesteps=T)
        assert torch.equal(x, before)
        assert torch.equal(block(x, timesteps=T), out)


@every_temporal_module
def test_gradients_change_no_bit(build: Build) -> None:
    """What runs in place without them gives the same."""
    block = randomized(build())
    x = video().contiguous(memory_format=torch.channels_last)
    with_gradients = block(x, timesteps=T)
    assert with_gradients.requires_grad
    with torch.no_grad():
        assert torch.equal(block(x, timesteps=T), with_gradients)


@every_temporal_module
@torch.no_grad()
def test_skip_video_is_the_image_layer(build: Build) -> None:
    module = randomized(build())
    x = video()
    expected = image_layer(module)(x)
    assert torch.equal(module(x, skip_video=True), expected)
    assert torch.equal(module(x, skip_video=True, timesteps=T), expected)
    assert not torch.equal(module(x, timesteps=T), expected)


@torch.no_grad()
def test_video_block_knows_the_order_of_frames_by_its_embedding() -> None:
    block = randomized(VideoBlock(C, alpha=1.0, merge_strategy="fixed"), keep_mix=True)
    x = video()[:T]
    backwards = block(x.flip(0), timesteps=T).flip(0)
    assert not torch.allclose(block(x, timesteps=T), backwards, atol=1e-3)
    nn.init.zeros_(block.video_time_embed[2].weight)
    nn.init.zeros_(block.video_time_embed[2].bias)
    backwards = block(x.flip(0), timesteps=T).flip(0)
    torch.testing.assert_close(block(x, timesteps=T), backwards, atol=1e-5, rtol=1e-5)
