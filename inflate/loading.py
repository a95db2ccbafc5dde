"""Modules filled from checkpoints: image decoders, video decoders and whole autoencoders.

Every module is built on the meta device and given its tensors under strict names: nothing random is
made first, nothing can be missed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from inflate.checkpoint.architecture import infer_architecture, infer_temporal
from inflate.checkpoint.index import TensorInfo
from inflate.checkpoint.layouts import DECODER, Layout, find_layout, is_inflated
from inflate.checkpoint.reader import Checkpoint, open_checkpoint
from inflate.config.loading import build_config, flatten
from inflate.config.schema import Config, Settings
from inflate.errors import CheckpointError, FamilyError, PlanError
from inflate.inflation.plan import build_encoder, build_video_decoder, mismatches
from inflate.models import Decoder, VideoDecoder
from inflate.models.autoencoder import VideoAutoencoder
from inflate.models.blocks import conv1x1

CONFIG_KEY = "inflate.config"
"""Where the header of our files holds the configuration, as JSON."""

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Source:
    """An opened checkpoint, and what was found in it."""

    checkpoint: Checkpoint
    layout: Layout
    config: Config
    inflated: bool

    def info(self, key: str) -> TensorInfo | None:
        """What the file says of a key of the autoencoder, such as ``decoder.conv_in.weight``."""
        name = self.layout.name_of(key)
        return None if name is None else self.checkpoint.tensors.get(name)

    def read(self, key: str) -> Tensor:
        """The tensor of a key of the autoencoder, which must be there."""
        info = self.info(key)
        assert info is not None, key
        return self.checkpoint.read(info.name)


def describe(checkpoint: Checkpoint, *layers: Mapping[str, object]) -> Source:
    """Find the autoencoder in a checkpoint, and its configuration.

    The architecture is read off the tensors; what they cannot show comes from the header of a file
    of ours, then from the layers of settings.

    Raises:
        FamilyError: there is no autoencoder of this family.
        PlanError: its tensors fit no architecture.
        ConfigError: the header or the settings contradict the tensors.
    """
    layout = find_layout(checkpoint.tensors, checkpoint.path)
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    seen = infer_architecture(shapes, layout)
    inflated = is_inflated(layout.decoder_names(shapes))
    told = _settings_of(checkpoint)
    if inflated and not told:
        temporal = infer_temporal(shapes, layout)
        told = {f"temporal.{k}": v for k, v in temporal.module_arguments().items()}
    config = build_config(seen, told, *layers)
    return Source(checkpoint, layout, config, inflated)


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
    return _fill(decoder, DECODER, source, dtype, stored_as)


def load_video(source: Source, dtype: torch.dtype | None = None) -> VideoDecoder:
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
    return _fill(build_video_decoder(source.config), DECODER, source, dtype)


def load_post_quant_conv(
    source: Source, dtype: torch.dtype, *, stored_as: Source | None = None
) -> nn.Module | None:
    """The 1x1 convolution before the decoder, or None where the source has none."""
    if not source.info("post_quant_conv.weight"):
        return None
    out_channels, in_channels = source.read("post_quant_conv.weight").shape[:2]
    with torch.device("meta"):
        conv = conv1x1(in_channels, out_channels)
    return _fill(conv, "post_quant_conv.", source, dtype, stored_as)


def load_video_decoder(path: str | Path, device: str | torch.device = "cpu") -> VideoDecoder:
    """Rebuild the bare video decoder from a file alone, in its stored type, ready to decode.

    It takes latents after ``post_quant_conv``, as sgm's does; :func:`load_video_autoencoder` gives
    the whole.

    Args:
        path: a video checkpoint, ours or one in sgm's names.
        device: where its tensors go.

    Raises:
        CheckpointError: the file cannot be read, or holds no video decoder.
    """
    with open_checkpoint(Path(path)) as checkpoint:
        return load_video(describe(checkpoint)).to(device).eval()


def load_video_autoencoder(
    path: str | Path, device: str | torch.device = "cpu"
) -> VideoAutoencoder:
    """Rebuild encoder, quant convs, codebook and video decoder from a file alone.

    Args:
        path: a video checkpoint, ours or one in sgm's names.
        device: where its tensors go.

    Raises:
        CheckpointError: the file cannot be read, or holds no video decoder.
        PlanError: parts of it do not fit its configuration.
    """
    with open_checkpoint(Path(path)) as checkpoint:
        source = describe(checkpoint)
        config, layout = source.config, source.layout
        decoder = load_video(source)
        encoder = None
        if layout.part_names(checkpoint.tensors, "encoder."):
            encoder = _fill(build_encoder(config), "encoder.", source, None)
        architecture = config.architecture
        e, z = architecture.embed_dim, architecture.z_channels
        twice = 2 if architecture.double_z else 1
        with torch.device("meta"):
            whole = VideoAutoencoder(
                decoder,
                encoder,
                latent_channels=z if e is None else e,
                quant_conv=(twice * z, twice * (e or z))
                if source.info("quant_conv.weight")
                else None,
                post_quant_conv=(e or z, z) if source.info("post_quant_conv.weight") else None,
                codebook_entries=architecture.n_embed,
            )
        for name in ("quant_conv", "post_quant_conv", "quantize"):
            part = getattr(whole, name)
            if part is not None:
                _fill(part, f"{name}.", source, None)
        return whole.to(device).eval()


def _settings_of(checkpoint: Checkpoint) -> Settings:
    text = checkpoint.metadata.get(CONFIG_KEY)
    if text is None:
        return {}
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{checkpoint.path}: its header's {CONFIG_KEY!r} is not JSON: {error}"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{checkpoint.path}: its header's {CONFIG_KEY!r} is no JSON object")
    return flatten(content)


def _fill(
    module: M,
    part: str,
    source: Source,
    dtype: torch.dtype | None,
    stored_as: Source | None = None,
) -> M:
    """Give a module on the meta device the tensors of a part, exactly those it names."""
    index = source.checkpoint.tensors
    prefix = source.layout.name_of(part)
    assert prefix is not None, part
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    present = [name for name in index if name.startswith(prefix)]
    problems = mismatches(index, prefix, shapes, present)
    if problems:
        raise PlanError(f"{source.checkpoint.path} does not fit its architecture:", problems)
    tensors = {}
    for key in shapes:
        tensor = source.read(part + key)
        stored = stored_as.info(part + key) if stored_as else None
        if stored is not None:
            tensor = tensor.to(getattr(torch, stored.dtype))
        tensors[key] = tensor if dtype is None else tensor.to(dtype)
    module.load_state_dict(tensors, strict=True, assign=True)
    return module.eval()
