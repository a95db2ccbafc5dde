"""Lazy views of checkpoints: other keys, or tensors computed from those of the file."""

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
    """Only the autoencoder of a file, under LDM's keys and in LDM's shapes."""
    tensors = {**located.tensors, **{f"{k}.scale": info for k, info in located.scales.items()}}
    places = {key: checkpoint.places[info.name] for key, info in tensors.items()}
    return replace(checkpoint, tensors=tensors, places=places)


def overlaid(
    checkpoint: Checkpoint, computed: Mapping[str, Computed], without: Collection[str] = ()
) -> Checkpoint:
    """A checkpoint with some tensors computed lazily and some left out."""
    tensors = {key: info for key, info in checkpoint.tensors.items() if key not in without}
    tensors.update({key: info for key, (info, _) in computed.items()})
    rounded = {key: partial(_rounded, *entry) for key, entry in computed.items()}
    return replace(checkpoint, tensors=tensors, places={**checkpoint.places, **rounded})


def with_post_quant_folded(checkpoint: Checkpoint) -> Checkpoint:
    """The 1x1 ``post_quant_conv`` folded into the decoder's first convolution.

    The output of ``conv_in`` changes only on its border of one latent pixel, which is padded with
    zeros instead of the bias; with a zero bias it does not change. In the image such a change
    affects every pixel, since attention and the norms see all pixels.
    """
    return _folded(checkpoint, "post_quant_conv", "decoder.conv_in", into="decoder.conv_in")


def with_quant_folded(checkpoint: Checkpoint) -> Checkpoint:
    """The 1x1 ``quant_conv`` folded into the encoder's last convolution: exact up to rounding."""
    return _folded(checkpoint, "encoder.conv_out", "quant_conv", into="encoder.conv_out")


def widened(checkpoint: Checkpoint, scales: Collection[str], dtype: str) -> Checkpoint:
    """A checkpoint under LDM's keys with float8 weights widened and their scales applied.

    ``scales`` has weight keys with a factor per tensor or output channel: ``KEY.scale``.
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
    """Each fixed ``mix_factor`` replaced by its logit, for readers that apply a sigmoid."""

    def logit(key: str) -> Array:
        share = _read64(checkpoint, key)
        # Writing reports values that are not finite.
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


def _folded(checkpoint: Checkpoint, first: str, second: str, *, into: str) -> Checkpoint:
    """A checkpoint with two successive convolutions, one of them 1x1, merged ``into`` one."""
    read = partial(_read64, checkpoint)
    infos = [checkpoint.tensors[f"{layer}.weight"] for layer in (first, second)]
    kernel = max(info.shape[2:] for info in infos)
    shape = (infos[1].shape[0], infos[0].shape[1], *kernel)

    def weight() -> Array:
        product = np.einsum("ozhw,zeij->oehwij", read(f"{second}.weight"), read(f"{first}.weight"))
        # Two of the four axes of the kernels have one element.
        return np.asarray(product.reshape(shape))

    def bias() -> Array:
        shift = np.einsum("ozhw,z->o", read(f"{second}.weight"), read(f"{first}.bias"))
        return np.asarray(read(f"{second}.bias") + shift)

    (gone,) = {first, second} - {into}
    computed: dict[str, Computed] = {}
    for part, own, compute in (("weight", shape, weight), ("bias", shape[:1], bias)):
        info = checkpoint.tensors[f"{into}.{part}"]
        computed[f"{into}.{part}"] = (
            _stored(info, f"{info.name} with {gone}", own, info.dtype),
            compute,
        )
    return overlaid(checkpoint, computed, [f"{gone}.weight", f"{gone}.bias"])


def _stored(info: TensorInfo, name: str, shape: tuple[int, ...], dtype: str) -> TensorInfo:
    nbytes = math.prod(shape) * WIDTHS[dtype]
    return replace(info, name=name, shape=shape, dtype=dtype, nbytes=nbytes)


def _rounded(info: TensorInfo, compute: Callable[[], Array]) -> Array:
    return cast(compute(), info.dtype)


def _read64(checkpoint: Checkpoint, key: str) -> Array:
    return np.asarray(checkpoint.read(key), np.float64)
