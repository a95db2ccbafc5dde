"""Running both decoders: layers in lockstep, the noise floor, and pieces where memory is short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inflate
from inflate.config.schema import Architecture
from inflate.errors import DeviceError
from inflate.models import Decoder, VideoDecoder
from inflate.parity import lockstep as module
from inflate.parity import verify
from inflate.parity.floor import measure_floor
from inflate.parity.lockstep import Lockstep, spatial_layers
from inflate.parity.memory import (
    frame_bytes,
    is_out_of_memory,
    memory_errors,
    smaller_probe,
)
from inflate.parity.metrics import Tolerance
from inflate.parity.pair import Decode, DecoderPair, LatentDecoder, Modules
from inflate.parity.probes import GivenProbe, Probe
from inflate.parity.result import FloorResult, ParityReport, WeightsResult
from inflate.parity.running import ProbeRun
from inflate.parity.verify import run_check

from ..checkpoints import ATTENTION_IN_UP, DDCONFIG
from ..conversions import CPU
from ..models.builders import noise
from .damage import pair_of, sound_pair

CONFIG: dict[str, Any] = {**DDCONFIG, **ATTENTION_IN_UP, "time_mode": "all", "alpha": 0.3}


def lockstep_of(image: Decoder, video: VideoDecoder) -> Lockstep:
    reference, candidate = LatentDecoder(image), LatentDecoder(video)
    modules = Modules(reference, candidate, lambda _: reference)
    return Lockstep(modules, Tolerance(1e-5, 1e-5))


def hooks_of(*decoders: nn.Module) -> int:
    return sum(len(m._forward_hooks) for decoder in decoders for m in decoder.modules())


def run(image: Decoder, video: VideoDecoder, lockstep: Lockstep, z: Tensor, size: int = 4) -> None:
    """Decode videos of two frames, ``size`` frames at a time."""
    with torch.inference_mode():
        with lockstep.reference():
            for piece in torch.split(z, size):
                image(piece)
        with lockstep.candidate():
            for piece in torch.split(z, size):
                video(piece, timesteps=2)


def test_every_layer_with_weights_is_compared_in_the_order_in_which_it_runs() -> None:
    image, video = sound_pair(**CONFIG)
    lockstep = lockstep_of(image, video)
    run(image, video, lockstep, noise(4, 4, 3, 3))
    names = [layer.name for layer in lockstep.layers]
    weights = {f"decoder.{key.rpartition('.')[0]}" for key in image.state_dict()}
    assert weights < set(names)
    blocks = set(names) - weights
    kinds = {layer.kind for layer in lockstep.layers if layer.name in blocks}
    assert kinds == {"ResnetBlock", "AttnBlock"}
    assert names[0] == "decoder.conv_in"
    assert names[-2:] == ["decoder.norm_out", "decoder.conv_out"]
    assert names.index("decoder.mid.block_1.conv2") < names.index("decoder.mid.block_1")
    assert names.index("decoder.mid.attn_1.proj_out") + 1 == names.index("decoder.mid.attn_1")
    assert names.index("decoder.up.1.block.0.norm1") < names.index("decoder.up.0.block.0.norm1")
    assert hooks_of(image, video) == 0
    assert list(spatial_layers(video)) == list(spatial_layers(image))


def test_decoding_in_pieces_compares_the_right_rows() -> None:
    image, video = sound_pair(**CONFIG)
    lockstep = lockstep_of(image, video)
    z = noise(4, 4, 3, 3)
    run(image, video, lockstep, z, size=2)
    assert len(lockstep.layers) == len(spatial_layers(image))
    assert {layer.verdict for layer in lockstep.layers} == {"bitwise"}
    video.state_dict()["conv_in.bias"] += 1
    run(image, video, lockstep, z, size=2)
    assert lockstep.culprit() == "decoder.conv_in"


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_a_probe_that_an_exception_ends_is_left_out(side: str) -> None:
    image, video = sound_pair(**CONFIG)
    lockstep = lockstep_of(image, video)
    z = noise(4, 4, 3, 3)
    broken = {"reference": image.up[0], "candidate": video.up[0]}[side]
    calls = []

    def fail(_module: nn.Module, _args: Any) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise MemoryError

    handle = broken.block[0].register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        run(image, video, lockstep, z, size=2)
    handle.remove()
    assert lockstep.layers == ()
    assert hooks_of(image, video) == 0
    run(image, video, lockstep, z[:2])
    assert {layer.verdict for layer in lockstep.layers} == {"bitwise"}


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    image, video = sound_pair(**CONFIG)
    monkeypatch.setattr(module, "_KEPT_BYTES", 2 * 64 * 9 * 4)  # The output of conv_in alone.
    lockstep = lockstep_of(image, video)
    run(image, video, lockstep, noise(2, 4, 3, 3))
    assert [layer.name for layer in lockstep.layers] == ["decoder.conv_in"]


def batched(z: Tensor, frames: int) -> Tensor:
    """A decoder whose result depends on the size of its batch."""
    return z + 0.25 * (len(z) - 1)


def run_of(z: Tensor) -> ProbeRun:
    return ProbeRun.judged("p", z, len(z), (z, z), Tolerance(0, 0))


@pytest.mark.parametrize(
    ("decode", "error", "floor"),
    [
        (batched, 0.5, FloorResult(0.5, None, 1.0)),
        (batched, 0.25, FloorResult(0.5, None, 0.5)),
        (batched, 0.0, FloorResult(0.5, None, 0.0)),
        (batched, None, FloorResult(0.5, None, None)),
        (lambda z, _: z, 0.5, FloorResult(0.0, None, None)),
    ],
)
def test_another_batch_layout(decode: Decode, error: float | None, floor: FloorResult) -> None:
    pair = DecoderPair(decode, decode, 3, WeightsResult(0, ()))
    runs = [run_of(torch.zeros(frames, 3, 2, 2)) for frames in (1, 3)]
    assert measure_floor(pair, runs, error) == floor


def test_against_float64() -> None:
    image, video = sound_pair(**DDCONFIG)
    z = noise(2, 4, 3, 3)
    with torch.inference_mode():
        found = measure_floor(pair_of(image, video), [run_of(z), run_of(z[:1])], 1.0)
        single = image(z[:1])
        exact = image.double()(z[:1].double())
    assert found.float64 == (single.double() - exact).abs().max().item()
    assert 0 < found.float64 < 1e-4
    assert found.multiple == 1.0 / max(found.float64, found.batch_layout or 0.0)


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
    reference: Decode, candidate: Decode, probe: Probe, architecture: Architecture | None = None
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


def test_a_real_check_in_pieces_compares_layers_too(
    image: Path, videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "available_bytes", lambda _device: 300_000)
    report = inflate.verify(image, videos["all"], **CPU)
    assert report.passed
    assert len(report.notes) >= 1
    assert {layer.verdict for layer in report.layers} <= {"bitwise", "within-tolerance"}
    assert report.layers
