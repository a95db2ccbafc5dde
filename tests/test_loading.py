"""Video decoders and whole autoencoders, rebuilt from a file alone."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from inflate import errors
from inflate.config.schema import Architecture, Config, Temporal
from inflate.formats.source import describe
from inflate.io.reader import open_checkpoint
from inflate.loading import load_video_autoencoder, load_video_decoder
from inflate.models import Encoder, VideoDecoder
from tests.io.opening import assert_same

from .checkpoints import (
    ATTENTION_IN_UP,
    DDCONFIG,
    FIRST_STAGE,
    autoencoder,
    prefixed,
    under,
    video_autoencoder,
    write_safetensors,
    write_torch,
)
from .models.builders import noise

SMALLEST: dict[str, Any] = {"ch_mult": [1]}
LATENTS = noise(4, 4, 4, 3)
"""Two videos of two frames."""

KERNEL = (3, 1, 1)


def written(folder: Path, header: Any, temporal: dict[str, Any] | None = None) -> Path:
    """A video checkpoint whose header holds this configuration."""
    text = header if isinstance(header, str) else json.dumps(header)
    weights = video_autoencoder(temporal=temporal)
    return write_safetensors(folder / "a.safetensors", weights, {"inflate.config": text})


@pytest.mark.parametrize(
    ("mode", "prefix", "attention"),
    [("all", FIRST_STAGE, ATTENTION_IN_UP), ("conv-only", "", {}), ("attn-only", "", {})],
)
def test_a_video_decoder_of_another_tool_is_rebuilt_and_trains(
    mode: str, prefix: str, attention: dict[str, Any], tmp_path: Path
) -> None:
    temporal = {"time_mode": mode} if mode == "attn-only" else {
        "time_mode": mode, "video_kernel_size": KERNEL
    }  # fmt: skip
    weights = video_autoencoder(temporal=temporal, **attention)
    decoder = load_video_decoder(write_safetensors(tmp_path / "a", prefixed(weights, prefix)))
    assert_same(decoder.state_dict(), under(weights, "decoder."))
    assert (decoder.time_mode, decoder.merge_strategy) == (mode, "learned")
    expected = VideoDecoder(**{**DDCONFIG, **attention}, **temporal).eval()
    expected.load_state_dict(under(weights, "decoder."), strict=True)
    with torch.no_grad():
        assert torch.equal(decoder(LATENTS, timesteps=2), expected(LATENTS, timesteps=2))
    assert not decoder.training
    decoder.train()(LATENTS, timesteps=2).square().mean().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_module_has_the_stored_type_and_its_device(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = video_autoencoder(dtype=dtype, **SMALLEST)
    path = write_safetensors(tmp_path / "a", weights)
    assert_same(load_video_decoder(path).state_dict(), under(weights, "decoder."))
    meta = torch.device("meta")
    for module in (load_video_decoder(path, device="meta"), load_video_autoencoder(path, meta)):
        assert {tensor.device.type for tensor in module.state_dict().values()} == {"meta"}


def test_the_header_records_what_tensors_cannot_show(tmp_path: Path) -> None:
    architecture = Architecture(
        ch=32, ch_mult=(1, 2), num_res_blocks=1, z_channels=4, embed_dim=4, resolution=32,
        tanh_out=True, dropout=0.25,
    )  # fmt: skip
    recorded = Config(architecture, Temporal("all", "fixed", 0.25, KERNEL), seed=7)
    temporal = {"time_mode": "all", "merge_strategy": "fixed", "video_kernel_size": KERNEL}
    path = written(tmp_path, asdict(recorded), temporal)
    with open_checkpoint(path) as checkpoint:
        assert describe(checkpoint).config == recorded
    decoder = load_video_decoder(path)
    assert (decoder.merge_strategy, decoder.alpha, decoder.tanh_out) == ("fixed", 0.25, True)
    assert "mid.block_1.mix_factor" in dict(decoder.named_buffers())
    assert decoder.mid.block_1.dropout.p == 0.25


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ("{'seed': 1}", errors.CheckpointError),
        ("[1, 2]", errors.CheckpointError),
        ({"architecture": {"z_channels": 16}}, errors.ConfigError),
        ({"temporal": 3}, errors.ConfigError),
        ({"seed": "${oc.env:HOME}"}, errors.ConfigError),
        ({"temporal": {"time_mode": "all", "merge_strategy": "learned"}}, errors.PlanError),
    ],
)
def test_a_header_that_is_damaged_or_contradicts_the_tensors_is_refused(
    header: Any, error: type[errors.InflateError], tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        load_video_decoder(written(tmp_path, header))
    assert type(caught.value) is error


@pytest.mark.parametrize("load", [load_video_decoder, load_video_autoencoder])
def test_an_image_checkpoint_and_an_unknown_device_are_refused(load: Any, tmp_path: Path) -> None:
    path = write_torch(tmp_path / "img.pt", autoencoder(**SMALLEST))
    with pytest.raises(errors.FamilyError):
        load(path)
    with pytest.raises(errors.DeviceError):
        load(path, device="tpu0")


MIX, BIAS = "decoder.mid.block_1.mix_factor", "decoder.mid.block_1.time_stack.out_layers.3.bias"


@pytest.mark.parametrize(
    ("key", "tensor"),
    [(MIX, None), (BIAS, torch.ones(3)), ("decoder.extra", torch.ones(1)),
     ("encoder.norm_out.bias", None), ("quant_conv.bias", None),
     ("post_quant_conv.bias", torch.ones(9))],
)  # fmt: skip
def test_a_video_checkpoint_is_taken_strictly(
    key: str, tensor: Tensor | None, tmp_path: Path
) -> None:
    weights: dict[str, Any] = {**video_autoencoder(**SMALLEST), key: tensor}
    path = write_torch(tmp_path / "a", {k: v for k, v in weights.items() if v is not None})
    with pytest.raises(errors.PlanError) as caught:
        load_video_autoencoder(path)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{key} ")
    if key.startswith("decoder."):
        with pytest.raises(errors.PlanError):
            load_video_decoder(path)
    else:
        load_video_decoder(path)


IMAGES = noise(4, 3, 8, 6, seed=1).clamp(-1, 1)


def conv(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def encoded_by_hand(weights: dict[str, Tensor], kind: str, e: int) -> Tensor:
    encoder = Encoder(**{**DDCONFIG, "double_z": kind != "vq"}).eval()
    encoder.load_state_dict(under(weights, "encoder."), strict=True)
    h = encoder(IMAGES)
    if kind != "plain":
        h = conv(weights, "quant_conv", h)
    if kind != "vq":
        return h[:, :e]
    entries = weights["quantize.embedding.weight"]
    nearest = torch.cdist(h.permute(0, 2, 3, 1).flatten(0, 2), entries).argmin(-1)
    assert nearest.unique().numel() > 1
    return entries[nearest].view(4, 4, 3, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize(("kind", "e"), [("kl", 3), ("vq", 4), ("plain", 4)])
def test_encode_and_decode_are_what_their_parts_compute(kind: str, e: int, tmp_path: Path) -> None:
    temporal = {"time_mode": "all"}
    weights = video_autoencoder(kind, embed_dim=e, temporal=temporal)
    whole = load_video_autoencoder(write_safetensors(tmp_path / "a", weights))
    assert_same(whole.state_dict(), weights)
    decoder = VideoDecoder(**DDCONFIG, **temporal).eval()
    decoder.load_state_dict(under(weights, "decoder."), strict=True)
    with torch.no_grad():
        latents = whole.encode(IMAGES)
        assert latents.shape == (4, e, 4, 3)
        torch.testing.assert_close(latents, encoded_by_hand(weights, kind, e))
        z = latents if kind == "plain" else conv(weights, "post_quant_conv", latents)
        for how in ({"timesteps": 2}, {"timesteps": 4}, {"skip_video": True}):
            torch.testing.assert_close(whole.decode(latents, **how), decoder(z, **how))


def test_without_an_encoder_there_is_no_encode(tmp_path: Path) -> None:
    weights = {k: v for k, v in video_autoencoder().items() if not k.startswith(("enc", "quant"))}
    whole = load_video_autoencoder(write_safetensors(tmp_path / "a", weights))
    with pytest.raises(ValueError, match="encoder"):
        whole.encode(IMAGES)
    with torch.no_grad():
        assert whole.decode(LATENTS, timesteps=2).shape == IMAGES.shape


def test_another_quantiser_is_refused_and_its_decoder_loads(tmp_path: Path) -> None:
    weights = video_autoencoder("vq", **SMALLEST)
    weights["quantize.embed.weight"] = weights.pop("quantize.embedding.weight")
    path = write_torch(tmp_path / "gumbel.ckpt", weights)
    with pytest.raises(errors.PlanError):
        load_video_autoencoder(path)
    assert load_video_decoder(path).time_mode == "conv-only"
