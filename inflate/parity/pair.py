"""The two decoders that a check compares, and facts about their files."""

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
"""Decodes latents ``(B T) e h w``, given ``T``, to images ``(B T) C H W``."""


class LatentDecoder(nn.Module):
    """A decoder with its ``post_quant_conv``, if any; modules have their checkpoint names."""

    def __init__(self, decoder: Decoder, post_quant_conv: nn.Module | None = None) -> None:
        super().__init__()
        self.post_quant_conv = post_quant_conv
        self.decoder = decoder

    def forward(self, z: Tensor, frames: int, *, skip_video: bool = False) -> Tensor:
        """``(B T) e h w -> (B T) C H W``; ``frames`` is T, and an image decoder ignores it."""
        if self.post_quant_conv is not None:
            z = self.post_quant_conv(z)
        if isinstance(self.decoder, VideoDecoder):
            return self.decoder(z, timesteps=frames, skip_video=skip_video)  # type: ignore[no-any-return]
        return self.decoder(z)  # type: ignore[no-any-return]

    def image_layers(self, z: Tensor, frames: int) -> Tensor:
        """Decode without temporal layers."""
        return self(z, frames, skip_video=True)  # type: ignore[no-any-return]

    @property
    def channels(self) -> int:
        """The number of latent channels."""
        first = self.post_quant_conv or self.decoder.conv_in
        assert isinstance(first, nn.Conv2d)
        return first.in_channels

    @property
    def video(self) -> VideoDecoder:
        """The decoder, which must be a video decoder."""
        assert isinstance(self.decoder, VideoDecoder)
        return self.decoder


@dataclass(frozen=True)
class Modules:
    """The modules of both sides, for checks that look inside them.

    Both are the same module if a video decoder is compared with its own image layers.
    """

    reference: LatentDecoder
    candidate: LatentDecoder
    remake: Callable[[torch.dtype], Decode]
    """Load the reference again to compute in another type."""


@dataclass(frozen=True)
class DecoderPair:
    """Two decode functions, and facts about their files."""

    reference: Decode
    candidate: Decode
    channels: int
    """The number of latent channels."""
    weights: WeightsResult
    original: Decode | None = None
    """The reference before it was rounded to the stored type, if that is narrower."""
    cast_types: tuple[str, str] | None = None
    notes: tuple[str, ...] = ()
    skip_video: Decode | None = None
    """The candidate without its temporal layers; None if that is the reference itself."""
    modules: Modules | None = None
    architecture: Architecture | None = None


def against_source(
    reference: Source, candidate: Source, dtype: torch.dtype, device: torch.device
) -> DecoderPair:
    """Pair a video checkpoint with the image or video checkpoint that it was made from.

    If the candidate is stored in a narrower type, the reference is rounded to it first.

    Raises:
        PlanError: their architectures differ.
    """
    _check_same_architecture(reference, candidate)
    load: Callable[..., Decoder] = load_video if reference.inflated else load_image_decoder

    def read(compute: torch.dtype, stored_as: Source | None) -> LatentDecoder:
        before = load_post_quant_conv(reference, compute, stored_as=stored_as)
        # If only the candidate has one, both sides use it.
        before = before or load_post_quant_conv(candidate, compute)
        return LatentDecoder(load(reference, compute, stored_as=stored_as), before)

    first, before = read(dtype, candidate), load_post_quant_conv(candidate, dtype)
    notes = list(candidate.blend_notes)
    own = reference.info("post_quant_conv.weight") is not None
    if own != (before is not None):
        missing = "candidate" if own else "reference"
        notes.append(f"the {missing} has no post_quant_conv: both sides used the other's")
    # Tensors with equal bytes are shared by both sides, and not compared again.
    decoder = load_video(candidate, dtype, shared=first.decoder)
    used = {tensor.data_ptr() for tensor in first.decoder.parameters()}
    same = {DECODER + name for name, p in decoder.named_parameters() if p.data_ptr() in used}
    second = LatentDecoder(decoder, before or first.post_quant_conv)
    first, second = first.to(device), second.to(device)
    cast_types = None if reference.inflated else narrowed(reference, candidate)
    return DecoderPair(
        reference=first,
        candidate=second,
        channels=first.channels,
        weights=compare_weights(reference, candidate, same),
        original=None if cast_types is None else read(dtype, None).to(device),
        cast_types=cast_types,
        notes=tuple(notes),
        skip_video=None if reference.inflated else second.image_layers,
        modules=Modules(first, second, lambda other: read(other, candidate).to(device)),
        architecture=reference.config.architecture.decoder,
    )


def against_itself(candidate: Source, dtype: torch.dtype, device: torch.device) -> DecoderPair:
    """Pair a video checkpoint with its own image layers, its ``skip_video`` path."""

    def read(compute: torch.dtype) -> LatentDecoder:
        before = load_post_quant_conv(candidate, compute)
        return LatentDecoder(load_video(candidate, compute), before).to(device)

    video = read(dtype)
    return DecoderPair(
        reference=video.image_layers,
        candidate=video,
        channels=video.channels,
        weights=WeightsResult(0, ()),
        notes=(
            *candidate.blend_notes,
            "no reference given: compared the candidate with its own image layers",
        ),
        modules=Modules(video, video, lambda other: read(other).image_layers),
        architecture=candidate.config.architecture.decoder,
    )


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
