"""The noise floor, and the error as a multiple of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inflate.parity.floor import measure_floor
from inflate.parity.metrics import Tolerance
from inflate.parity.pair import Decode, DecoderPair
from inflate.parity.result import FloorResult, WeightsResult
from inflate.parity.running import ProbeRun
from inflate.parity.verify import Scope

from ..checkpoints import DDCONFIG
from ..models.builders import noise
from .damage import check, pair_of, sound_pair


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


def test_a_report_gives_its_error_as_a_multiple() -> None:
    image, video = sound_pair(**DDCONFIG)
    video.state_dict()["conv_out.bias"] += 0.5
    floor = check(image, video, scope=Scope(floor=True)).floor
    assert floor is not None
    assert floor.multiple is not None
    assert floor.multiple > 1000


def test_float64_is_not_compared_with_itself() -> None:
    image, video = sound_pair(dtype=torch.float64, **DDCONFIG)
    report = check(image, video, dtype=torch.float64)
    assert report.floor is not None
    assert report.floor.float64 is None
