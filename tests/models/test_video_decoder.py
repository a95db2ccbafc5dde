"""The video decoder: its time modes, its arguments, frames, types and gradients."""

from __future__ import annotations

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
    MERGE_STRATEGIES,
    SMALL,
    TIME_MODES,
    TINY,
    NormTypes,
    error,
    latents,
    noise,
    relative_rms,
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
@torch.no_grad()
def test_videos_do_not_meet_and_frames_do(time_mode: str) -> None:
    decoder = video_decoder(time_mode)
    z = latents()
    out = decoder(z, timesteps=3)
    alone = torch.cat([decoder(z[:3], timesteps=3), decoder(z[3:], timesteps=3)])
    assert error(out, alone) < 1e-5
    frames_alone = torch.cat([decoder(frame[None], timesteps=1) for frame in z])
    assert error(out, frames_alone) > 1e-2


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
def test_last_layer(time_mode: str) -> None:
    decoder = video_decoder(time_mode)
    spatial = decoder.conv_out.weight
    assert decoder.get_last_layer(skip_time_mix=True) is spatial
    if time_mode == "attn-only":
        assert decoder.get_last_layer() is spatial
    else:
        assert decoder.get_last_layer() is decoder.conv_out.time_mix_conv.weight
        assert decoder.get_last_layer(skip_time_mix=False).dim() == 5


@every_mode
@torch.no_grad()
def test_frames_built_in_are_the_default_and_given_ones_win(time_mode: str) -> None:
    z = latents()
    plain, built = video_decoder(time_mode), video_decoder(time_mode, timesteps=3)
    by_three, by_two = plain(z, timesteps=3), plain(z, timesteps=2)
    assert not torch.equal(by_three, by_two)
    assert torch.equal(built(z), by_three)
    assert torch.equal(built(z, 2), by_two)
    assert torch.equal(built(z), by_three)  # what was given is not remembered


@every_mode
def test_frames_built_in_are_known_to_every_temporal_block(time_mode: str) -> None:
    decoder = video_decoder(time_mode, timesteps=3)
    temporal = [
        m for m in decoder.modules() if isinstance(m, VideoResBlock | VideoBlock | AE3DConv)
    ]
    assert len(temporal) == {"all": 10, "conv-only": 7, "attn-only": 3}[time_mode]
    for module in temporal:
        channels = module.in_channels
        x = noise(6, channels, 2, 2)
        assert torch.equal(module(x), module(x, timesteps=3))


@every_mode
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.08), (torch.float64, 1e-5)]
)
@torch.no_grad()
def test_other_dtypes(time_mode: str, dtype: torch.dtype, tolerance: float) -> None:
    decoder, z = video_decoder(time_mode), latents()
    expected = decoder(z, timesteps=3)
    with NormTypes() as types:
        out = decoder.to(dtype)(z.to(dtype), timesteps=3)
    assert out.dtype == dtype
    assert relative_rms(out, expected) < tolerance
    norms = {"group_norm"} if time_mode == "conv-only" else {"group_norm", "layer_norm"}
    computed_in = torch.promote_types(dtype, torch.float32)
    assert types.seen == {norm: {computed_in} for norm in norms}


@every_mode
@torch.no_grad()
def test_autocast_runs_close_to_float32(time_mode: str) -> None:
    decoder, z = video_decoder(time_mode), latents()
    expected = decoder(z, timesteps=3)
    with torch.autocast("cpu", torch.bfloat16):
        out = decoder(z, timesteps=3)
    assert out.dtype == torch.bfloat16
    assert relative_rms(out, expected) < 0.08


@every_mode
@pytest.mark.parametrize("attn_type", ["vanilla", "vanilla-xformers"])
def test_gradients_reach_every_parameter(time_mode: str, attn_type: str) -> None:
    # With 64 channels a group of a norm holds two, so that it does not undo the bias before it.
    decoder = video_decoder(time_mode, ch=64, attn_type=attn_type, merge_strategy="learned")
    z = latents().requires_grad_()
    (decoder(z, timesteps=3) * noise(6, 3, 8, 8, seed=1)).sum().backward()
    assert z.grad is not None
    assert z.grad.abs().min() > 0
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A bias of the keys moves every score of a query alike, which its softmax undoes.
        if not name.endswith(".k.bias"):
            assert parameter.grad.abs().max() > 1e-5, name


@every_mode
def test_temporal_layers_learn_beside_frozen_image_layers(time_mode: str) -> None:
    """In channels last, torch's GroupNorm would crash here."""
    decoder = video_decoder(time_mode)
    image = set(Decoder(**SMALL).state_dict())
    temporal = [p for name, p in decoder.named_parameters() if name not in image]
    for name, parameter in decoder.named_parameters():
        parameter.requires_grad_(name not in image)
    grads = torch.autograd.grad(decoder(latents(), timesteps=3).square().sum(), temporal)
    assert all(grad.isfinite().all() for grad in grads)


@every_mode
def test_skip_video_gives_the_temporal_layers_no_gradient(time_mode: str) -> None:
    decoder = video_decoder(time_mode)
    decoder(latents(), skip_video=True).square().sum().backward()
    image = set(Decoder(**SMALL).state_dict())
    assert {name for name, p in decoder.named_parameters() if p.grad is not None} == image


@pytest.mark.parametrize("argument", ["time_mode", "merge_strategy", "attn_type"])
def test_an_unknown_value_is_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} is 'linear'; expected one of"):
        VideoDecoder(**{**SMALL, argument: "linear"})


@every_mode
def test_dropout_acts_in_training_only(time_mode: str) -> None:
    decoder, plain, z = video_decoder(time_mode, dropout=0.5), video_decoder(time_mode), latents()
    assert torch.equal(decoder(z, timesteps=3), plain(z, timesteps=3))
    assert not torch.equal(decoder.train()(z, timesteps=3), plain.train()(z, timesteps=3))
