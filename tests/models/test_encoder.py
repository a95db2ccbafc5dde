"""The image encoder: its levels and its options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inflate.models import AttnBlock, Encoder

from .builders import ATTN_TYPES, KL_F8, SMALL, noise, randomized, shapes_of


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


@pytest.mark.parametrize(
    ("options", "channels"), [({}, 8), ({"double_z": True}, 8), ({"double_z": False}, 4)]
)
def test_double_z_is_mean_and_log_variance(options: dict[str, bool], channels: int) -> None:
    plain = {key: value for key, value in SMALL.items() if key != "double_z"}
    assert Encoder(**plain, **options)(images()).shape == (2, channels, 4, 6)


@pytest.mark.parametrize(
    ("attn_resolutions", "levels"), [([], []), ([32], [0]), ([8], [2]), ([32, 16], [0, 1])]
)
def test_resolution_decides_where_attention_sits(
    attn_resolutions: list[int], levels: list[int]
) -> None:
    model = Encoder(
        **{**SMALL, "resolution": 32, "ch_mult": [1, 1, 1], "attn_resolutions": attn_resolutions}
    )
    assert [i for i, level in enumerate(model.down) if len(level.attn)] == levels
    assert all(len(model.down[i].attn) == len(model.down[i].block) for i in levels)
    assert [level.downsample is not None for level in model.down] == [True, True, False]
    assert type(model.mid.attn_1) is AttnBlock


def test_keywords_of_a_shared_configuration_are_ignored() -> None:
    assert shapes_of(encoder(out_ch=5, tanh_out=True, give_pre_end=True)) == shapes_of(encoder())


def test_without_convolutions_between_levels() -> None:
    model, plain = encoder(resamp_with_conv=False), encoder()
    downsampling = {key for key in plain.state_dict() if "downsample" in key}
    assert downsampling == {"down.0.downsample.conv.weight", "down.0.downsample.conv.bias"}
    assert set(model.state_dict()) == set(plain.state_dict()) - downsampling
    assert model(images()).shape == (2, 8, 4, 6)


@pytest.mark.parametrize("attn_type", ATTN_TYPES)
def test_attn_type(attn_type: str) -> None:
    model = encoder(attn_type=attn_type)
    attention = {key for key in model.state_dict() if "attn" in key}
    vanilla = {key for key in encoder().state_dict() if "attn" in key}
    assert attention == (set() if attn_type == "none" else vanilla)
    assert model(images()).shape == (2, 8, 4, 6)


def test_another_attn_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"attn_type is 'linear'.*vanilla, vanilla-xformers, none"):
        Encoder(**SMALL, attn_type="linear")


def test_dropout_acts_in_training_only() -> None:
    model, plain, x = encoder(dropout=0.5), encoder(), images()
    assert torch.equal(model(x), plain(x))
    torch.manual_seed(0)
    assert not torch.equal(model.train()(x), plain.train()(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_other_dtypes(dtype: torch.dtype) -> None:
    model, x = encoder(), images()
    expected = model(x)
    out = model.to(dtype)(x.to(dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, atol=0.15, rtol=0.05)


def test_full_size_on_meta() -> None:
    with torch.device("meta"):
        model: nn.Module = Encoder(**KL_F8)
        assert model(torch.empty(1, 3, 256, 256)).shape == (1, 8, 32, 32)
