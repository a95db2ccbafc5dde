"""What a check sets against each other: two decoders, and what is known of their files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inflate.config.schema import Architecture
from inflate.errors import PlanError
from inflate.formats.source import Source
from inflate.loading import load_image_decoder, load_post_quant_conv, load_video
from inflate.models import Decoder, VideoDecoder
from inflate.parity.result import WeightsResult
from inflate.parity.weights import compare_weights, narrowed

Decode = Callable[[Tensor, int], Tensor]
"""Latents ``(B T) e h w`` and ``T`` to images ``(B T) C H W``."""


@dataclass(frozen=True)
class Modules:
    """The modules behind two ways to decode, for what looks inside them.

    Reference and candidate are one module where a candidate is compared with its own image layers.
    """

    reference: Decoder
    candidate: VideoDecoder
    before_reference: nn.Module | None
    """Its ``post_quant_conv``."""
    before_candidate: nn.Module | None
    remake: Callable[[torch.dtype], Decode]
    """The reference, read anew to compute in another type."""


@dataclass(frozen=True)
class Comparands:
    """What a check runs: two ways to decode, and what is known of their files."""

    reference: Decode
    candidate: Decode
    original: Decode | None
    """The reference before it was rounded to the stored type, where that was narrower."""
    channels: int
    weights: WeightsResult
    cast_types: tuple[str, str] | None
    notes: tuple[str, ...]
    skip_video: Decode | None = None
    """The candidate with its temporal layers left out, where that is not the reference itself."""
    modules: Modules | None = None
    architecture: Architecture | None = None
    framewise: bool = False
    """Whether the reference decodes each frame for itself."""


def against_source(
    reference: Source, candidate: Source, dtype: torch.dtype, device: torch.device
) -> Comparands:
    """Set a video checkpoint against the image checkpoint that it comes from.

    Where the candidate is stored in a narrower type, the reference is rounded to it first.

    Raises:
        PlanError: their decoders are not of one architecture.
    """
    _check_same_architecture(reference, candidate)
    notes = list(candidate.blend_notes)
    image = load_image_decoder(reference, dtype, stored_as=candidate).to(device)
    video = load_video(candidate, dtype).to(device)
    before_image = _to(load_post_quant_conv(reference, dtype, stored_as=candidate), device)
    before_video = _to(load_post_quant_conv(candidate, dtype), device)
    if (before_image is None) != (before_video is None):
        missing = "reference" if before_image is None else "candidate"
        notes.append(
            f"the {missing} has no post_quant_conv: it was given latents that went through the "
            "other's"
        )
        before_image = before_video = before_image or before_video
    original = None
    cast_types = narrowed(reference, candidate)
    if cast_types is not None:
        wide = load_image_decoder(reference, dtype).to(device)
        before_wide = _to(load_post_quant_conv(reference, dtype), device) or before_image
        original = _image_decode(wide, before_wide)

    def remake(other: torch.dtype) -> Decode:
        again = load_image_decoder(reference, other, stored_as=candidate).to(device)
        before = load_post_quant_conv(reference, other, stored_as=candidate)
        before = before or load_post_quant_conv(candidate, other)
        return _image_decode(again, _to(before, device))

    return Comparands(
        reference=_image_decode(image, before_image),
        candidate=_video_decode(video, before_video, skip_video=False),
        original=original,
        channels=_latent_channels(before_image, reference),
        weights=compare_weights(reference, candidate),
        cast_types=cast_types,
        notes=tuple(notes),
        skip_video=_video_decode(video, before_video, skip_video=True),
        modules=Modules(image, video, before_image, before_video, remake),
        architecture=reference.config.architecture.decoder,
        framewise=True,
    )


def against_video(
    reference: Source, candidate: Source, dtype: torch.dtype, device: torch.device
) -> Comparands:
    """Set a video checkpoint against the one that it was copied from."""
    _check_same_architecture(reference, candidate)
    before_reference = _to(load_post_quant_conv(reference, dtype, stored_as=candidate), device)
    before_candidate = _to(load_post_quant_conv(candidate, dtype), device) or before_reference
    first = load_video(reference, dtype, stored_as=candidate).to(device)
    second = load_video(candidate, dtype).to(device)

    def remake(other: torch.dtype) -> Decode:
        again = load_video(reference, other, stored_as=candidate).to(device)
        before = load_post_quant_conv(reference, other, stored_as=candidate)
        return _video_decode(again, _to(before, device), skip_video=False)

    return Comparands(
        reference=_video_decode(first, before_reference, skip_video=False),
        candidate=_video_decode(second, before_candidate, skip_video=False),
        original=None,
        channels=_latent_channels(before_reference, reference),
        weights=compare_weights(reference, candidate),
        cast_types=None,
        notes=candidate.blend_notes,
        modules=Modules(first, second, before_reference, before_candidate, remake),
        architecture=reference.config.architecture.decoder,
    )


def against_itself(candidate: Source, dtype: torch.dtype, device: torch.device) -> Comparands:
    """Set a video checkpoint against its own image layers, its ``skip_video`` path."""
    video = load_video(candidate, dtype).to(device)
    before = _to(load_post_quant_conv(candidate, dtype), device)

    def remake(other: torch.dtype) -> Decode:
        again = load_video(candidate, other).to(device)
        return _video_decode(
            again, _to(load_post_quant_conv(candidate, other), device), skip_video=True
        )

    return Comparands(
        reference=_video_decode(video, before, skip_video=True),
        candidate=_video_decode(video, before, skip_video=False),
        original=None,
        channels=_latent_channels(before, candidate),
        weights=WeightsResult(0, ()),
        cast_types=None,
        notes=(
            *candidate.blend_notes,
            "no reference was given: the candidate was compared with its own image layers",
        ),
        modules=Modules(video, video, before, before, remake),
        architecture=candidate.config.architecture.decoder,
        framewise=True,
    )


def _image_decode(decoder: nn.Module, post_quant: nn.Module | None) -> Decode:
    def decode(z: Tensor, _frames: int) -> Tensor:
        images: Tensor = decoder(z if post_quant is None else post_quant(z))
        return images

    return decode


def _video_decode(decoder: nn.Module, post_quant: nn.Module | None, *, skip_video: bool) -> Decode:
    def decode(z: Tensor, frames: int) -> Tensor:
        z = z if post_quant is None else post_quant(z)
        images: Tensor = decoder(z, timesteps=frames, skip_video=skip_video)
        return images

    return decode


def _latent_channels(post_quant: nn.Module | None, source: Source) -> int:
    if isinstance(post_quant, nn.Conv2d):
        return post_quant.in_channels
    return source.config.architecture.z_channels


def _check_same_architecture(reference: Source, candidate: Source) -> None:
    problems = []
    ours, theirs = reference.config.architecture.decoder, candidate.config.architecture.decoder
    names = ("level_channels", "num_res_blocks", "z_channels", "out_ch", "attention_levels")
    pairs = {name: (getattr(ours, name), getattr(theirs, name)) for name in names}
    pairs["attention"] = (ours.attn_type != "none", theirs.attn_type != "none")
    for name, (want, have) in pairs.items():
        if want != have:
            problems.append(f"{name}: the reference has {want}, the candidate {have}")
    if problems:
        raise PlanError(
            f"{candidate.checkpoint.path} cannot come from {reference.checkpoint.path}, since "
            "their decoders differ:",
            problems,
        )


def _to(module: nn.Module | None, device: torch.device) -> nn.Module | None:
    return None if module is None else module.to(device)
