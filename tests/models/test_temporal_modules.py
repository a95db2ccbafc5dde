"""What all temporal modules have in common: frames, blends, the image layer inside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from inflate.models import (
    AE3DConv,
    AttnBlock,
    MemoryEfficientVideoBlock,
    ResnetBlock,
    VideoBlock,
    VideoResBlock,
)

from .builders import randomized, video

B, T, C, H, W = 2, 3, 32, 4, 5

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
