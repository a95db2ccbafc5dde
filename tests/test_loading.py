"""Video decoders and whole autoencoders, rebuilt from a file alone."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

import inflate
from inflate.config.schema import Architecture, Config, Temporal
from inflate.errors import CheckpointError, ConfigError, FamilyError, PlanError
from inflate.formats.source import describe
from inflate.io.reader import open_checkpoint
from inflate.loading import (
    load_image_decoder,
    load_post_quant_conv,
    load_video_autoencoder,
    load_video_decoder,
)
from inflate.models import Decoder, Encoder, VideoDecoder
from tests.io.opening import assert_same, opened

from .checkpoints import (
    ATTENTION_IN_UP,
    CODES,
    DDCONFIG,
    FIRST_STAGE,
    KINDS,
    autoencoder,
    bare_decoder,
    prefixed,
    video_autoencoder,
    write_lightning,
    write_safetensors,
    write_torch,
)
from .models.builders import noise

SMALLEST: dict[str, Any] = {"ch_mult": [1]}
LATENTS = noise(4, 4, 4, 3)
"""Two videos of two frames."""

KERNEL = (3, 1, 1)


def part(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of a part, under its own names."""
    return {k.removeprefix(name): v for k, v in weights.items() if k.startswith(name)}


def config(**changes: Any) -> Config:
    """The configuration of the tiny video autoencoders."""
    architecture = Architecture(
        ch=32, ch_mult=(1, 2), num_res_blocks=1, z_channels=4, embed_dim=4, resolution=32
    )
    fields = {"architecture": architecture, "temporal": Temporal(), **changes}
    return Config(**fields)


def written(folder: Path, header: Any, weights: dict[str, Tensor] | None = None) -> Path:
    """A video checkpoint whose header holds this configuration."""
    text = header if isinstance(header, str) else json.dumps(header)
    weights = video_autoencoder() if weights is None else weights
    return write_safetensors(folder / "a.safetensors", weights, {"inflate.config": text})


# The bare decoder


@pytest.mark.parametrize("attention", [{}, ATTENTION_IN_UP], ids=["middle", "up"])
@pytest.mark.parametrize("prefix", ["", FIRST_STAGE])
@pytest.mark.parametrize("mode", ["all", "conv-only", "attn-only"])
def test_a_video_decoder_of_another_tool_is_rebuilt(
    mode: str, prefix: str, attention: dict[str, Any], tmp_path: Path
) -> None:
    temporal = {"time_mode": mode} if mode == "attn-only" else {
        "time_mode": mode, "video_kernel_size": KERNEL
    }  # fmt: skip
    weights = video_autoencoder(temporal=temporal, **attention)
    decoder = load_video_decoder(write_safetensors(tmp_path / "a", prefixed(weights, prefix)))
    assert_same(decoder.state_dict(), part(weights, "decoder."))
    assert (decoder.time_mode, decoder.merge_strategy) == (mode, "learned")
    expected = VideoDecoder(**{**DDCONFIG, **attention}, **temporal).eval()
    expected.load_state_dict(part(weights, "decoder."), strict=True)
    with torch.no_grad():
        assert torch.equal(decoder(LATENTS, timesteps=2), expected(LATENTS, timesteps=2))
    assert not decoder.training


@pytest.mark.parametrize("writer", [write_safetensors, write_torch, write_lightning])
def test_a_file_of_any_format_will_do(writer: Any, tmp_path: Path) -> None:
    weights = video_autoencoder(**SMALLEST)
    decoder = load_video_decoder(str(writer(tmp_path / "a", weights)))
    assert_same(decoder.state_dict(), part(weights, "decoder."))


