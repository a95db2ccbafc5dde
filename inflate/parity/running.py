"""Run probes through both decoders."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from inflate.parity.lockstep import Lockstep
from inflate.parity.metrics import Tolerance, judge
from inflate.parity.pair import DecoderPair
from inflate.parity.result import Picture, ProbeResult

_PICTURES = 8
"""Frames of a probe that are kept for the report."""


@dataclass(frozen=True)
class ProbeRun:
    """A probe that was run: its latents, the images of both sides, and the result."""

    z: Tensor
    frames: int
    expected: Tensor
    found: Tensor
    result: ProbeResult

    @classmethod
    def judged(
        cls, name: str, z: Tensor, frames: int, images: tuple[Tensor, Tensor], tolerance: Tolerance
    ) -> ProbeRun:
        """A run whose images, of reference and candidate, are judged now."""
        return cls(z, frames, *images, judge(name, z, frames, images, tolerance))


def run_probe(
    pair: DecoderPair,
    name: str,
    z: Tensor,
    frames: int,
    tolerance: Tolerance,
    lockstep: Lockstep | None = None,
) -> ProbeRun:
    """Decode a probe on both sides and judge it.

    Args:
        pair: the two ways to decode.
        name: the probe's.
        z: its latents, ``(B T) e h w``.
        frames: T.
        tolerance: what ``within-tolerance`` means.
        lockstep: compares every layer on the way.
    """
    with nullcontext() if lockstep is None else lockstep.reference():
        expected = pair.reference(z, frames)
    with nullcontext() if lockstep is None else lockstep.candidate():
        found = pair.candidate(z, frames)
    return ProbeRun.judged(name, z, frames, (expected, found), tolerance)


def run_frames(pair: DecoderPair, runs: Sequence[ProbeRun], tolerance: Tolerance) -> list[ProbeRun]:
    """Probe a permutation of the frames, and ``skip_video``, on the longest probe.

    Before training each frame is decoded by itself: if frames change places, their images do.
    """
    longest = max(runs, key=lambda run: run.frames)
    z, frames, expected = longest.z, longest.frames, longest.expected
    if frames == 1:
        return []
    # Every frame moves, within its video.
    order = torch.arange(len(z)).reshape(-1, frames).roll(1, dims=1).flatten()
    images = (expected[order], pair.candidate(z[order], frames))
    found = [ProbeRun.judged("frame-permutation", z[order], frames, images, tolerance)]
    if pair.skip_video is not None:
        images = (expected, pair.skip_video(z, frames))
        found.append(ProbeRun.judged("skip-video", z, frames, images, tolerance))
    return found


def pictures_of(run: ProbeRun, sources: Tensor | None = None) -> tuple[Picture, ...]:
    """Frames of the first video of a probe, spread over its time, and the encoded images."""
    count = min(run.frames, _PICTURES)
    chosen = torch.linspace(0, run.frames - 1, count).round().int().tolist()
    return tuple(
        Picture(
            run.result.name,
            t,
            None if sources is None else sources[t],
            run.expected[t].float().cpu(),
            run.found[t].float().cpu(),
        )
        for t in chosen
    )
