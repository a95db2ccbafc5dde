"""Which device is taken, and that float32 is float32 on it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
import torch

from inflate.errors import DeviceError
from inflate.parity.device import exact_float32, resolve_device

_SECONDS = 60
"""After which a thread that waits for another fails the test."""


@pytest.fixture
def cuda_devices(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes torch believe that there are so many CUDA devices."""

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


@pytest.mark.parametrize(
    ("name", "count", "device"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda:0"), ("cpu", 2, "cpu"), ("cuda:1", 2, "cuda:1")],
)
def test_a_name_is_a_device(cuda_devices: Any, name: str, count: int, device: str) -> None:
    cuda_devices(count)
    assert resolve_device(name) == torch.device(device)


@pytest.mark.parametrize("name", ["cuda", "cuda:2", "mps", "tpu", "cuda:", "cuda:-1", "cpu:1", ""])
def test_what_is_not_a_device_is_refused(cuda_devices: Any, name: str) -> None:
    cuda_devices(0 if name == "cuda" else 2)
    with pytest.raises(DeviceError):
        resolve_device(name)


BACKENDS: Any = torch.backends
PRECISE = (BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv)
SWITCHES = (
    *((owner, "fp32_precision") for owner in PRECISE),
    *((BACKENDS.cudnn, name) for name in ("benchmark", "deterministic")),
)
"""Every setting that lets float32 be computed in less, or in another way each time."""

REDUCED = ["tf32", "tf32", "bf16", "bf16", True, False]
EXACT = ["ieee", "ieee", "ieee", "ieee", False, True]


def settings() -> list[Any]:
    return [getattr(owner, name) for owner, name in SWITCHES]


def set_all(values: list[Any]) -> None:
    for (owner, name), value in zip(SWITCHES, values, strict=True):
        setattr(owner, name, value)


@pytest.fixture
def _reduced() -> Iterator[None]:
    """A process that asked for speed."""
    before = settings()
    set_all(REDUCED)
    yield
    set_all(before)


@pytest.mark.usefixtures("_reduced")
def test_settings_stay_while_any_thread_needs_them_and_are_put_back_after_the_last() -> None:
    first_inside, second_inside, first_left = Event(), Event(), Event()

    def first() -> None:
        with exact_float32():
            first_inside.set()
            assert second_inside.wait(_SECONDS)
        first_left.set()

    def second() -> list[Any]:
        assert first_inside.wait(_SECONDS)
        with exact_float32():
            second_inside.set()
            assert first_left.wait(_SECONDS)
            return settings()

    with ThreadPoolExecutor(2) as pool:
        ran, seen = pool.submit(first), pool.submit(second)
        assert ran.result() is None
        assert seen.result() == EXACT
    assert settings() == REDUCED
