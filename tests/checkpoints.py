"""Makers of tiny checkpoints with drawn weights, in the layouts and formats that the wild knows."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from inflate.models import Decoder, Encoder, VideoDecoder

from .models.builders import drawn_weights, made_once, shapes_of

T = TypeVar("T")

DDCONFIG: dict[str, Any] = {
    "double_z": True, "z_channels": 4, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32,
    "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
"""Two levels, a change of channels between them, attention in the middle alone."""

ATTENTION_IN_UP: dict[str, Any] = {"attn_resolutions": [16]}
NO_ATTENTION: dict[str, Any] = {"attn_type": "none"}
FIRST_STAGE = "first_stage_model."
CODES = 8
"""Entries of the codebook of the ``vq`` autoencoders."""

LIGHTNING_CALLBACK = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
KINDS = ("kl", "vq", "plain")
"""With quant convs, with quant convs and a codebook, with neither."""


@made_once
def autoencoder_shapes(kind: str = "kl", **changes: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a whole image autoencoder; ``changes`` may include ``embed_dim``."""
    config = {**DDCONFIG, "double_z": kind != "vq", **changes}
    z = config["z_channels"]
    e = config.pop("embed_dim", z)
    twice = 2 if config["double_z"] else 1
    with torch.device("meta"):
        shapes = {f"encoder.{k}": s for k, s in shapes_of(Encoder(**config)).items()}
        shapes |= {f"decoder.{k}": s for k, s in shapes_of(Decoder(**config)).items()}
    if kind != "plain":
        shapes["quant_conv.weight"] = (twice * e, twice * z, 1, 1)
        shapes["quant_conv.bias"] = (twice * e,)
        shapes["post_quant_conv.weight"] = (z, e, 1, 1)
        shapes["post_quant_conv.bias"] = (z,)
    if kind == "vq":
        shapes["quantize.embedding.weight"] = (CODES, e)
    return shapes


def autoencoder(
    kind: str = "kl", *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
) -> dict[str, Tensor]:
    """The weights of an image autoencoder, all of them random."""
    return _drawn(autoencoder_shapes(kind, **changes), seed, dtype)


def bare_decoder(
    *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
) -> dict[str, Tensor]:
    """The weights of an image decoder alone, without ``decoder.`` before their names."""
    return _drawn(under(autoencoder_shapes("plain", **changes), "decoder."), seed, dtype)


def video_autoencoder(
    kind: str = "kl",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    temporal: Mapping[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Tensor]:
    """The weights of a trained video autoencoder in sgm's names: temporal layers random too."""
    config = {k: v for k, v in {**DDCONFIG, **changes}.items() if k != "embed_dim"}
    with torch.device("meta"):
        decoder = VideoDecoder(**config, **(temporal or {}))
    shapes = autoencoder_shapes(kind, **changes)
    shapes |= {f"decoder.{k}": s for k, s in shapes_of(decoder).items()}
    weights = _drawn(shapes, seed, dtype)
    for key, value in weights.items():
        if key.endswith(".mix_factor"):
            value.copy_(-value.abs())  # As only a learned blend has it.
    return weights


def prefixed(weights: Mapping[str, T], prefix: str = FIRST_STAGE) -> dict[str, T]:
    """The same tensors, or shapes, with ``prefix`` before their names."""
    return {prefix + name: tensor for name, tensor in weights.items()}


def under(weights: Mapping[str, T], prefix: str) -> dict[str, T]:
    """The tensors, or shapes, below a prefix, under the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def write_safetensors(
    path: Path, weights: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> Path:
    """A ``.safetensors`` file as its library writes it."""
    save_file(dict(weights), path, metadata)
    return path


def write_torch(path: Path, weights: Mapping[str, Tensor], **kwargs: Any) -> Path:
    """A plain dict of tensors, as ``.pt``, ``.pth`` and ``.bin`` files are."""
    torch.save(dict(weights), path, **kwargs)
    return path


def write_lightning(path: Path, weights: Mapping[str, Tensor], **kwargs: Any) -> Path:
    """A Lightning ``.ckpt``: its ``callbacks`` are keyed by a class that is not installed."""
    with foreign_class(LIGHTNING_CALLBACK) as callback:
        content = {
            "epoch": 1, "global_step": 10, "pytorch-lightning_version": "1.4.2",
            "callbacks": {callback: {"monitor": "val/rec_loss", "best_model_score": 0.5}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}],
            "lr_schedulers": [], "state_dict": dict(weights),
        }  # fmt: skip
        torch.save(content, path, **kwargs)
    return path


@contextmanager
def foreign_class(dotted: str) -> Iterator[type]:
    """A class that pickle finds under ``dotted`` while this is entered, and not after."""
    module_name, _, name = dotted.rpartition(".")
    parts = module_name.split(".")
    modules = [".".join(parts[: i + 1]) for i in range(len(parts))]
    assert not any(module in sys.modules for module in modules), "it would not be foreign"
    found = type(name, (), {"__module__": module_name})
    for module in modules:
        sys.modules[module] = ModuleType(module)
    setattr(sys.modules[module_name], name, found)
    try:
        yield found
    finally:
        for module in modules:
            del sys.modules[module]


def _drawn(
    shapes: Mapping[str, tuple[int, ...]], seed: int, dtype: torch.dtype
) -> dict[str, Tensor]:
    # drawn_weights keeps what it drew: copies, so that a test may change its own.
    return {k: v.to(dtype, copy=True) for k, v in drawn_weights(shapes, seed).items()}
