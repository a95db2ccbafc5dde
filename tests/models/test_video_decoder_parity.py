"""The video decoder equals the image decoder where it must, and nowhere else."""

from __future__ import annotations

import pytest
import torch

from inflate.models import VideoDecoder

from .builders import (
    ATTN_TYPES,
    MERGE_STRATEGIES,
    SMALL,
    TIME_MODES,
    error,
    image_decoder_of,
    latents,
    make_identity,
    randomized,
    video_decoder,
)

every_mode = pytest.mark.parametrize("time_mode", TIME_MODES)
with_blends = pytest.mark.parametrize("merge_strategy", MERGE_STRATEGIES)


@every_mode
@with_blends
@pytest.mark.parametrize("attn_type", ATTN_TYPES)
@torch.no_grad()
def test_skip_video_is_the_image_decoder(
    time_mode: str, merge_strategy: str, attn_type: str
) -> None:
    video = video_decoder(time_mode, merge_strategy=merge_strategy, alpha=0.5, attn_type=attn_type)
    expected = image_decoder_of(video, attn_type=attn_type)(latents())
    assert torch.equal(video(latents(), skip_video=True), expected)
    assert torch.equal(video(latents(), timesteps=3, skip_video=True), expected)
    temporal = time_mode != "attn-only" or attn_type != "none"
    assert torch.equal(video(latents(), timesteps=3), expected) != temporal


@every_mode
@with_blends
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.3, 0.5, 1.0])
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


@every_mode
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_identities_are_the_image_decoder_in_every_dtype(
    time_mode: str, dtype: torch.dtype
) -> None:
    video = make_identity(video_decoder(time_mode, alpha=0.3)).to(dtype)
    z = latents(dtype=dtype)
    assert torch.equal(video(z, timesteps=3), image_decoder_of(video)(z))


@every_mode
def test_as_built_it_is_not_the_image_decoder_where_its_branches_start_random(
    time_mode: str,
) -> None:
    """Why inflation sets the branches, and does not leave parity to alpha."""
    torch.manual_seed(0)
    video = VideoDecoder(time_mode=time_mode, alpha=0.0, merge_strategy="learned", **SMALL).eval()
    z = latents()
    with torch.no_grad():
        assert error(video(z, timesteps=3), image_decoder_of(video)(z)) > 1e-3
