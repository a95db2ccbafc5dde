"""The two-dimensional layers, and the keywords that the image networks refuse."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inflate.models import (
    AttnBlock,
    Decoder,
    Encoder,
    ResnetBlock,
    VideoDecoder,
)
from inflate.models.blocks import (
    Downsample,
    LayerNorm,
    Upsample,
    spatial_norm,
)

from .builders import SMALL, NormTypes, noise, randomized


def group_norm(x: Tensor, eps: float, groups: int = 32) -> Tensor:
    """Group norm of ``N C ...`` without gain and bias."""
    g = x.reshape(x.shape[0], groups, -1)
    g = g - g.mean(-1, keepdim=True)
    return (g / (g.square().mean(-1, keepdim=True) + eps).sqrt()).reshape(x.shape)


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


def test_resnet_block_takes_no_time_embedding() -> None:
    block = randomized(ResnetBlock(in_channels=32, temb_channels=0))
    x = noise(1, 32, 3, 3)
    assert torch.equal(block(x, None), block(x))
    with pytest.raises(ValueError, match=r"temb_channels is 128.*pass 0"):
        ResnetBlock(in_channels=32, temb_channels=128)


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


@pytest.mark.parametrize(
    ("attn_resolutions", "levels"),
    [([], []), ([32], [0]), ([16], [1]), ([8], [2]), ([32, 8], [0, 2]), ([4, 64], [])],
)
def test_resolution_decides_where_attention_sits(
    attn_resolutions: list[int], levels: list[int]
) -> None:
    decoder = Decoder(
        **{**SMALL, "resolution": 32, "ch_mult": [1, 1, 1], "attn_resolutions": attn_resolutions}
    )
    assert [i for i, level in enumerate(decoder.up) if len(level.attn)] == levels
    assert all(len(decoder.up[i].attn) == len(decoder.up[i].block) for i in levels)
    assert type(decoder.mid.attn_1) is AttnBlock


@pytest.mark.parametrize("module", [Encoder, Decoder, VideoDecoder])
@pytest.mark.parametrize(
    ("keyword", "meant"),
    [("chmult", "ch_mult"), ("doublez", "double_z"), ("embed_dim", None), ("kwargs", None)],
)
def test_unknown_keywords_are_refused(
    module: type[nn.Module], keyword: str, meant: str | None
) -> None:
    with pytest.raises(TypeError) as caught:
        module(**SMALL, **{keyword: 1})
    named = [repr(keyword), *([repr(meant)] if meant else [])]
    assert re.findall(r"'\w+'", str(caught.value)) == named


@pytest.mark.parametrize("module", [Encoder, Decoder, VideoDecoder])
@pytest.mark.parametrize("keyword", ["use_linear_attn", "use_timestep"])
def test_keywords_that_make_another_network_are_refused(
    module: type[nn.Module], keyword: str
) -> None:
    with pytest.raises(ValueError, match=keyword):
        module(**SMALL, **{keyword: True})
