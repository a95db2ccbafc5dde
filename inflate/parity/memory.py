"""Decoding where memory is short: in pieces first, and smaller probes where that is not enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from inflate.config.schema import Architecture
from inflate.errors import DeviceError
from inflate.parity.given import GivenProbe
from inflate.parity.probes import Probe

Decode = Callable[[Tensor, int], Tensor]
"""Latents ``(B T) e h w`` and ``T`` to images ``(B T) C H W``."""

R = TypeVar("R")

LEAST_SIDE, LEAST_FRAMES = 2, 3
"""How far a probe is made smaller: fewer pixels or frames would not tell a border from a centre."""

_COPIES = 8
"""Tensors of the widest layer that live at once: input, norm, output, and layouts of kernels."""

_SAYINGS = ("DefaultCPUAllocator: can't allocate memory", "MPS backend out of memory")
"""How torch says that memory is out where it has no exception of its own for it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the memory of a device is out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _SAYINGS)


@contextmanager
def saying_memory(device: torch.device, doing: str) -> Iterator[None]:
    """Say that a device ran out of memory, while this was done, as an error that can be mended.

    Raises:
        DeviceError: it did.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        advice = "" if device.type == "cpu" else ", or choose --device cpu"
        raise DeviceError(f"{device} ran out of memory while {doing}; free some{advice}") from error


def available_bytes(device: torch.device) -> int | None:
    """Bytes that a device has to give now; None where nobody tells."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + cached)
    if device.type != "cpu":
        return None
    limits = [_of_machine(), _of_group()]
    return min((limit for limit in limits if limit is not None), default=None)


def frame_bytes(architecture: Architecture, height: int, width: int, dtype: torch.dtype) -> int:
    """Bytes that decoding one frame of ``height x width`` latent pixels takes, estimated.

    The widest layer is the first at full size, which still has the channels of the level before
    it; attention in the middle compares every latent pixel with every other.
    """
    pixels = height * width
    widest = max(architecture.level_channels[:2]) * pixels * architecture.downsampling**2
    attention = 0 if architecture.attn_type == "none" else pixels**2
    return (_COPIES * widest + attention) * dtype.itemsize


def fitting(
    probes: Sequence[Probe],
    architecture: Architecture | None,
    dtype: torch.dtype,
    available: int | None,
) -> tuple[tuple[Probe, ...], tuple[str, ...]]:
    """Make probes smaller until one video of each fits into memory by estimate, and say so.

    Args:
        probes: what should be decoded.
        architecture: of the decoders; None where no estimate can be made.
        dtype: the type to compute in.
        available: bytes; None where it is not known.
    """
    if architecture is None or available is None:
        return tuple(probes), ()
    fitted, notes = [], []
    for probe in probes:
        small: Probe = probe
        while True:
            need = small.frames * frame_bytes(architecture, small.height, small.width, dtype)
            smaller = smaller_probe(small) if need > available else None
            if smaller is None:
                break
            small = smaller
        if small is not probe:
            notes.append(_made_smaller(probe, small, f"only {available / 1e9:.1f} GB are free"))
        fitted.append(small)
    return tuple(fitted), tuple(notes)


def smaller_probe(probe: Probe) -> Probe | None:
    """A probe with half the longer side, or else with fewer frames; None where it is the least."""
    height, width, frames = probe.height, probe.width, probe.frames
    if max(height, width) > LEAST_SIDE:
        # Rounded up, so that a frame that was not square does not become so at once.
        height, width = ((height + 1) // 2, width) if height > width else (height, (width + 1) // 2)
    elif frames > LEAST_FRAMES:
        frames = max(LEAST_FRAMES, frames // 2)
    else:
        return None
    if isinstance(probe, GivenProbe):
        return probe.cropped(frames, height, width)
    return replace(probe, frames=frames, height=height, width=width)


def within_memory(
    probe: Probe, run: Callable[[Probe], R], told: list[str], device: torch.device
) -> R:
    """Run a probe, or where memory runs out the next smaller one, and tell so.

    Raises:
        torch.OutOfMemoryError: the least probe does not fit.
    """
    small = probe
    while True:
        try:
            result = run(small)
        except (RuntimeError, MemoryError) as error:
            following = smaller_probe(small) if is_out_of_memory(error) else None
            if following is None:
                raise
        else:
            if small is not probe:
                told.append(_made_smaller(probe, small, f"{device} ran out of memory"))
            return result
        # Outside of the handler, whose traceback keeps the tensors of the failed run alive.
        small = following
        _give_back(device)


def sparing(
    decode: Decode,
    what: str,
    *,
    framewise: bool,
    told: list[str],
    room: Callable[[Tensor], int] | None = None,
) -> Decode:
    """A way to decode that goes in pieces where memory is short, and tells so once.

    A video is never cut, since its frames meet; frames are where they are decoded one by one.

    Args:
        decode: the way to decode.
        what: its name, for what is told.
        framewise: whether it decodes each frame for itself.
        told: what is told.
        room: how many frames of latents ``(B T) e h w`` fit at once by estimate; None for all.
    """

    def spared(z: Tensor, frames: int) -> Tensor:
        unit = 1 if framewise else frames
        fit = z.shape[0] if room is None else room(z)
        at_once = max(unit, min(z.shape[0], fit // unit * unit))
        while True:
            try:
                images = decode_in_pieces(decode, z, frames, at_once, framewise=framewise)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or at_once <= unit:
                    raise
            at_once = max(unit, at_once // unit // 2 * unit)
            _give_back(z.device)
        if at_once < z.shape[0]:
            text = f"for want of memory {what} decoded {at_once} of {z.shape[0]} frames at a time"
            if text not in told:
                told.append(text)
        return images

    return spared


def decode_in_pieces(
    decode: Decode, z: Tensor, frames: int, at_once: int, *, framewise: bool
) -> Tensor:
    """Decode ``(B T) e h w`` so many frames at once: whole videos, or any where ``framewise``."""
    if at_once >= z.shape[0]:
        return decode(z, frames)
    assert framewise or at_once % frames == 0, (at_once, frames)
    unit = 1 if framewise else frames
    return torch.cat([decode(piece, unit) for piece in torch.split(z, at_once)])


def _made_smaller(before: Probe, after: Probe, why: str) -> str:
    def text(probe: Probe) -> str:
        return f"{probe.frames} frames of {probe.height} x {probe.width} latent pixels"

    return f"{why}: the probe {before.name} was made smaller, {text(after)} of {text(before)}"


def _give_back(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _of_machine() -> int | None:
    """What Linux says that programs can still have."""
    lines = _lines("/proc/meminfo")
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(found[0][1]) * 1024 if found else None


def _of_group() -> int | None:
    """What the container leaves, where it sets a limit."""
    limit, used = (_lines(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if not limit or not used or not limit[0].isdigit():
        return None
    cached = [line.split() for line in _lines("/sys/fs/cgroup/memory.stat")]
    free = sum(int(size) for name, size in cached if name == "inactive_file")
    return int(limit[0]) - int(used[0]) + free


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except OSError:
        return []
