"""Decoding where memory is short: in pieces first, and smaller probes where that is not enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from inflate.config.schema import Architecture
from inflate.errors import DeviceError
from inflate.io.free_memory import free_memory
from inflate.parity.comparands import Comparands, Decode
from inflate.parity.probes import Probe

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
    return free_memory()


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
    return probe.cropped(frames, height, width)


@dataclass
class Pieces:
    """How many frames are decoded at once, which shrinks as memory runs out, and what is told."""

    at_once: int | None = None
    told: list[str] = field(default_factory=list)

    def shrink(self, frames: int) -> bool:
        """Decode half as many frames at once; whether that could be."""
        before = frames if self.at_once is None else min(self.at_once, frames)
        self.at_once = max(1, before // 2)
        return before > 1

    def tell(self, text: str) -> None:
        """Tell something, once."""
        if text not in self.told:
            self.told.append(text)


def within_memory(
    probe: Probe, run: Callable[[Probe], R], pieces: Pieces, device: torch.device
) -> R:
    """Run a probe; where memory runs out, again in smaller pieces, then a smaller one, and tell so.

    Raises:
        torch.OutOfMemoryError: the least probe does not fit.
    """
    small, told, at_once = probe, list(pieces.told), pieces.at_once
    while True:
        try:
            result = run(small)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            following: Probe | None = small
            if not pieces.shrink(small.batch * small.frames):
                following, pieces.at_once = smaller_probe(small), at_once
            if following is None:
                raise
        else:
            if small is not probe:
                pieces.tell(_made_smaller(probe, small, f"{device} ran out of memory"))
            return result
        # Outside of the handler, whose traceback keeps the tensors of the failed run alive.
        small = following
        pieces.told = list(told)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def sparing(
    comparands: Comparands, pieces: Pieces, dtype: torch.dtype, available: int | None
) -> Comparands:
    """The same comparands, each decoding in pieces where memory is short, which is told.

    A video is never cut, since its frames meet; frames are where they are decoded one by one.

    Args:
        comparands: what a check runs.
        pieces: how many frames go at once.
        dtype: the type to compute in.
        available: bytes; None where it is not known.
    """
    architecture = comparands.architecture

    def at_once(z: Tensor) -> int:
        most = z.shape[0] if pieces.at_once is None else pieces.at_once
        if architecture is None or available is None:
            return most
        return min(most, available // frame_bytes(architecture, z.shape[2], z.shape[3], dtype))

    def spared(decode: Decode, what: str, *, framewise: bool) -> Decode:
        def decode_sparing(z: Tensor, frames: int) -> Tensor:
            unit = 1 if framewise else frames
            some = min(z.shape[0], max(unit, at_once(z) // unit * unit))
            images = decode_in_pieces(decode, z, frames, some, framewise=framewise)
            if some < z.shape[0]:
                pieces.tell(
                    f"for want of memory {what} decoded {some} of {z.shape[0]} frames at a time, "
                    "which may round otherwise"
                )
            return images

        return decode_sparing

    framewise, original, skip = comparands.framewise, comparands.original, comparands.skip_video
    return replace(
        comparands,
        reference=spared(comparands.reference, "the reference", framewise=framewise),
        candidate=spared(comparands.candidate, "the candidate", framewise=False),
        original=original and spared(original, "the unrounded reference", framewise=framewise),
        skip_video=skip and spared(skip, "the candidate's image layers", framewise=True),
    )


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
