"""Decoding within the free memory: fewer videos at a time, then smaller probes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from inflate.config.schema import Architecture
from inflate.errors import DeviceError
from inflate.io.free_memory import free_memory
from inflate.parity.pair import Decode, DecoderPair
from inflate.parity.probes import Probe

R = TypeVar("R")

LEAST_SIDE, LEAST_FRAMES = 2, 3
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


def frame_bytes(
    architecture: Architecture | None, height: int, width: int, dtype: torch.dtype
) -> int:
    """Estimate the bytes that decoding one frame of ``height x width`` latent pixels takes.

    The widest layer is the first at full size, which still has the channels of the level before
    it; attention in the middle compares every latent pixel with every other. Without an
    architecture the result is only relative.
    """
    pixels = height * width
    if architecture is None:
        return pixels * dtype.itemsize
    widest = max(architecture.level_channels[:2]) * pixels * architecture.downsampling**2
    attention = 0 if architecture.attn_type == "none" else pixels**2
    return (_COPIES * widest + attention) * dtype.itemsize


def smaller_probe(probe: Probe) -> Probe | None:
    """A probe with half the longer side, or else fewer frames; None if it is the smallest."""
    height, width, frames = probe.height, probe.width, probe.frames
    if max(height, width) > LEAST_SIDE:
        # Rounded up, so that a frame that was not square does not become so at once.
        height, width = ((height + 1) // 2, width) if height > width else (height, (width + 1) // 2)
    elif frames > LEAST_FRAMES:
        frames = max(LEAST_FRAMES, frames // 2)
    else:
        return None
    return probe.cropped(frames, height, width)


class MemoryBudget:
    """The memory that decoding may take by estimate; halved each time it proves too much.

    Args:
        architecture: of the decoders; None if unknown.
        dtype: the type to compute in.
        available: bytes.
    """

    def __init__(
        self, architecture: Architecture | None, dtype: torch.dtype, available: float
    ) -> None:
        self._architecture, self._dtype = architecture, dtype
        self._bytes = available if architecture is not None else math.inf
        self.notes: list[str] = []

    def run(self, probe: Probe, decode: Callable[[Probe], R], device: torch.device) -> R:
        """Run a probe, made smaller until one of its videos fits.

        Raises:
            torch.OutOfMemoryError: even the smallest does not fit.
        """
        before = len(self.notes)
        while True:
            small = self._fitted(probe)
            try:
                result = decode(small)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not self._halve(small):
                    raise
            else:
                if small is not probe:
                    self._note(
                        f"memory is short: probe {probe.name} was made smaller, {_shape(small)} "
                        f"instead of {_shape(probe)}"
                    )
                return result
            # Outside of the handler, whose traceback keeps the tensors of the failed run alive.
            del self.notes[before:]
            if device.type == "cuda":
                torch.cuda.empty_cache()

    def limited(self, pair: DecoderPair) -> DecoderPair:
        """The same pair, which decodes only as many videos at a time as fit.

        Frames of a video stay together, since temporal layers mix them.
        """
        skip, original = pair.skip_video, pair.original
        return replace(
            pair,
            reference=self._limited(pair.reference),
            candidate=self._limited(pair.candidate),
            original=original and self._limited(original),
            skip_video=skip and self._limited(skip),
        )

    def _limited(self, decode: Decode) -> Decode:
        def decode_limited(z: Tensor, frames: int) -> Tensor:
            videos = len(z) // frames
            one = frames * frame_bytes(self._architecture, z.shape[2], z.shape[3], self._dtype)
            some = max(1, int(min(videos, self._bytes // one)))
            if some >= videos:
                return decode(z, frames)
            self._note(
                f"memory is short: {some} of {videos} videos were decoded at a time, which may "
                "change rounding"
            )
            return torch.cat([decode(piece, frames) for piece in torch.split(z, some * frames)])

        return decode_limited

    def _fitted(self, probe: Probe) -> Probe:
        small = probe
        while self._bytes < self._one_video(small) and (smaller := smaller_probe(small)):
            small = smaller
        return small

    def _halve(self, tried: Probe) -> bool:
        """Halve the budget after a probe that did not fit; false if nothing smaller is left."""
        if self._bytes < self._one_video(tried):
            return False
        self._bytes = min(self._bytes, tried.batch * self._one_video(tried)) / 2
        return True

    def _one_video(self, probe: Probe) -> int:
        one = frame_bytes(self._architecture, probe.height, probe.width, self._dtype)
        return probe.frames * one

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _shape(probe: Probe) -> str:
    return f"{probe.frames} frames of {probe.height} x {probe.width} latent pixels"
