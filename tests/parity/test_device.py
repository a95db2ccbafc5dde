"""Which device is taken, and that float32 is float32 on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
import torch

from inflate.errors import DeviceError
from inflate.parity.device import exact_float32, resolve_device, tf32_enabled

_GIVE_UP = 60
"""Seconds after which a thread that waits for another fails the test."""


def overlapping(work: Callable[[Callable[[], None]], object], look: Callable[[], object]) -> None:
    """Run ``work(meet)`` in two threads, and ``look`` when one of them alone is inside.

    Args:
        work: what enters a switch and calls ``meet`` once inside.
        look: called by the thread that stays inside when the other has left.
    """
    first_inside, second_inside, first_left = Event(), Event(), Event()

    def first_meets() -> None:
        first_inside.set()
        assert second_inside.wait(_GIVE_UP)

    def second_meets() -> None:
        second_inside.set()
        assert first_left.wait(_GIVE_UP)
        look()

    def second() -> None:
        assert first_inside.wait(_GIVE_UP)
        work(second_meets)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(work, first_meets)
        first.add_done_callback(lambda _: first_left.set())
        last = pool.submit(second)
        first.result()
        last.result()


@pytest.fixture
def cuda_devices(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes torch believe that there are so many CUDA devices."""

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


@pytest.mark.parametrize(
    ("name", "count", "device"),
    [
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:0"),
        ("cpu", 2, "cpu"),
        ("cuda", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_a_name_is_a_device(cuda_devices: Any, name: str, count: int, device: str) -> None:
    cuda_devices(count)
    assert resolve_device(name) == torch.device(device)


@pytest.mark.parametrize(
    ("name", "count", "said"),
    [
        ("cuda", 0, "--device cuda: torch sees 0 CUDA devices here; choose auto or cpu"),
        ("cuda:7", 2, "--device cuda:7: torch sees 2 CUDA devices .* cuda:0 to cuda:1"),
        ("tpu", 1, "--device is 'tpu'; expected auto, cpu, cuda, cuda:N or mps"),
        ("cuda:", 1, "--device is 'cuda:'"),
        ("cuda:-1", 1, "--device is 'cuda:-1'"),
        ("cuda:0 ", 1, "--device is 'cuda:0 '"),
        ("", 1, "--device is ''"),
        ("meta", 1, "--device is 'meta'"),
    ],
)
def test_what_is_not_a_device_is_refused(
    cuda_devices: Any, name: str, count: int, said: str
) -> None:
    cuda_devices(count)
    with pytest.raises(DeviceError, match=said):
        resolve_device(name)


BACKENDS: Any = torch.backends
SWITCHES: tuple[tuple[Any, str], ...] = (
    (BACKENDS.cuda.matmul, "fp32_precision"),
    (BACKENDS.cudnn.conv, "fp32_precision"),
    (BACKENDS.mkldnn.matmul, "fp32_precision"),
    (BACKENDS.mkldnn.conv, "fp32_precision"),
    (BACKENDS.cudnn, "benchmark"),
    (BACKENDS.cudnn, "deterministic"),
)
"""Every setting that lets float32 be computed in less, or in another way each time."""

REDUCED = ("tf32", "tf32", "bf16", "bf16", True, False)
EXACT = ("ieee", "ieee", "ieee", "ieee", False, True)


def settings() -> tuple[Any, ...]:
    return tuple(getattr(owner, name) for owner, name in SWITCHES)


def set_all(values: tuple[Any, ...]) -> None:
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
    seen = []

    def work(meet: Callable[[], None]) -> None:
        with exact_float32():
            meet()

    overlapping(work, lambda: seen.append(settings()))
    assert seen == [EXACT]
    assert settings() == REDUCED


@pytest.mark.usefixtures("_reduced")
def test_tf32_is_reported_as_it_is() -> None:
    cuda = torch.device("cuda")
    assert tf32_enabled(cuda)
    assert not tf32_enabled(torch.device("cpu"))
    with exact_float32():
        assert not tf32_enabled(cuda)
