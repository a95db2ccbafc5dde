"""Running both decoders: layers in lockstep, the noise floor, and smaller probes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inflate.config.schema import Architecture
from inflate.errors import DeviceError
from inflate.models import Decoder, VideoDecoder
from inflate.parity import lockstep as module
from inflate.parity import verify
from inflate.parity.floor import measure_floor
from inflate.parity.lockstep import Lockstep, spatial_layers
from inflate.parity.metrics import ProbeRun, judge
from inflate.parity.pair import DecoderPair
from inflate.parity.probes import Probe
from inflate.parity.result import FloorResult, ParityReport, Tolerance, WeightsResult

from ..checkpoints import ATTENTION_IN_UP, DDCONFIG
from ..models.builders import noise
from . import damage
from .damage import pair_of, sound_pair

CONFIG: dict[str, Any] = {**DDCONFIG, **ATTENTION_IN_UP, "time_mode": "all", "alpha": 0.3}
Z = noise(4, 4, 3, 3)


def lockstep_of(image: Decoder, video: VideoDecoder) -> Lockstep:
    return Lockstep(pair_of(image, video), Tolerance(1e-5, 1e-5))


def run(lockstep: Lockstep) -> None:
    with torch.inference_mode():
        lockstep.decode(Z, 2)


def test_every_layer_with_weights_is_compared_in_the_order_in_which_it_runs() -> None:
    image, video = sound_pair(**CONFIG)
    lockstep = lockstep_of(image, video)
    run(lockstep)
    names = [layer.name for layer in lockstep.layers]
    weights = {f"decoder.{key.rpartition('.')[0]}" for key in image.state_dict()}
    assert weights < set(names)
    kinds = {layer.kind for layer in lockstep.layers if layer.name not in weights}
    assert kinds == {"ResnetBlock", "AttnBlock"}
    assert names[0] == "decoder.conv_in"
    assert names[-2:] == ["decoder.norm_out", "decoder.conv_out"]
    assert names.index("decoder.mid.block_1.conv2") < names.index("decoder.mid.block_1")
    assert names.index("decoder.mid.attn_1.proj_out") + 1 == names.index("decoder.mid.attn_1")
    assert list(spatial_layers(video)) == list(spatial_layers(image))
    assert not any(m._forward_hooks for both in (image, video) for m in both.modules())


@pytest.mark.parametrize("side", [0, 1])
def test_a_probe_that_an_exception_ends_is_left_out(side: int) -> None:
    pair = sound_pair(**CONFIG)
    lockstep = lockstep_of(*pair)

    def fail(_module: nn.Module, _args: Any) -> None:
        raise MemoryError

    with pair[side].conv_out.register_forward_pre_hook(fail), pytest.raises(MemoryError):
        run(lockstep)
    assert lockstep.layers == ()
    run(lockstep)
    assert {layer.verdict for layer in lockstep.layers} == {"bitwise"}


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = sound_pair(**CONFIG)
    monkeypatch.setattr(module, "_KEPT_BYTES", 4 * 64 * 9 * 4)  # The output of conv_in alone.
    lockstep = lockstep_of(*pair)
    run(lockstep)
    assert [layer.name for layer in lockstep.layers] == ["decoder.conv_in"]


def run_of(z: Tensor) -> ProbeRun:
    return judge(Probe.of("p", z, len(z)), z, (z, z), Tolerance(0, 0))


@pytest.mark.parametrize(
    ("rounding", "error", "floor"),
    [
        (0.25, 0.25, FloorResult(0.5, None, 0.5)),
        (0.25, None, FloorResult(0.5, None, None)),
        (0.0, 0.5, FloorResult(0.0, None, None)),
    ],
)
def test_another_batch_layout(rounding: float, error: float | None, floor: FloorResult) -> None:
    def decode(z: Tensor, _frames: int) -> Tensor:
        return z + rounding * (len(z) - 1)

    pair = DecoderPair(decode, decode, 3, WeightsResult(0, ()))
    runs = [run_of(torch.zeros(frames, 3, 2, 2)) for frames in (1, 3)]
    assert measure_floor(pair, runs, error) == floor


def test_against_float64() -> None:
    image, video = sound_pair(**DDCONFIG)
    with torch.inference_mode():
        found = measure_floor(pair_of(image, video), [run_of(Z), run_of(Z[:1])], 1.0)
        single = image(Z[:1])
        exact = image.double()(Z[:1].double())
    assert found.float64 == (single.double() - exact).abs().max().item()
    assert 0 < found.float64 < 1e-4
    assert found.multiple == 1.0 / max(found.float64, found.batch_layout or 0.0)


ARCHITECTURE = Architecture(ch=32, ch_mult=(1, 2), num_res_blocks=1, z_channels=4)
CPU_MESSAGE = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you"
ERRORS = (torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError(CPU_MESSAGE))


def checked(most: float, probe: Probe, error: Exception = ERRORS[0]) -> ParityReport:
    """A check of decoders that run out of memory above a number of latent pixels."""

    def decode(z: Tensor, _frames: int) -> Tensor:
        if z.shape[0] * z.shape[2] * z.shape[3] > most:
            raise error
        return 2 * z

    pair = DecoderPair(decode, decode, 4, WeightsResult(0, ()), architecture=ARCHITECTURE)
    return damage.checked(pair, 0.0, probes=[probe])


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(
    ("probe", "most", "shape"),
    [
        (Probe("clips", 4, 3, 4, 4), 6 * 16, (6, 4, 4, 4)),
        (Probe("clips", 4, 3, 4, 4), 5 * 16, (3, 4, 4, 4)),
        (Probe("clip", 1, 5, 8, 6), 70, (5, 4, 4, 3)),
        (Probe("clip", 1, 5, 8, 8), 12, (3, 4, 2, 2)),
    ],
)
def test_a_probe_that_does_not_fit_is_made_smaller(
    probe: Probe, most: int, shape: tuple[int, ...], error: Exception
) -> None:
    report = checked(most, probe, error)
    assert (report.verdict, report.probes[0].shape) == ("bitwise", shape)
    assert len(report.notes) == 1


@pytest.mark.parametrize(
    ("videos", "shape"), [(4, (8, 4, 4, 4)), (2.5, (4, 4, 4, 4)), (0.5, (2, 4, 4, 2))]
)
def test_the_estimate_makes_probes_smaller_before_memory_runs_out(
    monkeypatch: pytest.MonkeyPatch, videos: float, shape: tuple[int, ...]
) -> None:
    one = Probe("clip", 1, 2, 4, 4).estimated_bytes(ARCHITECTURE, torch.float32)
    monkeypatch.setattr(verify, "available_bytes", lambda _device: videos * one)
    report = checked(1000, Probe("clips", 4, 2, 4, 4))
    assert report.probes[0].shape == shape
    assert len(report.notes) == (videos < 4)


def test_a_probe_that_does_not_fit_at_its_smallest_is_an_error() -> None:
    with pytest.raises(DeviceError):
        checked(11, Probe("clip", 1, 5, 8, 8))
    with pytest.raises(RuntimeError, match="a bug"):
        checked(11, Probe("clip", 2, 2, 8, 8), RuntimeError("a bug"))


def test_given_latents_are_cropped_with_their_images() -> None:
    z = torch.arange(2 * 4 * 1 * 4 * 6.0).reshape(8, 1, 4, 6)
    images = z.repeat_interleave(2, 2).repeat_interleave(2, 3).expand(-1, 3, -1, -1)
    small = Probe.of("video", z, 4, images).cropped(2, 3, 2, 3)
    assert (small.batch, small.frames, small.height, small.width) == (2, 3, 2, 3)
    assert torch.equal(small.latents(1, 0), torch.cat([z[:3, :, :2, :3], z[4:7, :, :2, :3]]))
    assert small.sources is not None
    kept = torch.cat([images[:3], images[4:7]])
    assert torch.equal(small.sources, kept[:, :, :4, :6])
