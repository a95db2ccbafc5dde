"""The video decoder: its three time modes and its arguments."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from inflate.models import (
    AE3DConv,
    AttnBlock,
    Decoder,
    MemoryEfficientAttnBlock,
    MemoryEfficientVideoBlock,
    ResnetBlock,
    VideoBlock,
    VideoDecoder,
    VideoResBlock,
)

from .builders import (
    BAD_KERNELS,
    KL_F8,
    KL_F16,
    MERGE_STRATEGIES,
    SMALL,
    TIME_MODES,
    TINY,
    error,
    latents,
    noise,
    shapes_of,
    video_decoder,
)

every_mode = pytest.mark.parametrize("time_mode", TIME_MODES)
with_convolutions = pytest.mark.parametrize("time_mode", ["all", "conv-only"])
with_blends = pytest.mark.parametrize("merge_strategy", MERGE_STRATEGIES)

PARTS: dict[str, tuple[type[nn.Module], type[nn.Module], type[nn.Module], type[nn.Module]]] = {
    # residual blocks, attention, attention of xformers, conv_out
    "conv-only": (VideoResBlock, AttnBlock, MemoryEfficientAttnBlock, AE3DConv),
    "attn-only": (ResnetBlock, VideoBlock, MemoryEfficientVideoBlock, nn.Conv2d),
    "all": (VideoResBlock, VideoBlock, MemoryEfficientVideoBlock, AE3DConv),
}


def test_available_time_modes() -> None:
    assert sorted(VideoDecoder.available_time_modes) == sorted(TIME_MODES)


@every_mode
def test_parts_of_a_time_mode(time_mode: str) -> None:
    residual, attention, efficient, conv_out = PARTS[time_mode]
    for attn_type, expected in (("vanilla", attention), ("vanilla-xformers", efficient)):
        decoder = VideoDecoder(time_mode=time_mode, **SMALL, attn_type=attn_type)
        blocks = [m for m in decoder.modules() if isinstance(m, ResnetBlock)]
        attns = [m for m in decoder.modules() if isinstance(m, AttnBlock)]
        assert len(blocks) == 2 + 4
        assert len(attns) == 1 + 2
        assert {type(m) for m in blocks} == {residual}
        assert {type(m) for m in attns} == {expected}
        assert type(decoder.conv_out) is conv_out
        assert type(decoder.conv_in) is nn.Conv2d


@every_mode
def test_attn_type_none_has_no_attention(time_mode: str) -> None:
    decoder = video_decoder(time_mode, attn_type="none")
    assert not any(isinstance(m, AttnBlock) for m in decoder.modules())
    assert not any("attn" in key for key in decoder.state_dict())
    assert decoder(latents(), timesteps=3).shape == (6, 3, 8, 8)


def test_defaults() -> None:
    decoder = VideoDecoder(**SMALL)
    assert decoder.time_mode == "conv-only"
    assert decoder.merge_strategy == "learned"
    assert decoder.timesteps is None
    assert decoder.conv_out.time_mix_conv.kernel_size == (3, 3, 3)
    mixes = [m.mix_factor for m in decoder.modules() if isinstance(m, VideoResBlock)]
    assert len(mixes) == 6
    assert all(isinstance(mix, nn.Parameter) and mix.item() == 0 for mix in mixes)


@every_mode
def test_image_keys_are_the_image_decoders(time_mode: str) -> None:
    image, video = (
        shapes_of(Decoder(**SMALL)),
        shapes_of(VideoDecoder(time_mode=time_mode, **SMALL)),
    )
    assert image.items() < video.items()


@every_mode
def test_full_size_on_meta(time_mode: str) -> None:
    with torch.device("meta"):
        decoder = VideoDecoder(time_mode=time_mode, **KL_F8)
        out = decoder(torch.empty(64, 4, 32, 32), timesteps=16)
    assert out.is_meta
    assert out.shape == (64, 3, 256, 256)


@every_mode
def test_full_size_kl_f16_on_meta(time_mode: str) -> None:
    with torch.device("meta"):
        decoder = VideoDecoder(time_mode=time_mode, **KL_F16)
        assert decoder(torch.empty(4, 16, 16, 16), timesteps=2).shape == (4, 3, 256, 256)


@every_mode
def test_the_same_call_on_cpu(time_mode: str) -> None:
    with torch.no_grad():
        out = VideoDecoder(time_mode=time_mode, **SMALL)(latents(4, 16, 2), timesteps=16)
    assert out.shape == (64, 3, 4, 4)
    assert out.isfinite().all()


@every_mode
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5)])
def test_any_input_size_runs(time_mode: str, height: int, width: int) -> None:
    out = video_decoder(time_mode)(noise(4, 4, height, width), timesteps=2)
    assert out.shape == (4, 3, 2 * height, 2 * width)


@every_mode
def test_one_frame_runs(time_mode: str) -> None:
    assert video_decoder(time_mode)(latents(2, 1), timesteps=1).shape == (2, 3, 8, 8)


@every_mode
@torch.no_grad()
def test_videos_do_not_meet_and_frames_do(time_mode: str) -> None:
    decoder = video_decoder(time_mode)
    z = latents()
    out = decoder(z, timesteps=3)
    alone = torch.cat([decoder(z[:3], timesteps=3), decoder(z[3:], timesteps=3)])
    assert error(out, alone) < 1e-5
    frames_alone = torch.cat([decoder(frame[None], timesteps=1) for frame in z])
    assert error(out, frames_alone) > 1e-2


@every_mode
@torch.no_grad()
def test_memory_layout_does_not_matter(time_mode: str) -> None:
    decoder = video_decoder(time_mode)
    z = latents()
    out = decoder(z, timesteps=3)
    channels_last = z.to(memory_format=torch.channels_last)
    assert not channels_last.is_contiguous()
    assert error(decoder(channels_last, timesteps=3), out) < 1e-5


@pytest.mark.parametrize("time_mode", ["conv", "", "ALL", None])
def test_another_time_mode_is_refused(time_mode: Any) -> None:
    with pytest.raises(ValueError, match=r"time_mode is .*expected one of") as refused:
        VideoDecoder(time_mode=time_mode, **SMALL)
    assert all(mode in str(refused.value) for mode in TIME_MODES)
    assert repr(time_mode) in str(refused.value)


@every_mode
def test_another_merge_strategy_is_refused(time_mode: str) -> None:
    with pytest.raises(ValueError, match=r"merge_strategy is 'mean'.*learned, fixed"):
        VideoDecoder(time_mode=time_mode, merge_strategy="mean", **SMALL)


@every_mode
def test_another_attn_type_is_refused(time_mode: str) -> None:
    with pytest.raises(ValueError, match=r"attn_type is 'linear'.*vanilla, vanilla-xformers, none"):
        VideoDecoder(time_mode=time_mode, attn_type="linear", **SMALL)


@with_convolutions
@pytest.mark.parametrize("kernel", BAD_KERNELS, ids=repr)
def test_a_bad_kernel_is_refused(time_mode: str, kernel: Any) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="video_kernel_size is"):
        VideoDecoder(time_mode=time_mode, video_kernel_size=kernel, **TINY)


@with_convolutions
@pytest.mark.parametrize(
    ("kernel", "taps"),
    [
        (1, (1, 1, 1)),
        (3, (3, 3, 3)),
        (5, (5, 5, 5)),
        ([3, 1, 1], (3, 1, 1)),
        ((1, 3, 5), (1, 3, 5)),
    ],
)
def test_kernels(time_mode: str, kernel: Any, taps: tuple[int, int, int]) -> None:
    decoder = VideoDecoder(time_mode=time_mode, video_kernel_size=kernel, **SMALL)
    convs = [m for m in decoder.modules() if isinstance(m, nn.Conv3d)]
    assert len(convs) == 2 * 6 + 1
    assert {conv.kernel_size for conv in convs} == {taps}
    assert decoder(latents(), timesteps=3).shape == (6, 3, 8, 8)


@every_mode
@with_blends
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_alpha_is_stored_by_the_meaning_of_each_block(
    time_mode: str, merge_strategy: str, alpha: float
) -> None:
    decoder = VideoDecoder(time_mode=time_mode, merge_strategy=merge_strategy, alpha=alpha, **SMALL)
    fixed = merge_strategy == "fixed"
    expected = {VideoResBlock: alpha, VideoBlock: 1 - alpha if fixed else -alpha}
    owners = [m for m in decoder.modules() if isinstance(m, VideoResBlock | VideoBlock)]
    assert len(owners) == {"all": 9, "conv-only": 6, "attn-only": 3}[time_mode]
    for module in owners:
        assert module.mix_factor.item() == pytest.approx(expected[type(module)], abs=1e-7)
    held = decoder.named_buffers() if fixed else decoder.named_parameters()
    names = [name for name, _ in held if name.endswith("mix_factor")]
    assert len(names) == len(owners)
    assert sum(key.endswith("mix_factor") for key in decoder.state_dict()) == len(owners)


@every_mode
def test_keywords_of_a_shared_configuration_are_ignored(time_mode: str) -> None:
    plain = video_decoder(time_mode)
    other = video_decoder(time_mode, double_z=False, use_linear_attn=False)
    z = latents()
    assert shapes_of(other) == shapes_of(plain)
    assert torch.equal(other(z, timesteps=3), plain(z, timesteps=3))


def test_a_keyword_that_is_spelt_wrong_names_the_right_one() -> None:
    with pytest.raises(TypeError) as caught:
        VideoDecoder(**SMALL, alhpa=0.5)
    assert re.findall(r"'\w+'", str(caught.value)) == ["'alhpa'", "'alpha'"]


@every_mode
@torch.no_grad()
def test_tanh_out_and_give_pre_end(time_mode: str) -> None:
    z, decoder = latents(), video_decoder(time_mode)
    out = decoder(z, timesteps=3)
    assert torch.equal(video_decoder(time_mode, tanh_out=True)(z, timesteps=3), out.tanh())
    h = video_decoder(time_mode, give_pre_end=True)(z, timesteps=3)
    assert h.shape == (6, 32, 8, 8)
    h = decoder.norm_out(h)
    kwargs = {} if time_mode == "attn-only" else {"timesteps": 3}
    assert error(decoder.conv_out(h * h.sigmoid(), **kwargs), out) < 1e-5


@every_mode
def test_without_convolutions_between_levels(time_mode: str) -> None:
    decoder = video_decoder(time_mode, resamp_with_conv=False)
    assert not any("upsample" in key for key in decoder.state_dict())
    assert decoder(latents(), timesteps=3).shape == (6, 3, 8, 8)


@every_mode
def test_last_layer(time_mode: str) -> None:
    decoder = video_decoder(time_mode)
    spatial = decoder.conv_out.weight
    assert decoder.get_last_layer(skip_time_mix=True) is spatial
    if time_mode == "attn-only":
        assert decoder.get_last_layer() is spatial
    else:
        assert decoder.get_last_layer() is decoder.conv_out.time_mix_conv.weight
        assert decoder.get_last_layer(skip_time_mix=False).dim() == 5