def test_a_bare_video_decoder_is_rebuilt(tmp_path: Path) -> None:
    weights = part(video_autoencoder(), "decoder.")
    decoder = load_video_decoder(write_torch(tmp_path / "a.pt", weights))
    assert_same(decoder.state_dict(), weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_stored_type_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = video_autoencoder(dtype=dtype, **SMALLEST)
    decoder = load_video_decoder(write_safetensors(tmp_path / "a", weights))
    assert_same(decoder.state_dict(), part(weights, "decoder."))


def test_the_module_goes_where_it_is_asked_to(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "a", video_autoencoder(**SMALLEST))
    for module in (
        load_video_decoder(path, device="meta"),
        load_video_autoencoder(path, device=torch.device("meta")),
    ):
        assert {tensor.device.type for tensor in module.state_dict().values()} == {"meta"}


def test_the_module_outlives_its_file(tmp_path: Path) -> None:
    weights = video_autoencoder(**SMALLEST)
    path = write_safetensors(tmp_path / "a", weights)
    decoder = load_video_decoder(path)
    path.unlink()
    assert_same(decoder.state_dict(), part(weights, "decoder."))


def test_the_module_can_be_trained(tmp_path: Path) -> None:
    decoder = load_video_decoder(
        write_safetensors(tmp_path / "a", video_autoencoder(**SMALLEST))
    ).train()
    decoder(LATENTS, timesteps=2).square().mean().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


# What the header tells


def test_the_header_tells_what_tensors_cannot_show(tmp_path: Path) -> None:
    told = config(
        architecture=replace(config().architecture, tanh_out=True, dropout=0.25),
        temporal=Temporal("all", "fixed", 0.25, KERNEL),
        seed=7,
    )
    temporal = {"time_mode": "all", "merge_strategy": "fixed", "video_kernel_size": KERNEL}
    weights = video_autoencoder(temporal=temporal)
    path = written(tmp_path, asdict(told), weights)
    with open_checkpoint(path) as checkpoint:
        assert describe(checkpoint).config == told
    decoder = load_video_decoder(path)
    assert (decoder.merge_strategy, decoder.alpha, decoder.tanh_out) == ("fixed", 0.25, True)
    assert "mid.block_1.mix_factor" in dict(decoder.named_buffers())
    assert decoder.mid.block_1.dropout.p == 0.25


def test_settings_win_over_the_header(tmp_path: Path) -> None:
    path = written(tmp_path, asdict(config(seed=7)))
    with open_checkpoint(path) as checkpoint:
        layers = ({"temporal.alpha": 0.5, "seed": 8}, {"seed": 9})
        described = describe(checkpoint, *layers).config
    assert described == config(temporal=Temporal(alpha=0.5), seed=9)


def test_a_header_that_is_not_json_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, "{'seed': 1}")
    with pytest.raises(CheckpointError) as caught:
        load_video_decoder(path)
    assert str(caught.value).startswith(
        f"{path}: its header's 'inflate.config' is not JSON: Expecting property name"
    )


@pytest.mark.parametrize("header", ["[1, 2]", "null", "7", '"seed"'])
def test_a_header_that_is_no_object_is_told(header: str, tmp_path: Path) -> None:
    path = written(tmp_path, header)
    with pytest.raises(CheckpointError) as caught:
        load_video_decoder(path)
    assert str(caught.value) == f"{path}: its header's 'inflate.config' is not a JSON object"


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ({"architecture": {"z_channels": 16}}, "z_channels: the configuration says 16, the "
                                               "checkpoint has 4"),
        ({"temporal": {"alhpa": 0.5}}, "temporal.alhpa: unknown key (did you mean "
                                       "'temporal.alpha'?)"),
        ({"temporal": 3}, "temporal is 3; expected keys and values of its own"),
        ({"seed": "${oc.env:HOME}"}, "seed is '${oc.env:HOME}'; expected a plain value: only a "
                                     "YAML file refers to others"),
    ],
)  # fmt: skip
def test_a_header_that_contradicts_itself_or_the_tensors_is_told(
    header: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    path = written(tmp_path, header)
    with pytest.raises(ConfigError) as caught:
        load_video_decoder(path)
    assert str(caught.value) == (
        f"{path}: the configuration in its header has errors:\n  - {problem}"
    )


def test_a_header_that_promises_other_temporal_layers_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, asdict(config(temporal=Temporal(time_mode="all"))))
    with pytest.raises(PlanError) as caught:
        load_video_decoder(path)
    assert str(caught.value).startswith(f"{path} does not fit its architecture:")
    assert caught.value.problems
    for problem in caught.value.problems[:3]:
        assert problem.startswith("decoder.mid.attn_1.")
    assert "temporal" in caught.value.problems[-1]


# What is no video checkpoint


