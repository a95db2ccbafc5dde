"""The image decoder: its levels, its options, and what it ignores."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inflate.models import AttnBlock, Decoder, Encoder, ResnetBlock, VideoDecoder
from inflate.models.blocks import Upsample

from .builders import ATTN_TYPES, KL_F8, SMALL, latents, noise, randomized


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


def test_levels_are_indexed_from_the_finest() -> None:
    decoder = Decoder(**{**SMALL, "ch_mult": [1, 2, 4], "num_res_blocks": 2})
    outs = [[block.out_channels for block in level.block] for level in decoder.up]
    assert outs == [[32] * 3, [64] * 3, [128] * 3]
    assert [level.upsample is not None for level in decoder.up] == [False, True, True]
    assert decoder.conv_in.out_channels == 128
    assert decoder.conv_out.in_channels == 32


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


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (8, 2)])
def test_any_input_size_runs(height: int, width: int) -> None:
    out = image_decoder()(noise(2, 4, height, width))
    assert out.shape == (2, 3, 2 * height, 2 * width)


def test_images_do_not_meet() -> None:
    decoder = image_decoder()
    z = latents()
    with torch.no_grad():
        alone = torch.cat([decoder(image[None]) for image in z])
        torch.testing.assert_close(decoder(z), alone, atol=1e-5, rtol=1e-5)


def test_keywords_of_a_shared_configuration_are_ignored() -> None:
    plain = image_decoder()
    shared = {"double_z": False, "use_linear_attn": False, "use_timestep": False}
    decoder = image_decoder(**shared, gather_norm=True)
    assert set(decoder.state_dict()) == set(plain.state_dict())
    z = latents()
    assert torch.equal(decoder(z), plain(z))


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


@pytest.mark.parametrize("module", [Encoder, Decoder])
def test_keywords_of_the_video_decoder_are_its_own(module: type[nn.Module]) -> None:
    for keyword in ("alpha", "merge_strategy", "time_mode", "video_kernel_size"):
        with pytest.raises(TypeError, match=f"'{keyword}'"):
            module(**SMALL, **{keyword: 1})


@pytest.mark.parametrize("module", [Encoder, Decoder, VideoDecoder])
@pytest.mark.parametrize("keyword", ["use_linear_attn", "use_timestep"])
def test_keywords_that_make_another_network_are_refused(
    module: type[nn.Module], keyword: str
) -> None:
    with pytest.raises(ValueError, match=keyword):
        module(**SMALL, **{keyword: True})


def test_tanh_out() -> None:
    z = latents()
    assert torch.equal(image_decoder(tanh_out=True)(z), image_decoder()(z).tanh())


def test_give_pre_end() -> None:
    decoder, z = image_decoder(), latents()
    h = image_decoder(give_pre_end=True)(z)
    assert h.shape == (6, 32, 8, 8)
    h = decoder.norm_out(h)
    torch.testing.assert_close(decoder.conv_out(h * h.sigmoid()), decoder(z))


def test_without_convolutions_between_levels() -> None:
    decoder = image_decoder(resamp_with_conv=False)
    plain = image_decoder()
    upsampling = {key for key in plain.state_dict() if "upsample" in key}
    assert upsampling == {"up.1.upsample.conv.weight", "up.1.upsample.conv.bias"}
    assert set(decoder.state_dict()) == set(plain.state_dict()) - upsampling
    z = latents()
    out = decoder(z)
    assert out.shape == (6, 3, 8, 8)
    decoder.up[1].upsample = Upsample(64, with_conv=True)
    nn.init.dirac_(decoder.up[1].upsample.conv.weight)
    nn.init.zeros_(decoder.up[1].upsample.conv.bias)
    torch.testing.assert_close(decoder(z), out)


@pytest.mark.parametrize("attn_type", ATTN_TYPES)
def test_attn_type(attn_type: str) -> None:
    decoder = image_decoder(attn_type=attn_type)
    attention = {key for key in decoder.state_dict() if "attn" in key}
    vanilla = {key for key in image_decoder().state_dict() if "attn" in key}
    assert attention == (set() if attn_type == "none" else vanilla)
    assert decoder(latents()).shape == (6, 3, 8, 8)


def test_another_attn_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"attn_type is 'linear'.*vanilla, vanilla-xformers, none"):
        Decoder(**SMALL, attn_type="linear")


def test_dropout_acts_in_training_only() -> None:
    decoder, plain, z = image_decoder(dropout=0.5), image_decoder(), latents()
    assert torch.equal(decoder(z), plain(z))
    torch.manual_seed(0)
    assert not torch.equal(decoder.train()(z), plain.train()(z))


def test_last_layer() -> None:
    decoder = image_decoder()
    assert decoder.get_last_layer() is decoder.conv_out.weight


def test_factories_are_asked_for_every_part() -> None:
    class Block(ResnetBlock):
        pass

    class Conv(nn.Conv2d):
        pass

    class Attn(AttnBlock):
        def __init__(self, in_channels: int, attn_type: str) -> None:
            super().__init__(in_channels)

    class Other(Decoder):
        def _make_attn(self) -> Any:
            return Attn

        def _make_resblock(self) -> Any:
            return Block

        def _make_conv(self) -> Any:
            return Conv

    decoder = Other(**SMALL)
    for made, base in ((Block, ResnetBlock), (Attn, AttnBlock)):
        found = [type(module) for module in decoder.modules() if isinstance(module, base)]
        assert set(found) == {made}
    assert type(decoder.conv_out) is Conv
    assert type(decoder.conv_in) is nn.Conv2d


def test_a_level_without_attention_has_no_keys_of_it() -> None:
    decoder = Decoder(**{**SMALL, "attn_resolutions": []})
    assert not any(key.startswith("up.") and "attn" in key for key in decoder.state_dict())


def test_full_size_on_meta() -> None:
    with torch.device("meta"):
        out = Decoder(**KL_F8)(torch.empty(1, 4, 32, 32))
    assert out.is_meta
    assert out.shape == (1, 3, 256, 256)
