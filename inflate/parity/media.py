"""Pixels of images and videos: Pillow reads the ones, PyAV the others, imported where used."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inflate.errors import ConfigError, needs_extra
from inflate.parity.process import ProcessWide


def image_files(folder: Path) -> list[Path]:
    """The images of a folder, in the order of their names; other files in it are left alone.

    Raises:
        ConfigError: Pillow is missing; the folder is missing, or holds no image.
    """
    with needs_extra("media", "--images", ConfigError):
        from PIL import Image
    if not os.path.isdir(folder):
        raise ConfigError(f"--images {folder} is no folder; expected one with images in it")
    endings = Image.registered_extensions()
    try:
        names = sorted(path for path in folder.iterdir() if path.suffix.lower() in endings)
    except OSError as error:
        raise ConfigError(f"--images {folder} cannot be read: {error.strerror}") from error
    names = [path for path in names if not path.name.startswith(".")]
    if not names:
        raise ConfigError(
            f"--images {folder} holds no images; expected files such as .png, .jpg or .webp"
        )
    return names


def image_pixels(folder: Path, *, multiple: int, side: int, most: int) -> tuple[Tensor, str]:
    """The images of a folder.

    All take the size of the first one: as large as ``side`` and ``multiple`` allow; the others are
    scaled to cover it, and cropped around their centres.

    Args:
        folder: where they lie.
        multiple: of which height and width are to be multiples.
        side: pixels that the longer side has at most.
        most: how many images are taken.

    Returns:
        ``T 3 H W`` in -1..1, and in words what was taken.

    Raises:
        ConfigError: Pillow is missing; the folder is, or holds no image; an image cannot be read.
    """
    names = image_files(folder)
    pixels = _fitted([_opened(path) for path in names[:most]], multiple, side)
    count, _, height, width = pixels.shape
    taken = f"the first {count} of {len(names)}" if count < len(names) else f"{count}"
    return pixels, f"{width} x {height} pixels: {taken} images of {folder}"


def video_pixels(path: Path, *, multiple: int, side: int, most: int) -> tuple[Tensor, str]:
    """The first frames of a video; arguments and result as for :func:`image_pixels`.

    Raises:
        ConfigError: Pillow or PyAV is missing; the file is, or cannot be decoded.
    """
    with needs_extra("media", "--video", ConfigError):
        import av
        import PIL.Image  # noqa: F401  PyAV hands its frames over through it.
    if not os.path.isfile(path):
        raise ConfigError(f"--video {path} is no file; expected a video")
    frames: list[Any] = []
    try:
        # An opened file, and no protocol to reach another by: a playlist names whatever it likes.
        with (
            path.open("rb") as file,
            av.open(file, options={"protocol_whitelist": "none"}) as video,
        ):
            if not video.streams.video:
                raise ConfigError(f"--video {path} has no pictures; expected a video")
            for frame in video.decode(video=0):  # type: ignore[union-attr]
                frames.append(frame.to_image())
                if len(frames) == most:
                    break
    except (OSError, ValueError) as error:  # Those of FFmpeg are among them.
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"--video {path} cannot be decoded: {reason}. Copy or download it again, or take "
            "another format"
        ) from error
    if not frames:
        raise ConfigError(f"--video {path} holds no frames; expected a video")
    pixels = _fitted(frames, multiple, side)
    count, _, height, width = pixels.shape
    return pixels, f"{width} x {height} pixels: the first {count} frames of {path}"


def fitting_size(size: tuple[int, int], multiple: int, side: int) -> tuple[int, int]:
    """Width and height of an image that is to be a multiple, and no longer than ``side``."""
    scale = min(side, max(size)) / max(size)  # No number is too large for --max-side.
    width, height = (max(1, int(extent * scale) // multiple) * multiple for extent in size)
    return width, height


@contextmanager
def _refusing_bombs() -> Iterator[None]:
    """Make an error of Pillow's warning of too many pixels: a few bytes may claim any number."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


_REFUSING_BOMBS = ProcessWide(_refusing_bombs)


def _opened(path: Path) -> Any:
    from PIL import Image, ImageOps

    try:
        with _REFUSING_BOMBS.on(), Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    # Whatever a damaged file makes the reader raise is a fact about the file.
    except Exception as error:
        raise ConfigError(f"--images: {path} cannot be read as an image: {error}") from error


def _fitted(images: list[Any], multiple: int, side: int) -> Tensor:
    from PIL import Image, ImageOps

    size = fitting_size(images[0].size, multiple, side)
    return torch.stack(
        [_pixels(ImageOps.fit(image, size, Image.Resampling.LANCZOS)) for image in images]
    )


def _pixels(image: Any) -> Tensor:
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.reshape(image.height, image.width, 3).permute(2, 0, 1).float() / 127.5 - 1.0