@pytest.mark.parametrize("load", [load_video_decoder, load_video_autoencoder])
def test_an_image_checkpoint_is_refused(load: Any, tmp_path: Path) -> None:
    path = write_torch(tmp_path / "img.pt", autoencoder(**SMALLEST))
    with pytest.raises(FamilyError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path} is an image autoencoder: its decoder has no temporal layers; expected a video "
        "checkpoint. 'inflate convert' makes one of it"
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"decoder.mid.block_1.mix_factor": None},
            "decoder.mid.block_1.mix_factor is missing; expected the shape [1]",
        ),
        (
            {"decoder.mid.block_1.time_stack.out_layers.3.bias": torch.ones(3)},
            "decoder.mid.block_1.time_stack.out_layers.3.bias has the shape [3]; expected [32]",
        ),
        ({"decoder.extra": torch.ones(1)}, "decoder.extra is not part of this architecture"),
        ({"encoder.norm_out.bias": None},
         "encoder.norm_out.bias is missing; expected the shape [32]"),
        ({"quant_conv.bias": None}, "quant_conv.bias is missing; expected the shape [8]"),
        ({"post_quant_conv.bias": torch.ones(9)},
         "post_quant_conv.bias has the shape [9]; expected [4]"),
    ],
)  # fmt: skip
def test_a_video_checkpoint_is_taken_strictly(
    change: dict[str, Tensor | None], problem: str, tmp_path: Path
) -> None:
    weights: dict[str, Any] = video_autoencoder(**SMALLEST) | change
    path = write_torch(tmp_path / "a", {k: v for k, v in weights.items() if v is not None})
    with pytest.raises(PlanError) as caught:
        load_video_autoencoder(path)
    assert caught.value.problems == (problem,)
    if problem.startswith("decoder."):
        with pytest.raises(PlanError):
            load_video_decoder(path)
    else:
        load_video_decoder(path)


# The whole autoencoder


IMAGES = noise(4, 3, 8, 6, seed=1).clamp(-1, 1)


