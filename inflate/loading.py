"""Modules filled from checkpoints: image decoders, video decoders and whole autoencoders.

Every module is built on the meta device and given its tensors under strict names: nothing random is
made first, nothing can be missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from inflate.checkpoint.architecture import infer_architecture, infer_temporal
from inflate.checkpoint.blending import MERGE_STRATEGY, Blend, check_known, find_blend
from inflate.checkpoint.class_config import class_settings
from inflate.checkpoint.index import TensorInfo
from inflate.checkpoint.layouts import DECODER, PASSED_THROUGH
from inflate.checkpoint.locate import Located, locate
from inflate.checkpoint.reader import Checkpoint, open_checkpoint
from inflate.checkpoint.recorded import recorded_settings
from inflate.checkpoint.shapes import mismatches
from inflate.checkpoint.spec import quant_shapes
from inflate.checkpoint.views import autoencoder_view, with_learned_blend
from inflate.config.loading import build_config
from inflate.config.schema import Config, Settings, Temporal
from inflate.errors import ConfigError, DeviceError, FamilyError, PlanError, quoted
from inflate.inflation.initializers import Rule, make_array
from inflate.models import Decoder, Encoder, VideoDecoder
from inflate.models.autoencoder import ImageEncoder, VideoAutoencoder
from inflate.models.blocks import conv1x1
from inflate.options import check_location

_CODEBOOK = "quantize.embedding.weight"

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Source:
    """The autoencoder of an opened file, under LDM's keys, and what is known of it.

    ``blend`` says how a video decoder's way to blend is known; None for an image decoder.
    """

    checkpoint: Checkpoint
    located: Located
    config: Config
    blend: Blend | None = None

    @property
    def inflated(self) -> bool:
        """Whether its decoder is a video decoder."""
        return self.located.inflated

    @property
    def blend_notes(self) -> tuple[str, ...]:
        """What a user needs to know of a blend that the file does not record, in words."""
        note = None if self.blend is None else self.blend.note
        return () if note is None else (note,)

    def info(self, key: str) -> TensorInfo | None:
        """What the file says of a key, such as ``decoder.conv_in.weight``."""
        return self.checkpoint.tensors.get(key)

    def read(self, key: str) -> Tensor:
        """The tensor of a key, which must be there."""
        return self.checkpoint.read(key)

    def with_learned_blend(self, config: Config) -> Source:
        """The same video autoencoder with its fixed blend as a learned one, and what says so."""
        checkpoint = with_learned_blend(self.checkpoint)
        located = replace(self.located, tensors=checkpoint.tensors)
        return replace(self, checkpoint=checkpoint, located=located, config=config)

    def seen_as(self, checkpoint: Checkpoint) -> Source:
        """The same autoencoder with other tensors, those of a view of its checkpoint."""
        located = replace(self.located, tensors=checkpoint.tensors)
        architecture = self.config.architecture
        if "post_quant_conv.weight" not in checkpoint.tensors:
            z_channels = checkpoint.tensors["decoder.conv_in.weight"].shape[1]
            architecture = replace(architecture, z_channels=z_channels)
        config = replace(self.config, architecture=architecture)
        return replace(self, checkpoint=checkpoint, located=located, config=config)


def describe(
    checkpoint: Checkpoint,
    *layers: Mapping[str, object],
    prefix: str | None = None,
    ema: bool = False,
    image: bool = False,
) -> Source:
    """Find the autoencoder in a checkpoint, and its configuration.

    The architecture is read off the tensors; what they cannot show comes from a ``config.json`` of
    diffusers, from the header of a file of ours, then from the layers of settings.

    Args:
        checkpoint: an opened file.
        *layers: settings, the later winning.
        prefix: which autoencoder to take where the file holds several.
        ema: take the moving averages of its weights.
        image: the caller refuses a video decoder, so that how one blends need not be known.

    Raises:
        FamilyError: there is no autoencoder of this family.
        PlanError: its tensors fit no architecture.
        ConfigError: the header or the settings contradict the tensors; or nothing shows how a video
            decoder blends.
    """
    path, metadata = checkpoint.path, checkpoint.metadata
    located = locate(checkpoint.tensors, path, prefix=prefix, ema=ema)
    shapes = {key: info.shape for key, info in located.tensors.items()}
    seen = infer_architecture(shapes, path)
    recorded = recorded_settings(metadata, path)
    known = class_settings(checkpoint.files, metadata, located, seen)
    asked: Settings = {}
    for layer in layers:
        asked.update(layer)
    blend = None
    if located.inflated and not image:
        blend = find_blend(located, recorded, checkpoint.read, path, asked.get(MERGE_STRATEGY))
        check_known(blend, path)
        known |= _temporal_settings(infer_temporal(shapes), blend)
    around = any(located.part(part) for part in PASSED_THROUGH)
    which = "in its header"
    try:
        if recorded:
            build_config(seen, recorded, decoder_only=not around)
        which = "for it"
        config = build_config(seen, known, recorded, asked, decoder_only=not around)
    except ConfigError as error:
        raise ConfigError(
            f"{path}: the configuration {which} has errors:", error.problems
        ) from error
    if blend is not None and config.temporal.merge_strategy != blend.strategy:
        raise ConfigError(
            f"the options ask for merge_strategy {config.temporal.merge_strategy!r}; {path} has "
            f"{blend.strategy!r}: {blend.reason}. Leave --merge-strategy out"
        )
    return Source(autoencoder_view(checkpoint, located), located, config, blend)


def _temporal_settings(seen: Temporal, blend: Blend) -> Settings:
    """The temporal layers of a video decoder, as its shapes and its numbers show them."""
    shown = {**seen.module_arguments(), "merge_strategy": blend.strategy}
    if blend.alpha is not None:
        shown["alpha"] = blend.alpha
    return {f"temporal.{key}": value for key, value in shown.items()}


def build_video_decoder(config: Config) -> VideoDecoder:
    """The video decoder of a configuration, on the meta device: shapes without numbers."""
    with torch.device("meta"):
        return VideoDecoder(
            **config.architecture.module_arguments(), **config.temporal.module_arguments()
        )


def build_encoder(config: Config) -> Encoder:
    """The encoder of a configuration, on the meta device."""
    with torch.device("meta"):
        return Encoder(**config.architecture.module_arguments())


def make_tensor(rule: Rule, shape: tuple[int, ...], key: str, seed: int) -> Tensor:
    """The tensor that a rule makes, in float32; see ``make_array``."""
    array = make_array(rule, shape, key, seed)
    if any(array.strides):
        return torch.from_numpy(array)
    return torch.tensor(array.flat[0]).expand(shape)  # One number, still stored once.


def load_image_decoder(
    source: Source, dtype: torch.dtype, *, stored_as: Source | None = None
) -> Decoder:
    """The image decoder of a source, computing in ``dtype``.

    Args:
        source: an image checkpoint.
        dtype: the type to compute in.
        stored_as: round each weight first to the type that it has in this source.
    """
    with torch.device("meta"):
        decoder = Decoder(**source.config.architecture.module_arguments())
    # The image layers of a video decoder are a whole image decoder.
    return _fill(decoder, DECODER, source, dtype, stored_as, extra=source.inflated)


def load_video(
    source: Source, dtype: torch.dtype | None = None, *, stored_as: Source | None = None
) -> VideoDecoder:
    """The bare video decoder of a source, in its stored type where ``dtype`` is None.

    Raises:
        FamilyError: the source is an image checkpoint.
        PlanError: its tensors do not fit its configuration.
    """
    if not source.inflated:
        raise FamilyError(
            f"{source.checkpoint.path} is an image autoencoder: its decoder has no temporal layers;"
            " expected a video checkpoint. 'inflate convert' makes one of it"
        )
    return _fill(build_video_decoder(source.config), DECODER, source, dtype, stored_as)


def load_post_quant_conv(
    source: Source, dtype: torch.dtype, *, stored_as: Source | None = None
) -> nn.Module | None:
    """The 1x1 convolution before the decoder, or None where the source has none."""
    if source.info("post_quant_conv.weight") is None:
        return None
    out_channels, in_channels = source.read("post_quant_conv.weight").shape[:2]
    with torch.device("meta"):
        conv = conv1x1(in_channels, out_channels)
    return _fill(conv, "post_quant_conv.", source, dtype, stored_as)


def load_encoder(source: Source, dtype: torch.dtype) -> ImageEncoder:
    """The image encoder of a source with its quant conv and codebook, computing in ``dtype``.

    Raises:
        FamilyError: the source has no encoder.
    """
    parts = source.located.part
    if not parts("encoder."):
        raise FamilyError(f"{source.checkpoint.path} holds no encoder, so it makes no latents")
    with torch.device("meta"):
        whole = ImageEncoder(build_encoder(source.config), **_encoding(source))
    _fill_parts(whole, ("encoder", "quant_conv", "quantize"), source, dtype)
    return whole.eval()


def load_video_decoder(
    path: str | Path, device: str | torch.device = "cpu", *, merge_strategy: str | None = None
) -> VideoDecoder:
    """Rebuild the bare video decoder from a file alone, in its stored type, ready to decode.

    It takes latents after ``post_quant_conv``, as sgm's does; :func:`load_video_autoencoder` gives
    the whole.

    Args:
        path: a video checkpoint, ours or one in sgm's names.
        device: where its tensors go.
        merge_strategy: ``learned`` or ``fixed``, for a file that does not record how it blends.

    Raises:
        CheckpointError: the file cannot be read, or holds no video decoder.
        DeviceError: the device is none.
        ConfigError: nothing shows how it blends, or it does not blend as ``merge_strategy`` says.
    """
    where = _checked_device(path, device)
    with open_checkpoint(Path(path)) as checkpoint:
        return load_video(describe(checkpoint, given_blend(merge_strategy))).to(where).eval()


def load_video_autoencoder(
    path: str | Path, device: str | torch.device = "cpu", *, merge_strategy: str | None = None
) -> VideoAutoencoder:
    """Rebuild encoder, quant convs, codebook and video decoder from a file alone.

    Args:
        path: a video checkpoint, ours or one in sgm's names.
        device: where its tensors go.
        merge_strategy: ``learned`` or ``fixed``, for a file that does not record how it blends.

    Raises:
        CheckpointError: the file cannot be read, or holds no video decoder.
        DeviceError: the device is none.
        ConfigError: nothing shows how it blends, or it does not blend as ``merge_strategy`` says.
        PlanError: parts of it do not fit its configuration.
    """
    where = _checked_device(path, device)
    with open_checkpoint(Path(path)) as checkpoint:
        source = describe(checkpoint, given_blend(merge_strategy))
        config = source.config
        decoder = load_video(source)
        if source.located.part("quantize.") and config.architecture.n_embed is None:
            raise PlanError(
                f"{path} quantises otherwise than by a codebook of nearest entries (it has no "
                "quantize.embedding.weight), so its latents cannot be made here; "
                "load_video_decoder(path) loads its decoder"
            )
        with torch.device("meta"):
            whole = VideoAutoencoder(
                decoder,
                build_encoder(config) if source.located.part("encoder.") else None,
                post_quant_conv=_quant_channels(source, "post_quant_conv."),
                **_encoding(source),
            )
        _fill_parts(whole, ("encoder", "quant_conv", "post_quant_conv", "quantize"), source)
        return whole.to(where).eval()


def _checked_device(path: object, device: object) -> torch.device:
    """The device of a loader's arguments, checked before the file is opened."""
    check_location("path", path)
    try:
        return torch.device(device)  # type: ignore[call-overload, no-any-return]
    except (RuntimeError, TypeError, ValueError) as error:
        raise DeviceError(
            f"device is {quoted(device)}; expected a torch.device, or its name, such as cuda:0"
        ) from error


