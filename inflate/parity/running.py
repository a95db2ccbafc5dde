"""The probes run: both decoders on the same latents, watched layer by layer where asked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from inflate.parity.comparands import Comparands
from inflate.parity.lockstep import Lockstep
from inflate.parity.metrics import Tolerance
from inflate.parity.result import Picture, ProbeResult
from inflate.parity.statistics import judge

_PICTURES = 8
"""Frames that are kept to be looked at."""


@dataclass(frozen=True)
class Ran:
    """A probe that was run: what went in, what came out, and what was made of it."""

    z: Tensor
    frames: int
    expected: Tensor
    found: Tensor
    result: ProbeResult


def run_probe(
    comparands: Comparands,
    name: str,
    z: Tensor,
    frames: int,
    tolerance: Tolerance,
    lockstep: Lockstep | None = None,
) -> Ran:
    """Decode a probe on both sides and judge it.

    Args:
        comparands: the two ways to decode.
        name: the probe's.
        z: its latents, ``(B T) e h w``.
        frames: T.
        tolerance: what ``within-tolerance`` means.
        lockstep: told of every layer on the way.
    """
    with nullcontext() if lockstep is None else lockstep.reference(len(z)):
        expected = comparands.reference(z, frames)
    with nullcontext() if lockstep is None else lockstep.candidate(len(z)):
        found = comparands.candidate(z, frames)
    return _judged(name, z, frames, expected, found, tolerance)


def run_frames(comparands: Comparands, ran: Sequence[Ran], tolerance: Tolerance) -> list[Ran]:
    """Probe a permutation of the frames, and ``skip_video``, on latents that were decoded before.

    Decoding starts frame by frame: of frames in another order the candidate makes the reference's
    images in that order.
    """
    longest = max(ran, key=lambda one: one.frames)
    found = []
    if longest.frames > 1:
        order = _moved_on(len(longest.z), longest.frames)
        z, expected = longest.z[order], longest.expected[order]
        images = comparands.candidate(z, longest.frames)
        found.append(_judged("frame-permutation", z, longest.frames, expected, images, tolerance))
        if comparands.skip_video is not None:
            images = comparands.skip_video(longest.z, longest.frames)
            found.append(
                _judged(
                    "skip-video", longest.z, longest.frames, longest.expected, images, tolerance
                )
            )
    return found


def pictures_of(ran: Ran, sources: Tensor | None = None) -> tuple[Picture, ...]:
    """Frames of the first video of a probe, spread over its time, and what they were made of."""
    count = min(ran.frames, _PICTURES)
    chosen = torch.linspace(0, ran.frames - 1, count).round().int().tolist()
    return tuple(
        Picture(
            ran.result.name,
            t,
            None if sources is None else sources[t],
            ran.expected[t].float().cpu(),
            ran.found[t].float().cpu(),
        )
        for t in chosen
    )


def _judged(
    name: str, z: Tensor, frames: int, expected: Tensor, found: Tensor, tolerance: Tolerance
) -> Ran:
    result = judge(name, z, frames, (expected, found), tolerance)
    return Ran(z, frames, expected, found, result)


def _moved_on(batch: int, frames: int) -> Tensor:
    """An order of the frames in which every one has moved, within its video."""
    return torch.arange(batch).reshape(-1, frames).roll(1, dims=1).flatten()
