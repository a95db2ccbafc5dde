"""Stored latents: one tensor in a file of safetensors, torch or numpy."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inflate.errors import ConfigError, InflateError
from inflate.io.reader import open_checkpoint
from inflate.io.unpickling import BARE
from inflate.loading import as_tensor
from inflate.parity.given import GivenProbe

_NUMPY = b"\x93NUMPY"
_NAMES = (BARE, "samples")
"""What latents are called where a file holds other tensors too."""


def read_latents(path: Path, channels: int) -> GivenProbe:
    """A probe of stored latents: ``T C h w``, one video, or ``B T C h w``, several.

    Args:
        path: a ``.safetensors``, ``.pt`` or ``.npy`` file with one tensor, or one that is called
            ``latents`` or ``samples`` among several.
        channels: what the decoder takes, ``C``.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    try:
        tensor = _read(path)
    except InflateError as error:
        raise ConfigError(f"--latents: {error}") from error
    shape = list(tensor.shape)
    if not tensor.is_floating_point():
        raise ConfigError(f"--latents {path} holds {tensor.dtype}; expected floating-point numbers")
    if len(shape) not in (4, 5) or 0 in shape:
        raise ConfigError(
            f"--latents {path} has the shape {shape}; expected T C h w, or B T C h w, none 0"
        )
    if shape[-3] != channels:
        swapped = shape[-4] == channels
        order = (
            "B C T h w, permute(0, 2, 1, 3, 4)" if len(shape) == 5 else "C T h w, transpose(0, 1)"
        )
        raise ConfigError(
            f"--latents {path} has the shape {shape}, and so {shape[-3]} channels; the decoder "
            f"takes {channels}, expected as T C h w or B T C h w"
            + (f". If it is {order} mends it" if swapped else "")
        )
    if not tensor.isfinite().all():
        raise ConfigError(f"--latents {path} holds NaN or infinity; expected finite numbers")
    frames = shape[-4]
    return GivenProbe.of("latents", tensor.float().reshape(-1, *shape[-3:]), frames)


def unscaled(probe: GivenProbe, factor: float, shift: float) -> GivenProbe:
    """A probe of latents as a diffusion model has them, for a decoder: ``z / factor + shift``."""
    return GivenProbe.of(probe.name, probe.z / factor + shift, probe.frames)


def _read(path: Path) -> Tensor:
    if os.path.isfile(path):
        with path.open("rb") as file:
            numpy = file.read(len(_NUMPY)) == _NUMPY
        if numpy:
            return _read_numpy(path)
    with open_checkpoint(path, bare=True) as checkpoint:
        return as_tensor(checkpoint.read(_chosen(list(checkpoint.tensors), path)))


def _chosen(names: list[str], path: Path) -> str:
    if len(names) == 1:
        return names[0]
    for name in _NAMES:
        if name in names:
            return name
    raise ConfigError(
        f"{path} holds {len(names)} tensors ({', '.join(names[:5])}); expected one, or one called "
        f"{' or '.join(_NAMES)}"
    )


def _read_numpy(path: Path) -> Tensor:
    try:
        array = np.load(path, allow_pickle=False)
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    except (OSError, ValueError, TypeError, MemoryError) as error:
        raise ConfigError(f"{path} cannot be read as a .npy file: {error}") from error