def given_blend(merge_strategy: str | None) -> Settings:
    """The settings of a merge strategy that the user gives, or does not."""
    return {} if merge_strategy is None else {MERGE_STRATEGY: merge_strategy}


def _encoding(source: Source) -> dict[str, Any]:
    """What modules that encode take beside their encoder."""
    architecture = source.config.architecture
    return {
        "latent_channels": architecture.embed_dim or architecture.z_channels,
        "quant_conv": _quant_channels(source, "quant_conv."),
        # Other quantisers keep no plain codebook: their latents are taken as they are.
        "codebook_entries": architecture.n_embed if source.located.part(_CODEBOOK) else None,
    }


def _quant_channels(source: Source, part: str) -> tuple[int, int] | None:
    """Channels in and out of the one convolution that a part consists of, if there is that part."""
    if not source.located.part(part):
        return None
    shapes = quant_shapes(source.config.architecture)[part].values()
    out_channels, in_channels = next(shape for shape in shapes if len(shape) == 4)[:2]
    return in_channels, out_channels


def _fill_parts(
    whole: nn.Module, names: Sequence[str], source: Source, dtype: torch.dtype | None = None
) -> None:
    """Fill those parts of a whole that are there."""
    for name in names:
        part = getattr(whole, name)
        if part is not None:
            # Other quantisers keep more beside their codebook, which is not needed here.
            _fill(part, f"{name}.", source, dtype, extra=name == "quantize")


def _fill(
    module: M,
    part: str,
    source: Source,
    dtype: torch.dtype | None = None,
    stored_as: Source | None = None,
    *,
    extra: bool = False,
) -> M:
    """Give a module on the meta device the tensors of a part, exactly those it names.

    The part holds nothing else, unless ``extra`` allows it.
    """
    shapes = {part + key: tuple(value.shape) for key, value in module.state_dict().items()}
    problems = mismatches(source.located, shapes, [] if extra else source.located.part(part))
    if problems:
        raise PlanError(f"{source.checkpoint.path} does not fit its architecture:", problems)
    tensors = {}
    for key in shapes:
        tensor = source.read(key)
        stored = stored_as.info(key) if stored_as else None
        if stored is not None:
            tensor = tensor.to(getattr(torch, stored.dtype))
        tensors[key.removeprefix(part)] = tensor if dtype is None else tensor.to(dtype)
    module.load_state_dict(tensors, strict=True, assign=True)
    return module.eval()
