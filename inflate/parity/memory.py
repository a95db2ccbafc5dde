"""Work that may not fit into memory: how large it is, how much there is, and what to do then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from inflate.errors import DeviceError

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
