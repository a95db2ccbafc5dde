"""Decoding where memory is short: fewer videos at a time, then smaller probes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import inflate
from inflate.config.schema import Architecture
from inflate.errors import DeviceError
from inflate.models import Decoder
from inflate.parity import memory, verify
from inflate.parity.memory import (
    available_bytes,
    frame_bytes,
    is_out_of_memory,
    memory_errors,
    smaller_probe,
)
from inflate.parity.metrics import Tolerance
from inflate.parity.pair import Decode, DecoderPair
from inflate.parity.probes import GivenProbe, Probe
from inflate.parity.result import ParityReport, WeightsResult
from inflate.parity.verify import run_check

from ..conversions import CPU

DEVICE = torch.device("cpu")
ARCHITECTURE = Architecture(ch=32, ch_mult=(1, 2), num_res_blocks=1, z_channels=4)
CPU_MESSAGE = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you"
every_error = pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError(CPU_MESSAGE)],
)


class Doubling:
    """Doubles latents, and runs out of memory above a number of latent pixels."""

    def __init__(self, most: int, error: Exception | None = None) -> None:
        self.most = most
        self.error = error or MemoryError()
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, z: Tensor, frames: int) -> Tensor:
        """Latents to images."""
        self.shapes.append((*z.shape, frames))
        if z.shape[0] * z.shape[2] * z.shape[3] > self.most:
            raise self.error
        return 2 * z


def checked(
    reference: Decode,
    candidate: Decode,
    probe: Probe,
    architecture: Architecture | None = None,
) -> ParityReport:
    weights = WeightsResult(0, ())
    return run_check(
        DecoderPair(reference, candidate, 4, weights, architecture=architecture),
        reference=("r", "0"),
        candidate=("c", "1"),
        dtype=torch.float32,
        device=DEVICE,
        tolerance=Tolerance(0, 0),
        probes=[probe],
    )


@every_error
def test_fewer_videos_are_decoded_at_a_time(error: Exception) -> None:
    probe = Probe("clips", batch=4, frames=3, height=4, width=4)
    reference, candidate = Doubling(1000, error), Doubling(6 * 16, error)
    report = checked(reference, candidate, probe)
    assert (report.verdict, report.probes[0].shape) == ("bitwise", (12, 4, 4, 4))
    # Whole videos, whose frames meet.
    assert candidate.shapes[-2:] == [(6, 4, 4, 4, 3)] * 2
    assert len(report.notes) == 1


def test_with_enough_memory_nothing_is_cut() -> None:
    probe = Probe("clips", batch=2, frames=3, height=4, width=4)
    both = Doubling(1000)
    assert checked(both, both, probe, ARCHITECTURE).notes == ()
    assert both.shapes == [(6, 4, 4, 4, 3)] * 2


def test_a_video_that_does_not_fit_is_made_smaller() -> None:
    report = checked(Doubling(1000), Doubling(70), Probe("clip", 1, 5, 8, 6))
    assert report.verdict == "bitwise"
    assert report.probes[0].shape == (5, 4, 4, 3)
    assert len(report.notes) == 1


def test_a_probe_that_does_not_fit_at_its_smallest_is_an_error() -> None:
    both = Doubling(0)
    with pytest.raises(DeviceError):
        checked(both, both, Probe("clip", batch=1, frames=5, height=8, width=8))
    assert both.shapes[-1] == (3, 4, 2, 2, 3)


def test_other_errors_pass_unchanged() -> None:
    def decode(z: Tensor, frames: int) -> Tensor:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        checked(decode, decode, Probe("clip", batch=2, frames=2, height=8, width=8))


@every_error
def test_errors_of_memory(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(KeyError("CUDA out of memory"))
    for device, advice in (("cuda:0", True), ("cpu", False)):
        with pytest.raises(DeviceError) as caught, memory_errors(torch.device(device), "it ran"):
            raise error
        assert ("--device cpu" in str(caught.value)) == advice


def test_a_probe_becomes_smaller_step_by_step() -> None:
    shapes = []
    probe: Probe | None = Probe("clip", batch=2, frames=9, height=5, width=8)
    while probe is not None:
        shapes.append((probe.batch, probe.frames, probe.height, probe.width))
        probe = smaller_probe(probe)
    assert shapes == [(2, 9, 5, 8), (2, 9, 5, 4), (2, 9, 3, 4), (2, 9, 3, 2), (2, 9, 2, 2),
                      (2, 4, 2, 2), (2, 3, 2, 2)]  # fmt: skip


def test_given_latents_are_cropped_with_their_images() -> None:
    z = torch.arange(2 * 4 * 1 * 4 * 6.0).reshape(8, 1, 4, 6)
    images = z.repeat_interleave(2, 2).repeat_interleave(2, 3).expand(-1, 3, -1, -1)
    probe = GivenProbe.of("video", z, 4, images)
    small = smaller_probe(probe)
    assert isinstance(small, GivenProbe)
    assert (small.batch, small.frames, small.height, small.width) == (2, 4, 4, 3)
    assert torch.equal(small.latents(1, 0), z[..., :3])
    assert small.sources is not None
    assert torch.equal(small.sources, images[..., :6])
    fewer = probe.cropped(3, 2, 2)
    assert torch.equal(fewer.z, torch.cat([z[:3, :, :2, :2], z[4:7, :, :2, :2]]))


@pytest.mark.parametrize(
    ("frames_that_fit", "shapes"),
    [(3, [(2, 4, 4, 4, 2)] * 4), (9, [(8, 4, 4, 4, 2)]), (1.6, [(2, 4, 4, 2, 2)] * 4)],
)
def test_the_estimate_cuts_before_memory_runs_out(
    monkeypatch: pytest.MonkeyPatch, frames_that_fit: float, shapes: list[tuple[int, ...]]
) -> None:
    free = frames_that_fit * frame_bytes(ARCHITECTURE, 4, 4, torch.float32)
    monkeypatch.setattr(verify, "available_bytes", lambda _device: free)
    both = Doubling(1000)
    report = checked(both, both, Probe("clips", batch=4, frames=2, height=4, width=4), ARCHITECTURE)
    assert both.shapes[: len(shapes)] == shapes
    assert bool(report.notes) == (frames_that_fit < 8)


def test_the_estimate_grows_with_what_is_decoded() -> None:
    def size(height: int, width: int, dtype: torch.dtype = torch.float32, **kw: object) -> int:
        shape = {"ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "z_channels": 4, **kw}
        return frame_bytes(Architecture(**shape), height, width, dtype)  # type: ignore[arg-type]

    assert size(8, 8) < size(8, 16) < size(16, 16)
    assert size(8, 8, torch.float16) * 2 == size(8, 8)
    assert size(8, 8) < size(8, 8, ch=64)
    assert size(8, 8) < size(8, 8, ch_mult=(1, 4))
    assert size(8, 8, attn_type="none") < size(8, 8)


def test_available_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 600_000)
    assert available_bytes(DEVICE) == 600_000
    assert available_bytes(torch.device("mps")) == math.inf


def test_a_real_check_in_pieces_compares_layers_too(
    image: Path, videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "available_bytes", lambda _device: 300_000)
    report = inflate.verify(image, videos["all"], **CPU)
    assert report.passed
    assert len(report.notes) >= 1
    assert {layer.verdict for layer in report.layers} <= {"bitwise", "within-tolerance"}
    assert report.layers


def test_layers_before_memory_ran_out_are_not_compared(
    image: Path, videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = []
    forward = Decoder.forward

    def short(self: Decoder, z: Tensor) -> Tensor:
        images = forward(self, z)
        if z.shape[0] > 3 and z.dtype == torch.float32:
            failures.append(1)
            raise MemoryError
        return images

    monkeypatch.setattr(Decoder, "forward", short)
    report = inflate.verify(image, videos["all"], **CPU)
    assert failures
    assert report.passed
    assert report.layers
    assert report.notes
