"""Views of checkpoints: other keys, or tensors computed from those of the file, read lazily."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

from inflate.formats.locate import Located
from inflate.io.arrays import Array, cast, np
from inflate.io.index import NARROW, WIDTHS, TensorInfo
from inflate.io.reader import Checkpoint

Computed = tuple[TensorInfo, Callable[[], Array]]
"""A tensor that is not in the file, and how to compute it, in float64."""


def autoencoder_view(checkpoint: Checkpoint, located: Located) -> Checkpoint:
    """The autoencoder of a file alone, under LDM's keys and in LDM's shapes."""
    tensors = {**located.tensors, **{f"{k}.scale": info for k, info in located.scales.items()}}
    places = {key: checkpoint.places[info.name] for key, info in tensors.items()}
    return replace(checkpoint, tensors=tensors, places=places)


def overlaid(
    checkpoint: Checkpoint, computed: Mapping[str, Computed], without: Collection[str] = ()
) -> Checkpoint:
    """A checkpoint with some tensors computed, each when it is read, and some left out."""
    tensors = {key: info for key, info in checkpoint.tensors.items() if key not in without}
    tensors.update({key: info for key, (info, _) in computed.items()})
    rounded = {key: partial(_rounded, *entry) for key, entry in computed.items()}
    return replace(checkpoint, tensors=tensors, places={**checkpoint.places, **rounded})


def with_post_quant_folded(checkpoint: Checkpoint) -> Checkpoint:
    """The 1x1 ``post_quant_conv`` folded into the decoder's first convolution.

    The output of ``conv_in`` changes on its border of one latent pixel alone, where it pads its own
    input with zeros in place of the bias: not at all if the bias is zero. In the image such a
    change reaches everywhere, since attention and the norms see all pixels.
    """

    def fold() -> tuple[Array, Array]:
        outer, inner = read("decoder.conv_in.weight"), read("post_quant_conv.weight")[:, :, 0, 0]
        shift = np.einsum("ozhw,z->o", outer, read("post_quant_conv.bias"))
        return np.einsum("ozhw,ze->oehw", outer, inner), read("decoder.conv_in.bias") + shift

    read = partial(_read64, checkpoint)
    channels = checkpoint.tensors["post_quant_conv.weight"].shape[1]
    return _folded(checkpoint, "decoder.conv_in", "post_quant_conv", (1, channels), fold)


def with_quant_folded(checkpoint: Checkpoint) -> Checkpoint:
    """The 1x1 ``quant_conv`` folded into the encoder's last convolution: exact up to rounding."""

    def fold() -> tuple[Array, Array]:
        inner, outer = read("encoder.conv_out.weight"), read("quant_conv.weight")[:, :, 0, 0]
        bias = read("quant_conv.bias") + outer @ read("encoder.conv_out.bias")
        return np.einsum("eo,oihw->eihw", outer, inner), bias

    read = partial(_read64, checkpoint)
    channels = checkpoint.tensors["quant_conv.weight"].shape[0]
    return _folded(checkpoint, "encoder.conv_out", "quant_conv", (0, channels), fold)


def widened(checkpoint: Checkpoint, scales: Collection[str], dtype: str) -> Checkpoint:
    """A checkpoint of LDM's keys with its float8 weights in a wider type, their scales applied.

    ``scales`` has the keys of weights with a factor per tensor or output channel: ``KEY.scale``.
    """

    def scaled(key: str) -> Array:
        numbers = _read64(checkpoint, key)
        if key not in scales:
            return numbers
        factor = _read64(checkpoint, f"{key}.scale").reshape(-1, *[1] * (numbers.ndim - 1))
        return np.asarray(numbers * factor)

    computed: dict[str, Computed] = {
        key: (_stored(info, info.name, info.shape, dtype), partial(scaled, key))
        for key, info in checkpoint.tensors.items()
        if info.dtype in NARROW
    }
    return overlaid(checkpoint, computed, [f"{key}.scale" for key in scales])


def with_learned_blend(checkpoint: Checkpoint) -> Checkpoint:
    """Each fixed ``mix_factor`` as the number whose sigmoid it is, for readers that apply one."""

    def logit(key: str) -> Array:
        share = _read64(checkpoint, key)
        # What is not finite is reported when it is written.
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.log(share / (1.0 - share)))

    return overlaid(
        checkpoint,
        {
            key: (replace(info, name=f"logit of {info.name}"), partial(logit, key))
            for key, info in checkpoint.tensors.items()
            if key.endswith(".mix_factor")
        },
    )


def _folded(
    checkpoint: Checkpoint,
    layer: str,
    quant: str,
    channels: tuple[int, int],
    fold: Callable[[], tuple[Array, Array]],
) -> Checkpoint:
    """A checkpoint with one convolution folded into another, which gets ``(axis, channels)``."""
    axis, extent = channels
    old = checkpoint.tensors[f"{layer}.weight"].shape
    shape = (*old[:axis], extent, *old[axis + 1 :])
    computed: dict[str, Computed] = {}
    for index, (part, own) in enumerate((("weight", shape), ("bias", shape[:1]))):
        info = checkpoint.tensors[f"{layer}.{part}"]
        stored = _stored(info, f"{info.name} with {quant}", own, info.dtype)
        computed[f"{layer}.{part}"] = (stored, partial(_part, fold, index))
    return overlaid(checkpoint, computed, [f"{quant}.weight", f"{quant}.bias"])


def _part(fold: Callable[[], tuple[Array, Array]], index: int) -> Array:
    return fold()[index]


def _stored(info: TensorInfo, name: str, shape: tuple[int, ...], dtype: str) -> TensorInfo:
    nbytes = math.prod(shape) * WIDTHS[dtype]
    return replace(info, name=name, shape=shape, dtype=dtype, nbytes=nbytes)


def _rounded(info: TensorInfo, compute: Callable[[], Array]) -> Array:
    return cast(compute(), info.dtype)


def _read64(checkpoint: Checkpoint, key: str) -> Array:
    return np.asarray(checkpoint.read(key), np.float64)
