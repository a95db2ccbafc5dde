"""Real images, videos and latents for ``verify``, and where outputs are saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from inflate.config.loading import scaling_factors
from inflate.errors import ConfigError, FamilyError, OutputError
from inflate.formats.source import Source
from inflate.io.staging import make_folder, write_atomically
from inflate.loading import load_encoder
from inflate.options import VerifyOptions
from inflate.parity.device import exact_float32, memory_errors
from inflate.parity.media import image_files, image_pixels, read_latents, video_pixels
from inflate.parity.metrics import ProbeRun
from inflate.parity.probes import Probe
from inflate.progress import Progress


def check_given(options: VerifyOptions) -> None:
    """Validate the options for real frames and latents before reading any file."""
    if options.scaled_latents and options.latents is None:
        raise ConfigError("--scaled-latents describes --latents; give both")
    folder = options.save_outputs
    try:
        if folder is not None and folder.exists() and any(folder.iterdir()):
            raise OutputError(f"{folder} is not empty; choose another folder for --save-outputs")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from error


def given_files(options: VerifyOptions) -> list[Path]:
    """The images, the video and the latents that ``verify`` reads."""
    images = [] if options.images is None else image_files(options.images)
    given = (options.video, options.latents)
    return [*images, *(path for path in given if path is not None)]


def given_probes(
    options: VerifyOptions,
    sources: Sequence[Source],
    channels: int,
    device: torch.device,
    progress: Progress,
) -> tuple[tuple[Probe, ...], tuple[str, ...]]:
    """Probes of the given images, video and latents, and notes on what was read.

    The first source with an encoder encodes images; ``channels`` is the number of latent channels.
    """
    probes, notes = [], []
    side, frames = (128, 4) if device.type == "cpu" else (512, 16)
    size = {
        "multiple": sources[0].config.architecture.downsampling,
        "side": options.max_side or side,
        "most": options.max_frames or frames,
    }
    for name, path, read in (
        ("images", options.images, image_pixels),
        ("video", options.video, video_pixels),
    ):
        if path is None:
            continue
        encoder = _with_encoder(sources, f"--{name}")
        pixels, taken = read(path, **size)
        z = _encode(encoder, pixels, device, progress)
        probes.append(Probe.of(name, z, pixels.shape[0], pixels))
        notes.append(f"probe {name}: {taken}")
    if options.latents is not None:
        stored = read_latents(options.latents, channels)
        if options.scaled_latents:
            z = _unscaled(stored.latents(channels, 0), sources)
            stored = Probe.of(stored.name, z, stored.frames)
        probes.append(stored)
    return tuple(probes), tuple(notes)


def keep_outputs(folder: Path, run: ProbeRun) -> None:
    """Write a probe's latents and both outputs to a new file ``NAME.safetensors``."""
    probe = run.probe
    tensors = {"latents": run.z, "reference": run.expected, "candidate": run.found}
    if probe.sources is not None:
        tensors["source"] = probe.sources
    path = folder / f"{probe.name}.safetensors"
    contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    make_folder(folder)
    write_atomically(path, save(contiguous, {"frames": str(probe.frames)}))


def _with_encoder(sources: Sequence[Source], option: str) -> Source:
    for source in sources:
        if source.located.part("encoder."):
            return source
    names = " and ".join(str(source.checkpoint.path) for source in sources)
    raise FamilyError(
        f"{option} needs an encoder, but {names} holds only a decoder. Give the whole autoencoder "
        "as the reference, or --latents"
    )


def _encode(source: Source, pixels: Tensor, device: torch.device, progress: Progress) -> Tensor:
    """Images ``N 3 H W`` in -1..1 to latents ``N e h w``, one at a time, in float32."""
    wanted = source.config.architecture.in_channels
    if wanted != pixels.shape[1]:
        raise ConfigError(
            f"{source.checkpoint.path} encodes images of {wanted} channels; images and videos have "
            f"{pixels.shape[1]}. Give --latents"
        )
    encoder = load_encoder(source, torch.float32).to(device)
    found = []
    with exact_float32(), torch.inference_mode(), memory_errors(device, "images were encoded"):
        for done, image in enumerate(pixels):
            progress("encoding", done, len(pixels))
            found.append(encoder.encode(image[None].to(device)).cpu())
        progress("encoding", len(pixels), len(pixels))
    return torch.cat(found)


def _unscaled(z: Tensor, sources: Sequence[Source]) -> Tensor:
    """Convert latents of a diffusion model to the decoder's: ``z / factor + shift``."""
    for source in sources:
        architecture = source.config.architecture
        known = scaling_factors(architecture)
        factor = architecture.scaling_factor or (known[0] if len(known) == 1 else None)
        if factor is not None:
            return z / factor + (architecture.shift_factor or 0.0)
    raise ConfigError(
        "--scaled-latents: the checkpoint does not show the scaling factor; divide the latents by "
        "it yourself, and leave the option out"
    )
