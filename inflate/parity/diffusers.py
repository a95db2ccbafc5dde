"""Check a diffusers export with diffusers' own classes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from inflate.errors import ConfigError, install_command
from inflate.formats.dialects import to_diffusers
from inflate.formats.source import Source
from inflate.loading import aligned, load_video, read_tensor
from inflate.parity.pair import Decode, DecoderPair, LatentDecoder
from inflate.parity.weights import compare_weights, narrowed


def require_diffusers() -> Any:
    """The package ``diffusers``.

    Raises:
        ConfigError: it is not installed.
    """
    # diffusers imports xformers, which may warn; neither side uses it.
    logger = logging.getLogger("xformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        import diffusers

        # Imports each class and its dependencies.
        _ = diffusers.AutoencoderKL, diffusers.AutoencoderKLTemporalDecoder
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            "layout 'diffusers' is checked with diffusers' own classes, which are not installed: "
            f"{install_command('diffusers')}, or pass --skip-parity"
        ) from error
    finally:
        logger.setLevel(level)
    return diffusers


def against_export(
    reference: Source, candidate: Source, folder: Path, device: torch.device
) -> DecoderPair:
    """An exported folder and its source, each loaded in diffusers' own class.

    diffusers has no class for other video checkpoints, so a video reference runs in our class.
    The reference is the image checkpoint with ``post_quant_conv`` folded, or the video checkpoint
    that was copied. The candidate is the folder, opened by our reader to compare weights.
    """
    diffusers = require_diffusers()
    video = diffusers.AutoencoderKLTemporalDecoder.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True
    ).eval()
    # The class memory-maps its weights, at unaligned addresses.
    weights = {name: aligned(value) for name, value in video.state_dict().items()}
    video.load_state_dict(weights, strict=True, assign=True)
    video = video.to(device)
    cast_types = None if reference.inflated else narrowed(reference, candidate)

    def image_decode(stored_as: Source) -> Decode:
        model = _image_autoencoder(diffusers, reference, stored_as).to(device)
        return lambda z, _frames: model.decode(z).sample

    if reference.inflated:
        ours: Decode = LatentDecoder(load_video(reference, torch.float32, stored_as=candidate)).to(
            device
        )
        sides = "the candidate was"
    else:
        ours, sides = image_decode(candidate), "both sides were"
    return DecoderPair(
        reference=ours,
        candidate=lambda z, frames: video.decode(z, num_frames=frames).sample,
        channels=reference.config.architecture.z_channels,
        weights=compare_weights(reference, candidate),
        original=None if cast_types is None else image_decode(reference),
        cast_types=cast_types,
        notes=(f"{sides} computed by diffusers {diffusers.__version__}",),
        architecture=reference.config.architecture,
    )


def _image_autoencoder(diffusers: Any, reference: Source, stored_as: Source) -> Any:
    """Diffusers' image autoencoder, each weight rounded to its type in another source."""
    architecture = reference.config.architecture
    levels = len(architecture.ch_mult)
    stored = {
        key: stored_as.info(key)
        for key in reference.located.tensors
        if key.startswith(("decoder.", "encoder.", "quant"))
    }
    types = {key: getattr(torch, info.dtype) for key, info in stored.items() if info is not None}
    with torch.device("meta"):
        model = diffusers.AutoencoderKL(
            in_channels=architecture.in_channels,
            out_channels=architecture.out_ch,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=architecture.level_channels,
            layers_per_block=architecture.num_res_blocks,
            latent_channels=architecture.z_channels,
            use_quant_conv="quant_conv.weight" in types,
            use_post_quant_conv=False,
        )
    expected = {name: value.shape for name, value in model.state_dict().items()}
    names = {to_diffusers(key, levels, video=False): key for key in types}
    tensors = {
        name: read_tensor(reference, key).to(types[key]).float().view(expected[name])
        for name, key in names.items()
    }
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.eval()
