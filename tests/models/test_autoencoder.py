"""The whole video autoencoder: what stands between its encoder and its decoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from inflate.models import Encoder, VideoDecoder
from inflate.models.autoencoder import VideoAutoencoder

from .builders import SMALL, TIME_MODES, error, noise, randomized, shapes_of

E = 4  # channels of the latents


def autoencoder(
    time_mode: str = "all", *, encoder: bool = True, double_z: bool = True, **between: Any
) -> VideoAutoencoder:
    config = {**SMALL, "double_z": double_z}
    between.setdefault("latent_channels", E)
    return randomized(
        VideoAutoencoder(
            VideoDecoder(time_mode=time_mode, **config),
            Encoder(**config) if encoder else None,
            **between,
        )
    )


def pointwise(conv: torch.nn.Module, x: Tensor) -> Tensor:
    weights = conv.state_dict()
    return F.conv2d(x, weights["weight"], weights["bias"])


def images() -> Tensor:
    return noise(6, 3, 8, 8)


def keys_between(model: VideoAutoencoder) -> dict[str, tuple[int, ...]]:
    return {k: s for k, s in shapes_of(model).items() if not k.startswith(("encoder.", "decoder."))}


def test_keys_of_a_kl_autoencoder() -> None:
    model = autoencoder(quant_conv=(8, 6), post_quant_conv=(3, 4), latent_channels=3)
    assert keys_between(model) == {
        "quant_conv.weight": (6, 8, 1, 1),
        "quant_conv.bias": (6,),
        "post_quant_conv.weight": (4, 3, 1, 1),
        "post_quant_conv.bias": (4,),
    }
    parts = {key.split(".")[0] for key in model.state_dict()}
    assert parts == {"encoder", "decoder", "quant_conv", "post_quant_conv"}


@torch.no_grad()
def test_kl_encodes_to_the_mean() -> None:
    model, x = autoencoder(quant_conv=(8, 6), post_quant_conv=(3, 4), latent_channels=3), images()
    moments = pointwise(model.quant_conv, model.encoder(x))
    assert moments.shape == (6, 6, 4, 4)
    z = model.encode(x)
    assert z.shape == (6, 3, 4, 4)
    torch.testing.assert_close(z, moments[:, :3])


@torch.no_grad()
def test_vq_encodes_to_the_nearest_entries() -> None:
    model, x = autoencoder(double_z=False, quant_conv=(4, 4), codebook_entries=16), images()
    h = pointwise(model.quant_conv, model.encoder(x))
    entries = model.quantize.embedding.weight
    z = model.encode(x)
    assert z.shape == h.shape == (6, 4, 4, 4)
    used = set()
    for n in range(6):
        for i in range(4):
            for j in range(4):
                nearest = int((entries - h[n, :, i, j]).square().sum(1).argmin())
                assert torch.equal(z[n, :, i, j], entries[nearest])
                used.add(nearest)
    assert len(used) > 3


@pytest.mark.parametrize("time_mode", TIME_MODES)
@torch.no_grad()
def test_decode_is_post_quant_conv_and_decoder(time_mode: str) -> None:
    model = autoencoder(time_mode, post_quant_conv=(3, 4), latent_channels=3)
    z = noise(6, 3, 4, 4)
    h = pointwise(model.post_quant_conv, z)
    assert error(model.decode(z, timesteps=3), model.decoder(h, timesteps=3)) < 1e-5
    assert error(model.decode(z, skip_video=True), model.decoder(h, skip_video=True)) < 1e-5
    assert error(model.decode(z, timesteps=3), model.decode(z, timesteps=2)) > 1e-2


def test_encode_without_an_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"without an encoder.*convert the whole"):
        autoencoder(encoder=False).encode(images())
