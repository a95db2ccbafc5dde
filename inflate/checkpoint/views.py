"""Checkpoints seen otherwise: under other keys, or with tensors computed from those of the file.

A view reads lazily, as the file does; whoever uses it need not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from inflate.checkpoint.index import TensorInfo
from inflate.checkpoint.locate import Located
from inflate.checkpoint.reader import Checkpoint


def autoencoder_view(checkpoint: Checkpoint, located: Located) -> Checkpoint:
    """The autoencoder of a file alone, under LDM's keys and in LDM's shapes."""
    tensors = located.tensors
    return replace(
        checkpoint, tensors=tensors, _read=lambda key: checkpoint.read(tensors[key].name)
    )


def overlaid(
    checkpoint: Checkpoint,
    computed: Mapping[str, tuple[TensorInfo, Callable[[], Tensor]]],
    without: frozenset[str] = frozenset(),
) -> Checkpoint:
    """A checkpoint with some tensors computed, each when it is read, and some left out."""
    tensors = {key: info for key, info in checkpoint.tensors.items() if key not in without}
    tensors.update({key: info for key, (info, _) in computed.items()})

    def read(key: str) -> Tensor:
        return computed[key][1]() if key in computed else checkpoint.read(key)

    return replace(checkpoint, tensors=tensors, _read=read)


def with_post_quant_folded(checkpoint: Checkpoint) -> Checkpoint:
    """The 1x1 ``post_quant_conv`` folded into the decoder's first convolution.

    Exact inside the frame. On its border of one latent pixel ``conv_in`` pads its own input with
    zeros, where it used to meet zeros in place of the bias: exact there only if the bias is zero.
    """

    def weight() -> Tensor:
        outer, inner = _read64(checkpoint, "decoder.conv_in.weight", "post_quant_conv.weight")
        return torch.einsum("ozhw,ze->oehw", outer, inner[:, :, 0, 0]).to(_type(old_weight))

    def bias() -> Tensor:
        outer, inner = _read64(checkpoint, "decoder.conv_in.weight", "post_quant_conv.bias")
        own = checkpoint.read("decoder.conv_in.bias").double()
        return (own + torch.einsum("ozhw,z->o", outer, inner)).to(_type(old_bias))

    old_weight = checkpoint.tensors["decoder.conv_in.weight"]
    old_bias = checkpoint.tensors["decoder.conv_in.bias"]
    latents = checkpoint.tensors["post_quant_conv.weight"].shape[1]
    shape = (old_weight.shape[0], latents, *old_weight.shape[2:])
    nbytes = old_weight.nbytes // old_weight.parameters * (old_weight.parameters
             // old_weight.shape[1] * latents)  # fmt: skip
    new_weight = TensorInfo(
        f"{old_weight.name} with post_quant_conv", shape, old_weight.dtype, nbytes
    )
    new_bias = replace(old_bias, name=f"{old_bias.name} with post_quant_conv")
    return overlaid(
        checkpoint,
        {"decoder.conv_in.weight": (new_weight, weight), "decoder.conv_in.bias": (new_bias, bias)},
        frozenset({"post_quant_conv.weight", "post_quant_conv.bias"}),
    )


def with_quant_folded(checkpoint: Checkpoint) -> Checkpoint:
    """The 1x1 ``quant_conv`` folded into the encoder's last convolution: exact up to rounding."""

    def weight() -> Tensor:
        outer, inner = _read64(checkpoint, "quant_conv.weight", "encoder.conv_out.weight")
        return torch.einsum("eo,oihw->eihw", outer[:, :, 0, 0], inner).to(_type(old_weight))

    def bias() -> Tensor:
        outer, inner = _read64(checkpoint, "quant_conv.weight", "encoder.conv_out.bias")
        own = checkpoint.read("quant_conv.bias").double()
        return (own + outer[:, :, 0, 0] @ inner).to(_type(old_bias))

    old_weight = checkpoint.tensors["encoder.conv_out.weight"]
    old_bias = checkpoint.tensors["encoder.conv_out.bias"]
    out = checkpoint.tensors["quant_conv.weight"].shape[0]
    width = old_weight.nbytes // old_weight.parameters
    shape = (out, *old_weight.shape[1:])
    per_channel = old_weight.parameters // old_weight.shape[0]
    new_weight = TensorInfo(
        f"{old_weight.name} with quant_conv", shape, old_weight.dtype, out * per_channel * width
    )
    new_bias = TensorInfo(f"{old_bias.name} with quant_conv", (out,), old_bias.dtype, out * width)
    return overlaid(
        checkpoint,
        {
            "encoder.conv_out.weight": (new_weight, weight),
            "encoder.conv_out.bias": (new_bias, bias),
        },
        frozenset({"quant_conv.weight", "quant_conv.bias"}),
    )


def with_learned_blend(checkpoint: Checkpoint) -> Checkpoint:
    """Each fixed ``mix_factor`` as the number whose sigmoid it is, for readers that apply one."""
    computed = {}
    for key, info in checkpoint.tensors.items():
        if key.endswith(".mix_factor"):
            named = replace(info, name=f"logit of {info.name}")
            computed[key] = (named, lambda key=key: torch.logit(checkpoint.read(key)))
    return overlaid(checkpoint, computed)


def _read64(checkpoint: Checkpoint, *keys: str) -> list[Tensor]:
    return [checkpoint.read(key).double() for key in keys]


def _type(info: TensorInfo) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, info.dtype)
    return dtype
