"""The device that computes, and float32 that is not rounded to less on it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch

from inflate.errors import DeviceError
from inflate.loading import dtype_name
from inflate.parity.result import Environment


def resolve_device(name: str) -> torch.device:
    """The device of a name: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    ``auto`` is the first CUDA device, or the CPU if there is none.

    Raises:
        DeviceError: an unknown name, or a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError("--device mps: this machine has no MPS device; choose auto or cpu")
        return torch.device("mps")
    matched = re.fullmatch(r"cuda(?::(\d+))?", name)
    if not matched:
        raise DeviceError(f"--device is {name!r}; expected auto, cpu, cuda, cuda:N or mps")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = int(matched[1] or 0)
    if number >= count:
        raise DeviceError(
            f"--device {name}: torch sees {count} CUDA devices here; choose auto or cpu"
            + (f", or cuda:0 to cuda:{count - 1}" if count else "")
        )
    return torch.device("cuda", number)


def fell_back(name: str, device: torch.device) -> bool:
    """Whether the CPU computes because ``auto`` found no GPU."""
    return name == "auto" and device.type == "cpu"


def environment(device: torch.device, dtype: torch.dtype, *, fallback: bool) -> Environment:
    """Where and how outputs are computed, for a report.

    Args:
        device: where.
        dtype: the type to compute in.
        fallback: whether the CPU computes because no GPU was found.
    """
    name, cudnn = str(device), None
    if device.type == "cuda":
        name = f"{device} ({torch.cuda.get_device_name(device)})"
        version = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        cudnn = None if version is None else str(version)
    return Environment(
        device=name,
        dtype=dtype_name(dtype),
        torch=torch.__version__,
        tf32=tf32_enabled(device),
        cudnn=cudnn,
        fallback=fallback,
    )


class ProcessWide:
    """A setting of the whole process that stays on while any thread needs it.

    The first thread that enters switches it on, the last that leaves restores it. If each thread
    saved and restored by itself, one would save what another had switched.

    Args:
        switch: saves and switches on entry, restores on exit.
    """

    def __init__(self, switch: Callable[[], AbstractContextManager[object]]) -> None:
        self._switch = switch
        self._lock = threading.Lock()
        self._inside = 0
        self._switched = ExitStack()

    @contextmanager
    def on(self) -> Iterator[None]:
        """Switch it on inside."""
        with self._lock:
            if not self._inside:
                self._switched.enter_context(self._switch())
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._switched.close()


def exact_float32() -> AbstractContextManager[None]:
    """Compute float32 in float32: no TF32, no bfloat16 passes, one algorithm per shape.

    These are settings of the process; they are restored after the last thread that needs them.
    """
    return _EXACT_FLOAT32.on()


@contextmanager
def _switched() -> Iterator[None]:
    switches = [*_cuda_switches(), torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv]  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    cudnn = torch.backends.cudnn
    cudnn_before = (cudnn.benchmark, cudnn.deterministic)
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        cudnn.benchmark, cudnn.deterministic = False, True
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
        cudnn.benchmark, cudnn.deterministic = cudnn_before


_EXACT_FLOAT32 = ProcessWide(_switched)


def tf32_enabled(device: torch.device) -> bool:
    """Whether convolutions or matrix products on the device may round float32 to TF32 now."""
    if device.type != "cuda":
        return False
    return any(switch.fp32_precision == "tf32" for switch in _cuda_switches())


def _cuda_switches() -> list[Any]:
    return [torch.backends.cuda.matmul, torch.backends.cudnn.conv]  # type: ignore[attr-defined]
