"""The video decoder in other types, backwards, and as one graph."""

from __future__ import annotations

import pytest
import torch

from inflate.models import Decoder

from .builders import (
    SMALL,
    TIME_MODES,
    NormTypes,
    error,
    latents,
    noise,
    relative_rms,
    video_decoder,
)

every_mode = pytest.mark.parametrize("time_mode", TIME_MODES)


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
def test_gradients_change_no_more_than_rounding(time_mode: str) -> None:
    decoder, z = video_decoder(time_mode), latents()
    with torch.no_grad():
        expected = decoder(z, timesteps=3)
    assert error(decoder(z, timesteps=3).detach(), expected) < 1e-5


@every_mode
@pytest.mark.parametrize("give_pre_end", [False, True])
@torch.no_grad()
def test_outputs_are_laid_out_as_usual(time_mode: str, give_pre_end: bool) -> None:
    decoder = video_decoder(time_mode, give_pre_end=give_pre_end)
    assert decoder(latents(), timesteps=3).is_contiguous()
    assert decoder(latents(), skip_video=True).is_contiguous()


@every_mode
def test_skip_video_gives_the_temporal_layers_no_gradient(time_mode: str) -> None:
    decoder = video_decoder(time_mode)
    decoder(latents(), skip_video=True).square().sum().backward()
    image = set(Decoder(**SMALL).state_dict())
    assert {name for name, p in decoder.named_parameters() if p.grad is not None} == image
