"""The video decoder: its arguments, frames, types and gradients; where it is the image decoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from inflate.models import (
    Decoder,
    VideoDecoder,
)

from .builders import (
    ATTN_TYPES,
    MERGE_STRATEGIES,
    SMALL,
    TIME_MODES,
    TINY,
    NormTypes,
    error,
    image_decoder_of,
    latents,
    make_identity,
    noise,
    randomized,
    relative_rms,
    video_decoder,
)

every_mode = pytest.mark.parametrize("time_mode", TIME_MODES)


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


@pytest.mark.parametrize("time_mode", ["all", "conv-only"])
def test_a_bad_kernel_is_refused(time_mode: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="video_kernel_size is"):
        VideoDecoder(time_mode=time_mode, video_kernel_size=2, **TINY)


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


@torch.no_grad()
def test_frames_built_in_are_the_default_and_given_ones_win() -> None:
    z = latents()
    plain, built = video_decoder("all"), video_decoder("all", timesteps=3)
    by_three, by_two = plain(z, timesteps=3), plain(z, timesteps=2)
    assert not torch.equal(by_three, by_two)
    assert torch.equal(built(z), by_three)
    assert torch.equal(built(z, 2), by_two)
    assert torch.equal(built(z), by_three)  # what was given is not remembered


@pytest.mark.parametrize("time_mode", ["all", "conv-only"])
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


@torch.no_grad()
def test_autocast_runs_close_to_float32() -> None:
    decoder, z = video_decoder("all"), latents()
    expected = decoder(z, timesteps=3)
    with torch.autocast("cpu", torch.bfloat16):
        out = decoder(z, timesteps=3)
    assert out.dtype == torch.bfloat16
    assert relative_rms(out, expected) < 0.08


@pytest.mark.parametrize("attn_type", ["vanilla", "vanilla-xformers"])
def test_gradients_reach_every_parameter(attn_type: str) -> None:
    # With 64 channels a group of a norm holds two, so that it does not undo the bias before it.
    changes: dict[str, Any] = {"ch": 64, "ch_mult": [1], "attn_resolutions": []}
    decoder = video_decoder("all", attn_type=attn_type, merge_strategy="learned", **changes)
    z = latents().requires_grad_()
    (decoder(z, timesteps=3) * noise(6, 3, 4, 4, seed=1)).sum().backward()
    assert z.grad is not None
    assert z.grad.abs().min() > 0
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A bias of the keys moves every score of a query alike, which its softmax undoes.
        if not name.endswith(".k.bias"):
            assert parameter.grad.abs().max() > 1e-5, name


def test_skip_video_gives_the_temporal_layers_no_gradient() -> None:
    decoder = video_decoder("all")
    decoder(latents(), skip_video=True).square().sum().backward()
    image = set(Decoder(**SMALL).state_dict())
    assert {name for name, p in decoder.named_parameters() if p.grad is not None} == image


@pytest.mark.parametrize("argument", ["time_mode", "merge_strategy", "attn_type"])
def test_an_unknown_value_is_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} is 'linear'; expected one of"):
        VideoDecoder(**{**SMALL, argument: "linear"})


def test_dropout_acts_in_training_only() -> None:
    decoder, plain, z = video_decoder("all", dropout=0.5), video_decoder("all"), latents()
    assert torch.equal(decoder(z, timesteps=3), plain(z, timesteps=3))
    assert not torch.equal(decoder.train()(z, timesteps=3), plain.train()(z, timesteps=3))


with_blends = pytest.mark.parametrize("merge_strategy", MERGE_STRATEGIES)


@every_mode
@pytest.mark.parametrize("attn_type", ATTN_TYPES)
@torch.no_grad()
def test_skip_video_is_the_image_decoder(time_mode: str, attn_type: str) -> None:
    video = video_decoder(time_mode, merge_strategy="fixed", alpha=0.5, attn_type=attn_type)
    expected = image_decoder_of(video, attn_type=attn_type)(latents())
    assert torch.equal(video(latents(), skip_video=True), expected)
    assert torch.equal(video(latents(), timesteps=3, skip_video=True), expected)
    temporal = time_mode != "attn-only" or attn_type != "none"
    assert torch.equal(video(latents(), timesteps=3), expected) != temporal


@every_mode
@with_blends
@pytest.mark.parametrize("alpha", [0.0, 0.3])
@torch.no_grad()
def test_with_identities_in_its_branches_it_is_the_image_decoder(
    time_mode: str, merge_strategy: str, alpha: float
) -> None:
    video = VideoDecoder(time_mode=time_mode, merge_strategy=merge_strategy, alpha=alpha, **SMALL)
    randomized(video, keep_mix=True)
    image = image_decoder_of(video)
    z = latents()
    changed = error(video(z, timesteps=3), image(z))
    # With alpha 0 fixed, attention gives nothing of its temporal branch whatever it holds.
    silent = time_mode == "attn-only" and merge_strategy == "fixed" and alpha == 0
    assert changed == 0 if silent else changed > 1e-2
    assert torch.equal(make_identity(video)(z, timesteps=3), image(z))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_identities_are_the_image_decoder_in_every_dtype(dtype: torch.dtype) -> None:
    video = make_identity(video_decoder("all", alpha=0.3)).to(dtype)
    z = latents(dtype=dtype)
    assert torch.equal(video(z, timesteps=3), image_decoder_of(video)(z))
