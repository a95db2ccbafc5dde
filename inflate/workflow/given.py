"""What whoever runs ``verify`` hands over beside the checkpoints, and where outputs are kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from inflate.config.presets import scaling_factors
from inflate.errors import ConfigError, FamilyError, OutputError
from inflate.formats.source import Source
from inflate.loading import load_encoder
from inflate.options import VerifyOptions
from inflate.parity.device import exact_float32
from inflate.parity.given import GivenProbe
from inflate.parity.latents import read_latents, unscaled
from inflate.parity.media import image_files, image_pixels, video_pixels
from inflate.parity.memory import saying_memory
from inflate.parity.probes import Probe
from inflate.progress import Progress

SIDE, FRAMES = 512, 16
"""Pixels of the longer side, and frames, on an accelerator."""

CPU_SIDE, CPU_FRAMES = 128, 4
"""The same on a CPU, which computes some seconds for them."""


def check_given(options: VerifyOptions) -> None:
    """Check the options for real frames and latents before anything is read.

    Raises:
        ConfigError: an option has no effect, or a number is too small.
        OutputError: the folder for outputs is in use.
    """
    for name in ("max_side", "max_frames"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; expected 1 or more")
    if options.scaled_latents and options.latents is None:
        raise ConfigError("--scaled-latents says how --latents are stored; give both")
    folder = options.save_outputs
    try:
        if folder is not None and folder.exists() and any(folder.iterdir()):
            raise OutputError(f"{folder} is not empty; choose another folder for --save-outputs")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from error


def given_files(options: VerifyOptions) -> list[Path]:
    """The images, the video and the latents that ``verify`` reads.

    Raises:
        ConfigError: the folder of images holds none.
    """
    images = [] if options.images is None else image_files(options.images)
    given = (options.video, options.latents)
    return [*images, *(path for path in given if path is not None)]


def given_probes(
    given: VerifyOptions,
    sources: Sequence[Source],
    channels: int,
    device: torch.device,
    progress: Progress,
) -> tuple[tuple[GivenProbe, ...], tuple[str, ...]]:
    """Probes of what is given, and in words what was taken.

    Args:
        given: the options of verify.
        sources: the checkpoints; the first that has an encoder makes latents of images.
        channels: of the latents.
        device: where images are encoded, in float32.
        progress: told of every image.

    Raises:
        InflateError: something cannot be read, or there is no encoder.
    """
    probes: list[GivenProbe] = []
    notes = []
    architecture = sources[0].config.architecture
    cpu = device.type == "cpu"
    size = {
        "multiple": architecture.downsampling,
        "side": given.max_side or (CPU_SIDE if cpu else SIDE),
        "most": given.max_frames or (CPU_FRAMES if cpu else FRAMES),
    }
    for name, path, read in (
        ("images", given.images, image_pixels),
        ("video", given.video, video_pixels),
    ):
        if path is None:
            continue
        encoder = _with_encoder(sources, f"--{name}")
        pixels, told = read(path, **size)
        z = encode(encoder, pixels, device, progress)
        probes.append(GivenProbe.of(name, z, pixels.shape[0], pixels))
        notes.append(f"the probe {name} is of {told}")
    if given.latents is not None:
        stored = read_latents(given.latents, channels)
        probes.append(_as_decoded(stored, sources) if given.scaled_latents else stored)
    return tuple(probes), tuple(notes)


def encode(source: Source, pixels: Tensor, device: torch.device, progress: Progress) -> Tensor:
    """Images ``N 3 H W`` in -1..1 to latents ``N e h w``, one at a time, in float32.

    Raises:
        ConfigError: the encoder takes other images.
        DeviceError: the device runs out of memory.
    """
    wanted = source.config.architecture.in_channels
    if wanted != pixels.shape[1]:
        raise ConfigError(
            f"{source.checkpoint.path} encodes images of {wanted} channels; images and videos have "
            f"{pixels.shape[1]}. Give --latents"
        )
    encoder = load_encoder(source, torch.float32).to(device)
    found = []
    with exact_float32(), torch.inference_mode(), saying_memory(device, "images were encoded"):
        for done, image in enumerate(pixels):
            progress("encoding", done, len(pixels))
            found.append(encoder.encode(image[None].to(device)).cpu())
        progress("encoding", len(pixels), len(pixels))
    return torch.cat(found)


def keep_outputs(
    folder: Path, probe: Probe, z: Tensor, reference: Tensor, candidate: Tensor
) -> None:
    """Write what both decoders made of a probe to ``NAME.safetensors``, never over another file.

    Raises:
        OutputError: the folder cannot be written.
    """
    tensors = {"latents": z, "reference": reference, "candidate": candidate}
    if probe.sources is not None:
        tensors["source"] = probe.sources
    name = re.sub(r"[^\w.-]+", "-", probe.name)
    path = folder / f"{name}.safetensors"
    hidden = folder / f".{name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            raise OutputError(f"{path} exists; choose another folder for --save-outputs")
        contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        # Written here, since the library's own files can be read by their owner alone.
        hidden.write_bytes(save(contiguous, {"frames": str(probe.frames)}))
        hidden.rename(path)
    except OSError as error:
        with suppress(OSError):
            hidden.unlink()
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from error


def _with_encoder(sources: Sequence[Source], option: str) -> Source:
    for source in sources:
        if source.located.part("encoder."):
            return source
    names = " and ".join(str(source.checkpoint.path) for source in sources)
    raise FamilyError(
        f"{option} needs an encoder, and {names} has none: a bare decoder makes no latents. Give "
        "the whole autoencoder as the reference, or --latents"
    )


def _as_decoded(probe: GivenProbe, sources: Sequence[Source]) -> GivenProbe:
    """Latents of a diffusion model as the decoder takes them, by the factor that is known."""
    for source in sources:
        architecture = source.config.architecture
        known = scaling_factors(architecture)
        factor = architecture.scaling_factor or (known[0] if len(known) == 1 else None)
        if factor is not None:
            return unscaled(probe, factor, architecture.shift_factor or 0.0)
    raise ConfigError(
        "--scaled-latents: the scaling factor is not known from the checkpoint; divide the latents "
        "by it yourself, and leave the option out"
    )
