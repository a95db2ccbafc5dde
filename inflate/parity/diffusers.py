"""The check of a diffusers export, through diffusers' own classes on both sides."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inflate.errors import ConfigError, install_command
from inflate.formats.dialects import to_diffusers
from inflate.formats.source import Source
from inflate.loading import aligned, load_video, read_tensor
from inflate.parity.comparands import Comparands, Decode
from inflate.parity.weights import compare_weights, narrowed


def require_diffusers() -> Any:
    """The package ``diffusers``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        with _silent_xformers():
            import diffusers

            # Each class is imported where it is first named, and with it what it needs.
            _ = diffusers.AutoencoderKL, diffusers.AutoencoderKLTemporalDecoder
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            "layout 'diffusers' is checked with diffusers' own classes, which are not installed: "
            f"{install_command('diffusers')}, or pass --skip-parity"
        ) from error
    return diffusers


@contextmanager
def _silent_xformers() -> Iterator[None]:
    """Drop what xformers logs here.

    diffusers imports xformers where it is installed. xformers then warns in six lines if it was
    built for another torch. Neither side computes with it, and ``inflate.models.attention`` says
    itself when it asks for xformers and cannot use it.
    """

    def drop(_record: logging.LogRecord) -> bool:
        return False

    logger = logging.getLogger("xformers")
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


def against_export(
    reference: Source, candidate: Source, folder: Path, device: torch.device
) -> Comparands:
    """Set an exported folder against its source, each in diffusers' own class.

    A video checkpoint has none but the exported one: it is run as it is.

    Args:
        reference: the image checkpoint, ``post_quant_conv`` folded where it had one, or the video
            checkpoint that was copied.
        candidate: the exported folder, as our reader sees it: its weights are compared too.
        folder: the exported folder.
        device: where to compute, in float32.
    """
    diffusers = require_diffusers()
    video = diffusers.AutoencoderKLTemporalDecoder.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True
    ).eval()
    # The class maps its weights from the file, wherever they lie in it.
    weights = {name: aligned(value) for name, value in video.state_dict().items()}
    video.load_state_dict(weights, strict=True, assign=True)
    video = video.to(device)
    decode: Decode
    sides = "the candidate was" if reference.inflated else "both sides were"
    if reference.inflated:
        own = load_video(reference, torch.float32, stored_as=candidate).to(device)
        decode = lambda z, frames: own(z, timesteps=frames)  # noqa: E731
    else:
        image = _image_autoencoder(diffusers, reference, candidate).to(device)
        decode = lambda z, _frames: _sample(image.decode(z))  # noqa: E731
    return Comparands(
        reference=decode,
        candidate=lambda z, frames: _sample(video.decode(z, num_frames=frames)),
        original=None,
        channels=reference.config.architecture.z_channels,
        weights=compare_weights(reference, candidate),
        cast_types=narrowed(reference, candidate),
        notes=(f"{sides} computed by diffusers {diffusers.__version__}",),
        architecture=reference.config.architecture,
        framewise=not reference.inflated,
    )


def _image_autoencoder(diffusers: Any, reference: Source, candidate: Source) -> Any:
    """Diffusers' own image autoencoder, with the weights of a source as the export stores them."""
    architecture = reference.config.architecture
    levels = len(architecture.ch_mult)
    keys = [k for k in reference.located.tensors if k.startswith(("decoder.", "encoder.", "quant"))]
    keys = [key for key in keys if candidate.info(key) is not None]
    with torch.device("meta"):
        model = diffusers.AutoencoderKL(
            in_channels=architecture.in_channels,
            out_channels=architecture.out_ch,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=architecture.level_channels,
            layers_per_block=architecture.num_res_blocks,
            latent_channels=architecture.z_channels,
            use_quant_conv="quant_conv.weight" in keys,
            use_post_quant_conv=False,
        )
    names = to_diffusers(keys, levels, video=False)
    expected = {name: value.shape for name, value in model.state_dict().items()}
    tensors = {}
    for key, name in names.items():
        info = candidate.info(key)
        assert info is not None, key
        stored = read_tensor(reference, key).to(getattr(torch, info.dtype)).float()
        tensors[name] = stored.view(expected[name])
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.eval()


def _sample(output: Any) -> Tensor:
    sample: Tensor = output.sample
    return sample
