"""Read images, videos and stored latents. Pillow and PyAV are imported only when used."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inflate.errors import ConfigError, InflateError, needs_extra
from inflate.io.files import like
from inflate.io.reader import open_checkpoint
from inflate.io.unpickling import BARE
from inflate.loading import as_tensor
from inflate.parity.probes import Probe

_NAMES = (BARE, "samples")
"""Accepted names of the latents in a file with several tensors."""


def image_files(folder: Path) -> list[Path]:
    """The images of a folder, sorted by name; other files are ignored.

    Raises:
        ConfigError: Pillow is missing; the folder is missing, or holds no image.
    """
    with needs_extra("media", "--images", ConfigError):
        from PIL import Image
    if not os.path.isdir(folder):
        raise ConfigError(
            f"--images {folder} is not a folder{like(folder)}; expected one of images"
        )
    endings = Image.registered_extensions()
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in endings)
    except OSError as error:
        raise ConfigError(f"--images {folder} cannot be read: {error.strerror}") from error
    paths = [path for path in paths if not path.name.startswith(".")]
    if not paths:
        raise ConfigError(
            f"--images {folder} holds no images; expected files such as .png, .jpg or .webp"
        )
    return paths


def image_pixels(folder: Path, *, multiple: int, side: int, most: int) -> tuple[Tensor, str]:
    """Read at most ``most`` images of a folder as ``T 3 H W`` in -1..1; also returns a note.

    All get the size of the first image, reduced to multiples of ``multiple`` and at most ``side``
    pixels. The others are scaled to cover that size and cropped around their centres.

    Raises:
        ConfigError: as :func:`image_files`; or an image cannot be read.
    """
    paths = image_files(folder)
    count = min(most, len(paths))
    taken = f"the first {count} of {len(paths)}" if count < len(paths) else f"{count}"
    images = map(_opened, paths[:most])
    return _fitted(images, multiple, side, f"{taken} images of {folder}")


def video_pixels(path: Path, *, multiple: int, side: int, most: int) -> tuple[Tensor, str]:
    """Read the first frames of a video; for arguments and result see :func:`image_pixels`.

    Raises:
        ConfigError: Pillow or PyAV is missing; the file is missing or cannot be decoded.
    """
    with needs_extra("media", "--video", ConfigError):
        import av
        import PIL.Image  # noqa: F401  PyAV converts frames with it.
    if not os.path.isfile(path):
        raise ConfigError(f"--video {path} is not a file{like(path)}; expected a video")
    frames: list[Any] = []
    try:
        # Pass an open file and forbid protocols: a playlist can refer to any file or address.
        with (
            path.open("rb") as file,
            av.open(file, options={"protocol_whitelist": "none"}) as video,
        ):
            for frame in video.decode(video=0) if video.streams.video else ():  # type: ignore[union-attr]
                frames.append(frame.to_image())
                if len(frames) == most:
                    break
    except (OSError, ValueError) as error:  # Includes FFmpeg's errors.
        raise ConfigError(
            f"--video {path} cannot be decoded: {getattr(error, 'strerror', None) or error}. Copy "
            "or download it again, or use another format"
        ) from error
    if not frames:
        raise ConfigError(f"--video {path} holds no pictures; expected a video")
    return _fitted(frames, multiple, side, f"the first {len(frames)} frames of {path}")


def _opened(path: Path) -> Any:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    # A damaged file makes the reader raise errors of any type.
    except Exception as error:
        raise ConfigError(f"--images: {path} cannot be read as an image: {error}") from error


def _fitted(images: Iterable[Any], multiple: int, side: int, what: str) -> tuple[Tensor, str]:
    """Images of equal size, ``T 3 H W`` in -1..1, and a note; reads one full image at a time."""
    from PIL import Image, ImageOps

    width = height = 0
    fitted: list[Any] = []
    for image in images:
        if not fitted:
            longest = max(image.size)
            scale = min(side, longest) / longest  # This order allows any --max-side.
            sizes = (max(1, int(extent * scale) // multiple) for extent in image.size)
            width, height = (size * multiple for size in sizes)
        fitted.append(ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS))
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in fitted]))
    pixels = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    return pixels, f"{width} x {height} pixels: {what}"


def read_latents(path: Path, channels: int) -> Probe:
    """A probe of stored latents: ``T C h w`` for one video, or ``B T C h w`` for several.

    The file is ``.safetensors``, ``.pt`` or ``.npy``. If it has several tensors, one must be named
    ``latents`` or ``samples``.

    Raises:
        ConfigError: the file cannot be read, or has other content.
    """
    try:
        tensor = _read(path)
    except InflateError as error:
        raise ConfigError(f"--latents: {error}") from error
    shape = list(tensor.shape)
    if not tensor.is_floating_point():
        raise ConfigError(f"--latents {path} holds {tensor.dtype}; expected floating-point numbers")
    if len(shape) not in (4, 5) or 0 in shape or shape[-3] != channels:
        raise ConfigError(
            f"--latents {path} has the shape {shape}; expected T C h w, or B T C h w, without 0 "
            f"and with C = {channels} channels"
        )
    if not tensor.isfinite().all():
        raise ConfigError(f"--latents {path} holds NaN or infinity; expected finite numbers")
    return Probe.of("latents", tensor.float().reshape(-1, *shape[-3:]), shape[-4])


def _read(path: Path) -> Tensor:
    if os.path.isfile(path):
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                return _read_numpy(path)
    with open_checkpoint(path, bare=True) as checkpoint:
        names = list(checkpoint.tensors)
        chosen = names if len(names) == 1 else [name for name in _NAMES if name in names]
        if not chosen:
            raise ConfigError(
                f"{path} holds {len(names)} tensors ({', '.join(names[:5])}); expected one, or one "
                f"called {' or '.join(_NAMES)}"
            )
        return as_tensor(checkpoint.read(chosen[0]))


def _read_numpy(path: Path) -> Tensor:
    try:
        array = np.load(path, allow_pickle=False)
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    except (OSError, ValueError, TypeError, MemoryError) as error:
        raise ConfigError(f"{path} cannot be read as a .npy file: {error}") from error
