"""Makers of the files that other tools write, at small size: whole models, EMA, diffusers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints import autoencoder, prefixed, video_autoencoder
from ..models.builders import drawn_weights, shapes_of

LIKE_CLASS: dict[str, Any] = {"num_res_blocks": 2, "ch_mult": [1]}
"""What makes :data:`tests.checkpoints.DDCONFIG` like :data:`CLASS_CONFIG`."""

CLASS_CONFIG: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",),
    "block_out_channels": (32,), "layers_per_block": 2, "latent_channels": 4, "norm_num_groups": 32,
    "sample_size": 32,
}  # fmt: skip
"""A small ``AutoencoderKL``."""

DEEPER: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 3, "block_out_channels": (32, 64, 64)
}  # fmt: skip
THREE_LEVELS = {**DEEPER, "up_block_types": ("UpDecoderBlock2D",) * 3}
"""What makes it one of three levels; a video decoder has no ``up_block_types``."""

INSIDE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    "block_out_channels": (32, 64),
}
"""What makes it one of two levels, with attention in the coarser one."""

SVD_IMAGE = "conditioner.embedders.3.encoder."
"""Where the file of SVD keeps its image autoencoder."""

SVD: dict[str, Any] = {"time_mode": "conv-only", "video_kernel_size": [3, 1, 1]}
"""The temporal layers of SVD, the only ones that diffusers' class has."""

_UNET = "model.diffusion_model."
AROUND: dict[str, tuple[str, ...]] = {
    "sd1": (
        f"{_UNET}input_blocks.0.0.weight",
        f"{_UNET}output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight",
        "model_ema.diffusion_modelinput_blocks00weight",
        "model_ema.decay",
        "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
        "alphas_cumprod",
    ),
    "sdxl": (
        f"{_UNET}label_emb.0.0.weight",
        "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
        "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight",
        "denoiser.sigmas",
    ),
    "sd3": (
        f"{_UNET}joint_blocks.0.x_block.attn.qkv.weight",
        "text_encoders.clip_g.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight",
    ),
}
"""Names of what stands around the autoencoder in the file of a whole model."""


def whole_model(family: str, seed: int = 0) -> dict[str, Tensor]:
    """A full file of a diffusion model: the autoencoder, and larger tensors around it."""
    kind: str
    changes: dict[str, Any]
    kind, changes = ("plain", {"z_channels": 16}) if family == "sd3" else ("kl", {})
    changes["ch_mult"] = [1]
    around = {name: torch.full((300, 100), 0.5) for name in AROUND[family]}
    return {**around, **prefixed(autoencoder(kind, seed=seed, **changes))}


def svd_model() -> dict[str, Tensor]:
    """A full file of SVD: a video autoencoder, and the image one among the conditioners."""
    video = video_autoencoder("plain", seed=1, temporal=SVD, **LIKE_CLASS)
    return {
        f"{_UNET}input_blocks.0.0.weight": torch.arange(12.0).reshape(3, 4),
        "conditioner.embedders.0.open_clip.model.visual.proj": torch.ones(8, 8),
        **prefixed(autoencoder(seed=2, ch_mult=[1]), SVD_IMAGE),
        **prefixed(video),
    }


def moving_averages(weights: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Weights as LDM's ``LitEma`` stores averages of them: names without dots, and its counters."""
    averaged = {f"{prefix}model_ema.{k.replace('.', '')}": v for k, v in weights.items()}
    counters = {"decay": torch.tensor(0.9999), "num_updates": torch.tensor(7)}
    return {**averaged, **prefixed(counters, f"{prefix}model_ema.")}


def diffusers_model(kind: Any, seed: int = 0, **changes: Any) -> nn.Module:
    """A model of a class of diffusers with drawn weights, none of them zero."""
    accepted = signature(kind).parameters
    config = {key: value for key, value in CLASS_CONFIG.items() if key in accepted}
    model: nn.Module = kind(**{**config, **changes})
    model.load_state_dict(drawn_weights(shapes_of(model), seed), strict=True)
    return model.eval()


def old_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names that diffusers gave to attention before version 0.17."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    pattern = re.compile(r"(attentions\.\d+)\.(to_q|to_k|to_v|to_out\.0)\.")
    return {pattern.sub(lambda m: f"{m[1]}.{old[m[2]]}.", k): v for k, v in weights.items()}


def weights_file(folder: Path) -> Path:
    """The file of weights in a folder of diffusers."""
    return folder / "diffusion_pytorch_model.safetensors"
