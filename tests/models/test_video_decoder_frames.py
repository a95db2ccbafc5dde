"""The number of frames of a video: given, built in, or missing."""

from __future__ import annotations

import pytest
import torch

from inflate.models import AE3DConv, VideoBlock, VideoResBlock

from .builders import (
    TIME_MODES,
    latents,
    noise,
    video_decoder,
)

every_mode = pytest.mark.parametrize("time_mode", TIME_MODES)


@every_mode
def test_frames_given_nowhere(time_mode: str) -> None:
    with pytest.raises(ValueError, match="timesteps is given nowhere") as refused:
        video_decoder(time_mode)(latents())
    message = str(refused.value)
    assert "forward(z, timesteps=T)" in message
    assert "build the module with timesteps=T" in message


@every_mode
@pytest.mark.parametrize("frames", [4, 5, 12, 0, -3])
def test_frames_that_do_not_divide_the_batch(time_mode: str, frames: int) -> None:
    with pytest.raises(ValueError, match=f"timesteps is {frames}, and the batch holds 6 frames"):
        video_decoder(time_mode)(latents(), timesteps=frames)
    with pytest.raises(ValueError, match=f"timesteps is {frames}, and the batch holds 6 frames"):
        video_decoder(time_mode, timesteps=frames)(latents())


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
