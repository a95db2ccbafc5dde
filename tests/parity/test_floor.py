"""The noise floor: what the image decoder differs from itself by, and the error in units of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inflate.parity.comparands import Comparands, Decode
from inflate.parity.floor import measure_floor
from inflate.parity.result import FloorResult, WeightsResult
from inflate.parity.verify import Scope

from ..checkpoints import DDCONFIG
from ..models.builders import noise
from .damage import check, comparands_of, sound_pair


def comparands(reference: Decode) -> Comparands:
    return Comparands(reference, reference, None, 3, WeightsResult(0, ()), None, ())


def batched(z: Tensor, frames: int) -> Tensor:
    """A decoder whose result hangs on the batch it is in."""
    return z + 0.25 * (len(z) - 1)


@pytest.mark.parametrize(("error", "multiple"), [(0.5, 1.0), (0.25, 0.5), (0.0, 0.0), (None, None)])
def test_another_batch_layout(error: float | None, multiple: float | None) -> None:
    z = torch.zeros(3, 3, 2, 2)
    found = measure_floor(comparands(batched), z, z[:1], error)
    assert found == FloorResult(batch_layout=0.5, float64=None, multiple=multiple)


def test_no_floor_has_no_multiples() -> None:
    z = torch.zeros(3, 3, 2, 2)
    found = measure_floor(comparands(lambda z, _: z), z, z[:1], 0.5)
    assert found == FloorResult(0.0, None, None)


def test_against_float64() -> None:
    image, video = sound_pair(**DDCONFIG)
    z = noise(2, 4, 3, 3)
    with torch.inference_mode():
        found = measure_floor(comparands_of(image, video), z, z[:1], 1.0)
        single = image(z[:1])
        exact = image.double()(z[:1].double())
    assert found.float64 == (single.double() - exact).abs().max().item()
    assert 0 < found.float64 < 1e-4
    assert found.multiple == 1.0 / max(found.float64, found.batch_layout or 0.0)


def test_float64_has_nothing_finer_above_it() -> None:
    image, video = sound_pair(dtype=torch.float64, **DDCONFIG)
    report = check(image, video, dtype=torch.float64)
    assert report.floor is not None
    assert report.floor.float64 is None
    assert report.verdict == "bitwise"


def test_a_report_gives_its_error_as_a_multiple() -> None:
    image, video = sound_pair(**DDCONFIG)
    video.state_dict()["conv_out.bias"] += 0.5
    report = check(image, video, scope=Scope(floor=True))
    floor = report.floor
    assert floor is not None
    assert report.max_abs_error is not None
    assert floor.batch_layout is not None
    assert floor.float64 is not None
    assert floor.multiple == report.max_abs_error / max(floor.batch_layout, floor.float64)
    assert floor.multiple > 1000
