"""The image networks: their levels, and the keywords that they refuse."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inflate.models import AttnBlock, Decoder, Encoder, VideoDecoder

from .builders import SMALL, latents, noise, randomized


def image_decoder(**changes: Any) -> Decoder:
    return randomized(Decoder(**{**SMALL, **changes}))


def by_hand(decoder: Decoder, z: Tensor) -> Tensor:
    """The decoder as a list of layers, coarsest level first."""
    level0, level1 = decoder.up
    h = decoder.conv_in(z)
    h = decoder.mid.block_2(decoder.mid.attn_1(decoder.mid.block_1(h)))
    h = level1.attn[1](level1.block[1](level1.attn[0](level1.block[0](h))))
    h = level1.upsample(h)
    h = level0.block[1](level0.block[0](h))
    h = decoder.norm_out(h)
    return decoder.conv_out(h * h.sigmoid())


@torch.no_grad()
def test_levels_run_from_the_coarsest() -> None:
    decoder = image_decoder()
    z = latents()
    torch.testing.assert_close(decoder(z), by_hand(decoder, z))


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


def encoder(**changes: Any) -> Encoder:
    return randomized(Encoder(**{**SMALL, **changes}))


def images(height: int = 8, width: int = 12) -> Tensor:
    return noise(2, 3, height, width)


@torch.no_grad()
def test_levels_run_from_the_finest() -> None:
    model, x = encoder(), images()
    level0, level1 = model.down
    h = level0.downsample(level0.block[0](model.conv_in(x)))
    h = level1.attn[0](level1.block[0](h))
    h = model.norm_out(model.mid.block_2(model.mid.attn_1(model.mid.block_1(h))))
    torch.testing.assert_close(model(x), model.conv_out(h * h.sigmoid()))
