"""What all temporal modules have in common: frames, blends, the image layer inside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inflate.models import (
    AE3DConv,
    AttnBlock,
    MemoryEfficientVideoBlock,
    ResnetBlock,
    VideoBlock,
    VideoResBlock,
)
from inflate.models.time_attention import frame_embedding

from .builders import NormTypes, noise, randomized, video
from .formulas import time_mix

B, T, C, H, W = 2, 3, 32, 4, 5

Build = Callable[..., Any]
Branches = Callable[[Any, Tensor], tuple[Tensor, Tensor]]

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


def res_branches(block: VideoResBlock, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a residual block gives from its spatial and from its temporal branch alone."""
    spatial = image_layer(block)(x)
    by_video = spatial.reshape(B, T, 2 * C, H, W).permute(0, 2, 1, 3, 4)
    temporal = block.time_stack(by_video).permute(0, 2, 1, 3, 4).reshape(spatial.shape)
    return spatial, temporal


def attn_branches(block: VideoBlock, x: Tensor) -> tuple[Tensor, Tensor]:
    """What an attention block gives from its spatial and from its temporal branch alone."""
    tokens = block.attention(x)
    embedding = block.video_time_embed(frame_embedding(T, C, x.device))
    mixed = torch.empty_like(tokens)
    for b in range(B):
        for pixel in range(H * W):
            frames = slice(b * T, (b + 1) * T)
            mixed[frames, pixel] = time_mix(block.time_mix_block, tokens[frames, pixel] + embedding)
    return image_layer(block)(x), x + block.proj_out(mixed.transpose(1, 2).reshape(x.shape))


BRANCHES: dict[str, Branches] = {
    "VideoResBlock": res_branches,
    "VideoBlock": attn_branches,
    "MemoryEfficientVideoBlock": attn_branches,
}
every_blend = pytest.mark.parametrize(
    ("build", "branches"), [(TEMPORAL[name], BRANCHES[name]) for name in BRANCHES], ids=BRANCHES
)


@every_blend
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@torch.no_grad()
def test_fixed_alpha_is_the_share_of_the_temporal_branch(
    build: Build, branches: Branches, alpha: float
) -> None:
    block = randomized(build(alpha=alpha, merge_strategy="fixed"), keep_mix=True)
    x = video()
    spatial, temporal = branches(block, x)
    out = block(x, timesteps=T)
    torch.testing.assert_close(out, alpha * temporal + (1 - alpha) * spatial, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(spatial, temporal, atol=1e-2)
    if alpha == 0:
        assert torch.equal(out, block(x, skip_video=True))


@every_blend
@pytest.mark.parametrize(("alpha", "share"), [(0.0, 0.5), (-100.0, 0.0), (100.0, 1.0)])
@torch.no_grad()
def test_learned_alpha_is_that_share_before_its_sigmoid(
    build: Build,
    branches: Branches,
    alpha: float,
    share: float,
) -> None:
    block = randomized(build(alpha=alpha, merge_strategy="learned"), keep_mix=True)
    x = video()
    spatial, temporal = branches(block, x)
    expected = share * temporal + (1 - share) * spatial
    torch.testing.assert_close(block(x, timesteps=T), expected, atol=1e-5, rtol=1e-5)


@every_blend
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_a_fixed_blend_without_temporal_share_gives_no_gradient(
    build: Build, branches: Branches, alpha: float
) -> None:
    """Dead weight: nothing of the temporal branch learns where its share is fixed at 0."""
    block = randomized(build(alpha=alpha, merge_strategy="fixed"), keep_mix=True)
    block(video(), timesteps=T).square().sum().backward()
    image = image_layer(block).state_dict()
    for key, parameter in block.named_parameters():
        if key not in image:
            learns = parameter.grad is not None and bool(parameter.grad.any())
            assert learns == (alpha > 0), key


@every_blend
@pytest.mark.parametrize("grad", [False, True])
def test_a_silent_branch_does_not_run(build: Build, branches: Branches, grad: bool) -> None:
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
        with pytest.raises(ValueError, match="timesteps is 4"):  # It is asked for all the same.
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


@every_temporal_module
def test_frames_given_nowhere(build: Build) -> None:
    with pytest.raises(ValueError, match=r"timesteps is given nowhere.*pass.*or build"):
        build()(video())


@every_temporal_module
def test_frames_that_do_not_divide_the_batch(build: Build) -> None:
    with pytest.raises(ValueError, match=r"timesteps is 4, and the batch holds 6 frames"):
        build()(video(), timesteps=4)


@every_temporal_module
@torch.no_grad()
def test_frames_built_in_and_given(build: Build) -> None:
    built = randomized(build(timesteps=T))
    x = video()
    assert torch.equal(built(x), built(x, timesteps=T))
    assert not torch.equal(built(x), built(x, timesteps=2))


@every_temporal_module
@torch.no_grad()
def test_videos_do_not_meet_and_frames_do(build: Build) -> None:
    block = randomized(build())
    x = video()
    out = block(x, timesteps=T)
    changed = x.clone()
    changed[T] += noise(C, H, W, seed=9)  # the first frame of the second video
    moved = [not torch.equal(a, b) for a, b in zip(block(changed, timesteps=T), out, strict=True)]
    # A kernel of three reaches the next frame; norms over T, and attention, the one after it.
    reaches_last = not isinstance(block, AE3DConv)
    assert moved == [False, False, False, True, True, reaches_last]


@every_temporal_module
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_other_dtypes(build: Build, dtype: torch.dtype) -> None:
    block = randomized(build())
    x = video(dtype=dtype)
    expected = block(x.float(), timesteps=T)
    with NormTypes() as types:
        out = block.to(dtype)(x, timesteps=T)
    assert out.dtype == dtype
    assert set().union(*types.seen.values()) <= {torch.promote_types(dtype, torch.float32)}
    assert bool(types.seen) == (not isinstance(block, AE3DConv))
    torch.testing.assert_close(out.float(), expected, atol=0.15, rtol=0.05)