def conv(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def encoded_by_hand(weights: dict[str, Tensor], kind: str, e: int) -> Tensor:
    encoder = Encoder(**{**DDCONFIG, "double_z": kind != "vq"}).eval()
    encoder.load_state_dict(part(weights, "encoder."), strict=True)
    h = encoder(IMAGES)
    if kind != "plain":
        h = conv(weights, "quant_conv", h)
    if kind != "vq":
        return h[:, :e]
    entries = weights["quantize.embedding.weight"]
    pixels = h.permute(0, 2, 3, 1)
    nearest = (pixels[..., None, :] - entries).square().sum(-1).argmin(-1)
    assert nearest.unique().numel() > 1
    return entries[nearest].permute(0, 3, 1, 2)


@pytest.mark.parametrize("embed_dim", [4, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_encode_and_decode_are_what_their_parts_compute(
    kind: str, embed_dim: int, tmp_path: Path
) -> None:
    e = 4 if kind == "plain" else embed_dim
    temporal = {"time_mode": "all"}
    weights = video_autoencoder(kind, embed_dim=embed_dim, temporal=temporal)
    whole = load_video_autoencoder(write_safetensors(tmp_path / "a", weights))
    assert_same(whole.state_dict(), weights)
    decoder = VideoDecoder(**DDCONFIG, **temporal).eval()
    decoder.load_state_dict(part(weights, "decoder."), strict=True)
    with torch.no_grad():
        latents = whole.encode(IMAGES)
        assert latents.shape == (4, e, 4, 3)
        torch.testing.assert_close(latents, encoded_by_hand(weights, kind, e))
        z = latents if kind == "plain" else conv(weights, "post_quant_conv", latents)
        for frames in (1, 2, 4):
            torch.testing.assert_close(
                whole.decode(latents, timesteps=frames), decoder(z, timesteps=frames)
            )
        torch.testing.assert_close(
            whole.decode(latents, skip_video=True), decoder(z, skip_video=True)
        )


def test_latents_of_a_codebook_are_its_entries(tmp_path: Path) -> None:
    weights = video_autoencoder("vq")
    whole = load_video_autoencoder(write_safetensors(tmp_path / "a", weights))
    with torch.no_grad():
        pixels = whole.encode(IMAGES).permute(0, 2, 3, 1).reshape(-1, 4)
    entries = weights["quantize.embedding.weight"]
    assert entries.shape == (CODES, 4)
    assert all((pixel == entries).all(dim=1).any() for pixel in pixels)


def test_what_else_a_quantiser_keeps_beside_its_codebook_is_not_needed(tmp_path: Path) -> None:
    weights = video_autoencoder("vq")
    more = {"quantize.embedding.cluster_size": torch.ones(CODES), "quantize.beta": torch.ones(1)}
    whole = load_video_autoencoder(write_safetensors(tmp_path / "a", weights | more))
    assert_same(whole.state_dict(), weights)


def test_a_codebook_that_only_the_header_names_is_not_made_up(tmp_path: Path) -> None:
    weights = {f"decoder.{k}": v for k, v in part(video_autoencoder(), "decoder.").items()}
    header = {"architecture": {"n_embed": 8192, "embed_dim": 4, "double_z": False}}
    path = written(tmp_path, header, weights)
    assert_same(load_video_autoencoder(path).state_dict(), weights)


def test_without_an_encoder_there_is_no_encode(tmp_path: Path) -> None:
    weights = {k: v for k, v in video_autoencoder().items() if not k.startswith(("enc", "quant"))}
    whole = load_video_autoencoder(write_safetensors(tmp_path / "a", weights))
    with pytest.raises(ValueError, match="from a file without an encoder: convert the whole image"):
        whole.encode(IMAGES)
    with torch.no_grad():
        assert whole.decode(LATENTS, timesteps=2).shape == (4, 3, 8, 6)


def test_a_bare_video_decoder_is_an_autoencoder_without_its_rest(tmp_path: Path) -> None:
    weights = part(video_autoencoder(**SMALLEST), "decoder.")
    whole = load_video_autoencoder(write_safetensors(tmp_path / "a", weights))
    assert whole.encoder is whole.quant_conv is whole.post_quant_conv is whole.quantize is None
    assert_same(whole.state_dict(), {f"decoder.{key}": value for key, value in weights.items()})


def test_the_public_names_are_these() -> None:
    assert inflate.load_video_decoder is load_video_decoder
    assert inflate.load_video_autoencoder is load_video_autoencoder


# The image side


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_decoder_is_filled_strictly(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = autoencoder(**ATTENTION_IN_UP)
    with opened(prefixed(weights), tmp_path) as source:
        decoder = load_image_decoder(source, dtype)
    assert type(decoder) is Decoder
    assert_same(
        decoder.state_dict(), {k: v.to(dtype) for k, v in part(weights, "decoder.").items()}
    )


def test_weights_can_be_rounded_to_the_type_of_another_file(tmp_path: Path) -> None:
    weights = autoencoder(**SMALLEST)
    halved = {k: v.half() if "conv1" in k else v for k, v in weights.items()}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    with (
        opened(weights, tmp_path / "a") as source,
        opened(halved, tmp_path / "b") as other,
    ):
        decoder = load_image_decoder(source, torch.float32, stored_as=other)
        conv_ = load_post_quant_conv(source, torch.float32, stored_as=other)
    assert_same(decoder.state_dict(), {k: v.float() for k, v in part(halved, "decoder.").items()})
    assert conv_ is not None
    assert_same(conv_.state_dict(), part(weights, "post_quant_conv."))


def test_post_quant_conv_where_there_is_one(tmp_path: Path) -> None:
    weights = autoencoder(embed_dim=3)
    with opened(weights, tmp_path) as source:
        conv_ = load_post_quant_conv(source, torch.float32)
    assert conv_ is not None
    x = noise(2, 3, 4, 4)
    assert torch.equal(conv_(x), conv(weights, "post_quant_conv", x))


@pytest.mark.parametrize("weights", [autoencoder("plain", **SMALLEST), bare_decoder(**SMALLEST)])
def test_no_post_quant_conv_where_there_is_none(weights: dict[str, Tensor], tmp_path: Path) -> None:
    with opened(weights, tmp_path) as source:
        assert load_post_quant_conv(source, torch.float32) is None


def test_another_quantiser_is_refused_and_its_decoder_loads(tmp_path: Path) -> None:
    weights = autoencoder("vq")
    weights["quantize.embed.weight"] = weights.pop("quantize.embedding.weight")
    weights["quantize.used"] = torch.arange(4)
    source = write_torch(tmp_path / "gumbel.ckpt", weights)
    output = tmp_path / "video.safetensors"
    assert inflate.convert(source, output, device="cpu", dtype="float16").passed
    with safe_open(output, "pt") as file:
        assert torch.equal(file.get_tensor("quantize.used"), torch.arange(4))
    with pytest.raises(PlanError, match="quantises otherwise"):
        inflate.load_video_autoencoder(output)
    assert inflate.load_video_decoder(output).time_mode == "conv-only"
