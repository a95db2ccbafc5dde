"""Decoding where memory is short: what is cut up, what is made smaller, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import inflate
from inflate.config.schema import Architecture
from inflate.errors import DeviceError
from inflate.models import Decoder as Decoder2D
from inflate.parity import memory
from inflate.parity.comparands import Comparands
from inflate.parity.given import GivenProbe
from inflate.parity.memory import (
    Pieces,
    available_bytes,
    decode_in_pieces,
    fitting,
    frame_bytes,
    is_out_of_memory,
    saying_memory,
    smaller_probe,
    within_memory,
)
from inflate.parity.metrics import Tolerance
from inflate.parity.probes import LARGE_PROBES, Probe
from inflate.parity.result import ParityReport, WeightsResult
from inflate.parity.verify import run_check

from ..conversions import CPU

DEVICE = torch.device("cpu")
ARCHITECTURE = Architecture(ch=32, ch_mult=(1, 2), num_res_blocks=1, z_channels=4)
CPU_SAYS = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you"


def full(error: type[Exception] = torch.OutOfMemoryError) -> Exception:
    return error(CPU_SAYS if error is RuntimeError else "CUDA out of memory. Tried to allocate")


class Decoder:
    """Doubles latents, and runs out of memory above a number of latent pixels."""

    def __init__(self, most: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        self.most = most
        self.error = error
        self.shapes: list[tuple[tuple[int, ...], int]] = []

    def __call__(self, z: Tensor, frames: int) -> Tensor:
        """Latents to images."""
        self.shapes.append((tuple(z.shape), frames))
        if z.shape[0] * z.shape[2] * z.shape[3] > self.most:
            raise full(self.error)
        return 2 * z


def checked(
    reference: Callable[[Tensor, int], Tensor],
    candidate: Callable[[Tensor, int], Tensor],
    *probes: Probe,
    framewise: bool = True,
    architecture: Architecture | None = None,
) -> ParityReport:
    return run_check(
        Comparands(
            reference,
            candidate,
            None,
            4,
            WeightsResult(0, ()),
            None,
            (),
            architecture=architecture,
            framewise=framewise,
        ),
        reference=("r", "0"),
        candidate=("c", "1"),
        dtype=torch.float32,
        device=DEVICE,
        tolerance=Tolerance(0, 0),
        probes=probes,
    )


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_pieces_are_whole_videos_or_single_frames(error: type[Exception]) -> None:
    probe = Probe("clips", batch=4, frames=3, height=4, width=4)
    reference, candidate = Decoder(16, error), Decoder(6 * 16, error)
    report = checked(reference, candidate, probe)
    assert (report.verdict, report.probes[0].shape) == ("bitwise", (12, 4, 4, 4))
    assert reference.shapes[-12:] == [((1, 4, 4, 4), 1)] * 12
    assert candidate.shapes[-4:] == [((3, 4, 4, 4), 3)] * 4
    assert [note.partition(", ")[0] for note in report.notes] == [
        "for want of memory the reference decoded 1 of 12 frames at a time",
        "for want of memory the candidate decoded 3 of 12 frames at a time",
    ]


def test_where_memory_is_not_short_nothing_is_cut() -> None:
    probe = Probe("clips", batch=2, frames=3, height=4, width=4)
    reference, candidate = Decoder(1000), Decoder(1000)
    assert checked(reference, candidate, probe, architecture=ARCHITECTURE).notes == ()
    assert reference.shapes == candidate.shapes == [((6, 4, 4, 4), 3)]


def test_the_frames_of_a_video_stay_together() -> None:
    z = torch.randn(6, 4, 2, 2)
    seen = []

    def decode(piece: Tensor, frames: int) -> Tensor:
        seen.append((piece.shape[0], frames))
        # A video decoder: every frame knows of all of its video.
        clips = piece.reshape(-1, frames, *piece.shape[1:])
        return (clips + clips.mean(dim=1, keepdim=True)).flatten(0, 1)

    whole = decode(z, 3)
    assert torch.equal(decode_in_pieces(decode, z, 3, 3, framewise=False), whole)
    assert seen == [(6, 3), (3, 3), (3, 3)]
    with pytest.raises(AssertionError):
        decode_in_pieces(decode, z, 3, 2, framewise=False)


def test_a_probe_that_does_not_fit_in_pieces_is_made_smaller_and_told() -> None:
    probe = Probe("clip", batch=1, frames=5, height=8, width=6)
    report = checked(Decoder(1000), Decoder(70), probe)
    assert report.verdict == "bitwise"
    assert report.probes[0].shape == (5, 4, 4, 3)
    assert report.notes == (
        "cpu ran out of memory: the probe clip was made smaller, 5 frames of 4 x 3 latent pixels "
        "of 5 frames of 8 x 6 latent pixels",
    )


def test_the_least_probe_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(DeviceError, match="cpu ran out of memory while parity was checked; free"):
        checked(Decoder(0), Decoder(0), Probe("clip", batch=1, frames=5, height=8, width=8))


def test_other_errors_stay_what_they_are() -> None:
    def decode(z: Tensor, frames: int) -> Tensor:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        checked(decode, decode, Probe("clip", batch=2, frames=2, height=8, width=8))
    with pytest.raises(RuntimeError, match="a bug"), saying_memory(DEVICE, "nothing was done"):
        raise RuntimeError("a bug")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_what_says_that_memory_is_out(error: type[Exception]) -> None:
    assert is_out_of_memory(full(error))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(KeyError("CUDA out of memory"))
    said = "cuda:0 ran out of memory while it ran; free some, or choose --device cpu"
    with pytest.raises(DeviceError, match=said), saying_memory(torch.device("cuda:0"), "it ran"):
        raise full(error)


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


def test_probes_are_fitted_by_estimate_beforehand() -> None:
    one = frame_bytes(ARCHITECTURE, 32, 24, torch.float32)
    probes, notes = fitting(LARGE_PROBES, ARCHITECTURE, torch.float32, 3 * one)
    sizes = {p.name: (p.batch, p.frames, p.height, p.width) for p in probes}
    assert sizes == {
        "single-frame": (1, 1, 32, 32),
        "two-videos": (2, 2, 32, 24),
        "odd-frames": (1, 5, 24, 20),
    }
    (note,) = notes
    assert "GB are free: the probe odd-frames was made smaller, 5 frames of 24 x 20" in note
    for available in (None, 10**15):
        kept = fitting(LARGE_PROBES, ARCHITECTURE, torch.float32, available)
        assert kept == (tuple(LARGE_PROBES), ())
    assert fitting(LARGE_PROBES, None, torch.float32, 1) == (tuple(LARGE_PROBES), ())


def test_the_estimate_cuts_before_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    one = frame_bytes(ARCHITECTURE, 4, 4, torch.float32)
    monkeypatch.setattr("inflate.parity.verify.available_bytes", lambda _device: 3 * one)
    reference, candidate = Decoder(1000), Decoder(1000)
    probe = Probe("clips", batch=4, frames=2, height=4, width=4)
    report = checked(reference, candidate, probe, architecture=ARCHITECTURE)
    assert candidate.shapes == [((2, 4, 4, 4), 2)] * 4
    assert [shape[0] for shape, _ in reference.shapes] == [3, 3, 2]
    assert len(report.notes) == 2


def test_the_estimate_grows_with_what_is_decoded() -> None:
    def size(height: int, width: int, dtype: torch.dtype = torch.float32, **kw: object) -> int:
        shape = {"ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "z_channels": 4, **kw}
        return frame_bytes(Architecture(**shape), height, width, dtype)  # type: ignore[arg-type]

    assert size(8, 8) < size(8, 16) < size(16, 16)
    assert size(8, 8, torch.float16) * 2 == size(8, 8)
    assert size(8, 8) < size(8, 8, ch=64)
    assert size(8, 8) < size(8, 8, ch_mult=(1, 4))
    assert size(8, 8, attn_type="none") < size(8, 8)


def test_the_memory_of_a_cpu_is_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 600_000)
    assert available_bytes(DEVICE) == 600_000
    assert available_bytes(torch.device("mps")) is None


def test_a_run_that_fits_is_run_once() -> None:
    pieces = Pieces()
    probe = Probe("clip", batch=1, frames=1, height=8, width=8)
    seen: list[Probe] = []
    within_memory(probe, seen.append, pieces, DEVICE)
    assert (seen, pieces.told, pieces.at_once) == ([probe], [], None)


def test_a_real_check_in_pieces_passes(
    image: Path, videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inflate.parity.verify.available_bytes", lambda _device: 300_000)
    report = inflate.verify(image, videos["all"], **CPU)
    assert report.passed
    assert any("for want of memory" in note for note in report.notes)
    assert report.layers, "pieces are compared layer by layer too"
    assert {layer.verdict for layer in report.layers} <= {"bitwise", "within-tolerance"}
    assert [probe.name for probe in report.probes][:2] == ["single-frame", "two-videos"]


def test_memory_that_runs_out_half_way_leaves_nothing_behind(
    image: Path, videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # In lockstep, what the layers gave before memory ran out must not be taken for a second run's.
    failures = []
    forward = Decoder2D.forward

    def short(self: Decoder2D, z: Tensor) -> Tensor:
        images = forward(self, z)
        if z.shape[0] > 2 and z.dtype == torch.float32:
            failures.append(1)
            raise full()
        return images

    monkeypatch.setattr(Decoder2D, "forward", short)
    report = inflate.verify(image, videos["all"], **CPU)
    assert failures
    assert report.verdict in ("bitwise", "within-tolerance")
    assert report.layers
    assert any("the reference decoded 2 of 4 frames" in note for note in report.notes)
