"""The autoencoder around the decoder; numbers and names are those of the original."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from inflate.models import Decoder, Encoder, VideoDecoder
from inflate.models.autoencoder import VideoAutoencoder

from .builders import (
    KL_F8,
    KL_F16,
    REFERENCE,
    SMALL,
    TOLERANCE,
    error,
    noise,
    randomized,
    reference_cases,
    reference_module,
    reference_vectors,
    run_reference,
    shapes_of,
)

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


@torch.no_grad()
def test_decode_is_post_quant_conv_and_decoder() -> None:
    model = autoencoder("all", post_quant_conv=(3, 4), latent_channels=3)
    z = noise(6, 3, 4, 4)
    h = pointwise(model.post_quant_conv, z)
    assert error(model.decode(z, timesteps=3), model.decoder(h, timesteps=3)) < 1e-5
    assert error(model.decode(z, skip_video=True), model.decoder(h, skip_video=True)) < 1e-5
    assert error(model.decode(z, timesteps=3), model.decode(z, timesteps=2)) > 1e-2


def test_encode_without_an_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"without an encoder.*convert the whole"):
        autoencoder(encoder=False).encode(images())


CASES = {case["name"]: case for case in reference_cases()}
VECTORS = reference_vectors()
KEYS = json.loads((REFERENCE / "state_dict_keys.json").read_text())
FAMILIES = {"kl-f8": KL_F8, "kl-f16": KL_F16}
KERNELS: dict[str, int | list[int]] = {"k3": 3, "k3-1-1": [3, 1, 1]}


def reference_error(case: dict[str, Any], module: torch.nn.Module) -> float:
    name = case["name"]
    return error(run_reference(case, module, VECTORS[f"{name}/z"]), VECTORS[f"{name}/out"])


def full_size(name: str) -> Decoder:
    """The decoder that an entry of the key lists names, such as ``kl-f8/all/k3``."""
    family, kind, *kernel = name.split("/")
    with torch.device("meta"):
        if kind == "image":
            return Decoder(**FAMILIES[family])
        size = KERNELS[kernel[0]] if kernel else 3
        return VideoDecoder(time_mode=kind, video_kernel_size=size, **FAMILIES[family])


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_the_originals(name: str) -> None:
    assert reference_error(CASES[name], reference_module(CASES[name])) <= TOLERANCE


@pytest.mark.parametrize(
    "key",
    [
        "conv_in.weight",
        "mid.block_1.mix_factor",
        "mid.block_2.time_stack.out_layers.3.bias",
        "mid.attn_1.mix_factor",
        "mid.attn_1.time_mix_block.attn1.to_v.weight",
        "mid.attn_1.video_time_embed.0.weight",
        "up.1.attn.1.time_mix_block.ff.net.0.proj.weight",
        "conv_out.time_mix_conv.weight",
    ],
)
def test_a_changed_weight_is_noticed(key: str) -> None:
    case = CASES["all-learned-k3"]
    module = reference_module(case)
    with torch.no_grad():
        module.state_dict()[key].flatten()[0].add_(0.1)
    assert reference_error(case, module) > TOLERANCE


@pytest.mark.parametrize("name", KEYS)
def test_full_size_keys_are_the_originals(name: str) -> None:
    expected = {key: tuple(shape) for key, shape in KEYS[name].items()}
    assert shapes_of(full_size(name)) == expected
