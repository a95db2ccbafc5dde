"""Decoding within the free memory: smaller probes where it is short."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from inflate.config.schema import Architecture
from inflate.errors import DeviceError
from inflate.io.free_memory import free_memory
from inflate.parity.metrics import ProbeRun
from inflate.parity.probes import Probe

_LEAST_SIDE, _LEAST_FRAMES = 2, 3
"""The smallest that a probe is made: with less, no border or middle frame would be left."""

_COPIES = 8
"""Tensors of the widest layer that exist at once: input, norm, output, and layouts of kernels."""

_MESSAGES = ("DefaultCPUAllocator: can't allocate memory", "MPS backend out of memory")
"""How torch reports that memory is out where it has no exception for it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that a device ran out of memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


@contextmanager
def memory_errors(device: torch.device, doing: str) -> Iterator[None]:
    """Raise a device's lack of memory as an error that the user can fix.

    Raises:
        DeviceError: the device ran out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        advice = "" if device.type == "cpu" else ", or choose --device cpu"
        raise DeviceError(f"{device} ran out of memory while {doing}; free some{advice}") from error


def available_bytes(device: torch.device) -> float:
    """Bytes that a device has free; infinite if that is unknown."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + cached)
    free = free_memory() if device.type == "cpu" else None
    return math.inf if free is None else float(free)


def estimated_bytes(architecture: Architecture | None, dtype: torch.dtype, probe: Probe) -> int:
    """Estimate the bytes that decoding a probe takes; 0 without an architecture.

    The widest layer is the first at full size, which still has the channels of the level before
    it; attention in the middle compares every latent pixel with every other.
    """
    if architecture is None:
        return 0
    pixels = probe.height * probe.width
    widest = max(architecture.level_channels[:2]) * pixels * architecture.downsampling**2
    attention = 0 if architecture.attn_type == "none" else pixels**2
    return probe.batch * probe.frames * (_COPIES * widest + attention) * dtype.itemsize


def smaller_probe(probe: Probe) -> Probe | None:
    """Half the videos, else half the longer side, else fewer frames; None for the smallest."""
    videos, frames, height, width = probe.batch, probe.frames, probe.height, probe.width
    if videos > 1:
        videos //= 2
    elif max(height, width) > _LEAST_SIDE:
        # Rounded up, so that a frame that was not square does not become so at once.
        height, width = ((height + 1) // 2, width) if height > width else (height, (width + 1) // 2)
    elif frames > _LEAST_FRAMES:
        frames = max(_LEAST_FRAMES, frames // 2)
    else:
        return None
    return probe.cropped(videos, frames, height, width)


def run_smaller(
    probe: Probe, run: Callable[[Probe], ProbeRun], fits: Callable[[Probe], bool]
) -> ProbeRun:
    """Run a probe, made smaller until it fits into the memory.

    Raises:
        torch.OutOfMemoryError: even the smallest does not fit.
    """
    smaller = smaller_probe(probe)
    if smaller is None or fits(probe):
        try:
            return run(probe)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or smaller is None:
                raise
    # Outside of the handler, whose traceback keeps the tensors of the failed run alive.
    torch.cuda.empty_cache()
    return run_smaller(smaller, run, fits)
