"""The two-dimensional layers, each against its formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from inflate.models import AttnBlock, MemoryEfficientAttnBlock, ResnetBlock
from inflate.models.blocks import (
    Downsample,
    LayerNorm,
    Upsample,
    spatial_norm,
)

from .builders import NormTypes, noise, randomized
from .formulas import attention, group_norm

HALVES = [torch.float16, torch.bfloat16]
WIDE = [torch.float32, torch.float64]


@pytest.mark.parametrize(
    ("dtype", "computed_in"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
@pytest.mark.parametrize(
    ("norm", "name", "shape"),
    [(spatial_norm(64), "group_norm", (2, 64, 3, 3)), (LayerNorm(64), "layer_norm", (2, 3, 64))],
)
def test_norms_compute_in_float32_or_wider(
    norm: nn.Module, name: str, shape: tuple[int, ...], dtype: torch.dtype, computed_in: torch.dtype
) -> None:
    norm = norm.to(dtype)
    x = noise(*shape, dtype=dtype)
    with NormTypes() as types, torch.no_grad():
        out = norm(x)
    assert types.seen == {name: {computed_in}}  # input, weight and bias alike
    assert out.dtype == dtype
    assert out.shape == shape


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


def test_spatial_norm_has_32_groups_and_eps_1e_6() -> None:
    x = noise(2, 64, 3, 3, dtype=torch.float64) * 1e-3  # where the variance is that of eps
    norm = spatial_norm(64).double()
    torch.testing.assert_close(norm(x), group_norm(x, 1e-6))
    assert not torch.allclose(norm(x), group_norm(x, 1e-5), rtol=1e-2)


def test_resnet_block_is_its_formula() -> None:
    block = randomized(ResnetBlock(in_channels=32, out_channels=64)).double()
    x = noise(2, 32, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        h = group_norm(x, 1e-6) * block.norm1.weight[:, None, None]
        h = h + block.norm1.bias[:, None, None]
        h = F.conv2d(h * h.sigmoid(), block.conv1.weight, block.conv1.bias, padding=1)
        h = group_norm(h, 1e-6) * block.norm2.weight[:, None, None]
        h = h + block.norm2.bias[:, None, None]
        h = F.conv2d(h * h.sigmoid(), block.conv2.weight, block.conv2.bias, padding=1)
        skip = F.conv2d(x, block.nin_shortcut.weight, block.nin_shortcut.bias)
        torch.testing.assert_close(block(x), skip + h)


def test_resnet_block_takes_no_time_embedding() -> None:
    block = randomized(ResnetBlock(in_channels=32, temb_channels=0))
    x = noise(1, 32, 3, 3)
    assert torch.equal(block(x, None), block(x))
    with pytest.raises(ValueError, match=r"temb_channels is 128.*pass 0"):
        ResnetBlock(in_channels=32, temb_channels=128)


@pytest.mark.parametrize("kind", [AttnBlock, MemoryEfficientAttnBlock])
def test_attn_block_is_its_formula(kind: type[AttnBlock]) -> None:
    block = randomized(kind(32)).double()
    x = noise(2, 32, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        h = group_norm(x, 1e-6) * block.norm.weight[:, None, None]
        h = h + block.norm.bias[:, None, None]
        q, k, v = (
            torch.einsum("oc,nchw->nohw", part.weight[:, :, 0, 0], h) + part.bias[:, None, None]
            for part in (block.q, block.k, block.v)
        )
        q, k, v = (part.flatten(2).transpose(1, 2) for part in (q, k, v))
        attended = attention(q, k, v).transpose(1, 2).reshape(x.shape)
        projected = torch.einsum("oc,nchw->nohw", block.proj_out.weight[:, :, 0, 0], attended)
        expected = x + projected + block.proj_out.bias[:, None, None]
        torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("dtype", [*HALVES, *WIDE])
def test_upsample_repeats_pixels_then_convolves(dtype: torch.dtype) -> None:
    up = randomized(Upsample(8, with_conv=True)).to(dtype)
    x = noise(2, 8, 3, 4, dtype=dtype)
    repeated = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.equal(up(x), up.conv(repeated))
    assert torch.equal(Upsample(8, with_conv=False)(x), repeated)
    assert list(Upsample(8, with_conv=False).state_dict()) == []


def test_downsample_pads_right_and_below() -> None:
    down = randomized(Downsample(8, with_conv=True))
    x = noise(2, 8, 6, 4)
    padded = torch.zeros(2, 8, 7, 5)
    padded[:, :, :6, :4] = x
    expected = F.conv2d(padded, down.conv.weight, down.conv.bias, stride=2)
    assert torch.equal(down(x), expected)
    assert down(x).shape == (2, 8, 3, 2)
