"""The two decoders that a check compares, and what their files show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inflate.config.schema import Architecture
from inflate.errors import PlanError
from inflate.formats.layouts import DECODER
from inflate.formats.source import Source
from inflate.loading import load_image_decoder, load_post_quant_conv, load_video
from inflate.models import Decoder, VideoDecoder
from inflate.parity.result import WeightsResult
from inflate.parity.weights import compare_weights, narrowed

Decode = Callable[[Tensor, int], Tensor]
"""Latents ``(B T) e h w`` and ``T`` to images ``(B T) C H W``."""


class LatentDecoder(nn.Module):
    """A decoder after its ``post_quant_conv``, if any; its modules have their checkpoint names."""

    def __init__(self, decoder: Decoder, post_quant_conv: nn.Module | None = None) -> None:
        super().__init__()
        self.post_quant_conv = post_quant_conv
        self.decoder = decoder

    def forward(self, z: Tensor, frames: int, *, skip_video: bool = False) -> Tensor:
        """``(B T) e h w -> (B T) C H W``, where ``frames`` is T; an image decoder ignores it."""
        if self.post_quant_conv is not None:
            z = self.post_quant_conv(z)
        if isinstance(self.decoder, VideoDecoder):
            return self.decoder(z, timesteps=frames, skip_video=skip_video)  # type: ignore[no-any-return]
        return self.decoder(z)  # type: ignore[no-any-return]

    def image_layers(self, z: Tensor, frames: int) -> Tensor:
        """The same without temporal layers."""
        return self(z, frames, skip_video=True)  # type: ignore[no-any-return]

    @property
    def video(self) -> VideoDecoder:
        """The decoder, which must be a video decoder."""
        assert isinstance(self.decoder, VideoDecoder)
        return self.decoder


@dataclass(frozen=True)
class Modules:
    """The modules of both sides, for what looks inside them.

    They are one module if a video decoder is compared with its own image layers.
    """

    reference: LatentDecoder
    candidate: LatentDecoder
    remake: Callable[[torch.dtype], Decode]
    """The reference, read again to compute in another type."""


@dataclass(frozen=True)
class DecoderPair:
    """Two ways to decode, and what is known of their files."""

    reference: Decode
    candidate: Decode
    channels: int
    """Of the latents."""
    weights: WeightsResult
    original: Decode | None = None
    """The reference before it was rounded to the stored type, if that is narrower."""
    cast_types: tuple[str, str] | None = None
    notes: tuple[str, ...] = ()
    skip_video: Decode | None = None
    """The candidate without its temporal layers, unless that is the reference itself."""
    modules: Modules | None = None
    architecture: Architecture | None = None


def against_source(
    reference: Source, candidate: Source, dtype: torch.dtype, device: torch.device
) -> DecoderPair:
    """A video checkpoint and the image checkpoint that it was made from.

    If the candidate is stored in a narrower type, the reference is rounded to it first.

    Raises:
        PlanError: their architectures differ.
    """
    _check_same_architecture(reference, candidate)
    notes = list(candidate.blend_notes)

    def read_image(compute: torch.dtype, stored_as: Source | None) -> LatentDecoder:
        before = load_post_quant_conv(reference, compute, stored_as=stored_as)
        # One that only the candidate has is used on both sides.
        before = before or load_post_quant_conv(candidate, compute)
        decoder = load_image_decoder(reference, compute, stored_as=stored_as)
        return LatentDecoder(decoder, before)

    image = read_image(dtype, candidate)
    before = load_post_quant_conv(candidate, dtype)
    own = reference.info("post_quant_conv.weight") is not None
    if own != (before is not None):
        missing = "candidate" if own else "reference"
        notes.append(f"the {missing} has no post_quant_conv: both sides used the other's")
    decoder, same = _load_sharing(image.decoder, candidate, dtype)
    image, video = (
        side.to(device) for side in (image, LatentDecoder(decoder, before or image.post_quant_conv))
    )
    cast_types = narrowed(reference, candidate)
    return DecoderPair(
        reference=image,
        candidate=video,
        channels=_latent_channels(image, reference),
        weights=compare_weights(reference, candidate, same),
        original=None if cast_types is None else read_image(dtype, None).to(device),
        cast_types=cast_types,
        notes=tuple(notes),
        skip_video=video.image_layers,
        modules=Modules(image, video, lambda other: read_image(other, candidate).to(device)),
        architecture=reference.config.architecture.decoder,
    )


def against_video(
    reference: Source, candidate: Source, dtype: torch.dtype, device: torch.device
) -> DecoderPair:
    """A video checkpoint and the one that it was copied from."""
    _check_same_architecture(reference, candidate)

    def read(compute: torch.dtype) -> LatentDecoder:
        before = load_post_quant_conv(reference, compute, stored_as=candidate)
        decoder = load_video(reference, compute, stored_as=candidate)
        return LatentDecoder(decoder, before)

    first = read(dtype)
    decoder, same = _load_sharing(first.decoder, candidate, dtype)
    before = load_post_quant_conv(candidate, dtype) or first.post_quant_conv
    first, second = (side.to(device) for side in (first, LatentDecoder(decoder, before)))
    return DecoderPair(
        reference=first,
        candidate=second,
        channels=_latent_channels(first, reference),
        weights=compare_weights(reference, candidate, same),
        notes=candidate.blend_notes,
        modules=Modules(first, second, lambda other: read(other).to(device)),
        architecture=reference.config.architecture.decoder,
    )


def against_itself(candidate: Source, dtype: torch.dtype, device: torch.device) -> DecoderPair:
    """A video checkpoint and its own image layers, its ``skip_video`` path."""

    def read(compute: torch.dtype) -> LatentDecoder:
        before = load_post_quant_conv(candidate, compute)
        return LatentDecoder(load_video(candidate, compute), before).to(device)

    video = read(dtype)
    return DecoderPair(
        reference=video.image_layers,
        candidate=video,
        channels=_latent_channels(video, candidate),
        weights=WeightsResult(0, ()),
        notes=(
            *candidate.blend_notes,
            "no reference was given: the candidate was compared with its own image layers",
        ),
        modules=Modules(video, video, lambda other: read(other).image_layers),
        architecture=candidate.config.architecture.decoder,
    )


def _load_sharing(
    reference: Decoder, candidate: Source, dtype: torch.dtype
) -> tuple[VideoDecoder, set[str]]:
    """A video decoder with the reference's tensors where the bytes are equal, and their keys."""
    decoder = load_video(candidate, dtype, shared=reference)
    used = {tensor.data_ptr() for tensor in reference.parameters()}
    same = {DECODER + name for name, own in decoder.named_parameters() if own.data_ptr() in used}
    return decoder, same


def _latent_channels(side: LatentDecoder, source: Source) -> int:
    if isinstance(side.post_quant_conv, nn.Conv2d):
        return side.post_quant_conv.in_channels
    return source.config.architecture.z_channels


def _check_same_architecture(reference: Source, candidate: Source) -> None:
    ours, theirs = reference.config.architecture.decoder, candidate.config.architecture.decoder
    names = ("level_channels", "num_res_blocks", "z_channels", "out_ch", "attention_levels")
    pairs = {name: (getattr(ours, name), getattr(theirs, name)) for name in names}
    pairs["attention"] = (ours.attn_type != "none", theirs.attn_type != "none")
    problems = [
        f"{name}: the reference has {want}, the candidate {have}"
        for name, (want, have) in pairs.items()
        if want != have
    ]
    if problems:
        raise PlanError(
            f"{candidate.checkpoint.path} cannot come from {reference.checkpoint.path}: their "
            "decoders differ:",
            problems,
        )
