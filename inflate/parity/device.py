"""The compute device, its memory, and full float32 precision."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from inflate.errors import DeviceError
from inflate.io.free_memory import free_memory
from inflate.loading import dtype_name
from inflate.parity.result import Environment


def resolve_device(name: str) -> torch.device:
    """The device for a name: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    ``auto`` is the first CUDA device, or the CPU if there is none.

    Raises:
        DeviceError: the name is unknown, or this machine does not have the device.
    """
    counts = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if name == "auto":
        name = "cuda" if counts["cuda"] else "cpu"
    kind, _, number = name.partition(":")
    if kind not in counts or (name != kind and not (number.isdecimal() and kind == "cuda")):
        raise DeviceError(f"--device is {name!r}; expected auto, cpu, cuda, cuda:N or mps")
    if int(number or 0) >= counts[kind]:
        raise DeviceError(
            f"--device {name}: torch finds {counts[kind] or 'no'} such devices, counted from 0; "
            "choose auto or cpu"
        )
    return torch.device(kind, int(number or 0)) if kind == "cuda" else torch.device(kind)


def environment(device: torch.device, dtype: torch.dtype, *, fallback: bool) -> Environment:
    """The current device and settings of computation, for a report."""
    name, cudnn, tf32 = str(device), None, False
    if device.type == "cuda":
        name = f"{device} ({torch.cuda.get_device_name(device)})"
        version = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        cudnn = None if version is None else str(version)
        tf32 = any(owner.fp32_precision == "tf32" for owner in _cuda_switches())
    return Environment(name, dtype_name(dtype), torch.__version__, tf32, cudnn, fallback)


def fell_back(name: str, device: torch.device) -> bool:
    """Whether ``auto`` found no accelerator."""
    return name == "auto" and device.type == "cpu"


_MESSAGES = ("DefaultCPUAllocator: can't allocate memory", "MPS backend out of memory")
"""Messages of out-of-memory errors for which torch has no exception class."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that a device ran out of memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


@contextmanager
def memory_errors(device: torch.device, doing: str) -> Iterator[None]:
    """Convert out-of-memory errors to an error that says what to do.

    Raises:
        DeviceError: the device ran out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        advice = "" if device.type == "cpu" else ", or choose --device cpu"
        raise DeviceError(f"{device} ran out of memory while {doing}; free some{advice}") from error


def available_bytes(device: torch.device) -> float:
    """The free memory of a device in bytes; infinite if unknown."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + cached)
    free = free_memory() if device.type == "cpu" else None
    return math.inf if free is None else float(free)


_LOCK, _SETTINGS = threading.Lock(), ExitStack()
_inside: list[int] = []


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 in full precision: no TF32, no bfloat16 passes, one algorithm per shape.

    These settings affect the whole process: the first thread that enters sets them, and the last
    one that leaves restores them. Otherwise a thread could save the values that another one set.
    """
    with _LOCK:
        if not _inside:
            _SETTINGS.enter_context(_exact_settings())
        _inside.append(threading.get_ident())
    try:
        yield
    finally:
        with _LOCK:
            _inside.pop()
            if not _inside:
                _SETTINGS.close()


@contextmanager
def _exact_settings() -> Iterator[None]:
    backends: Any = torch.backends
    precise = [*_cuda_switches(), backends.mkldnn.matmul, backends.mkldnn.conv]
    settings: list[tuple[Any, str, object]] = [
        (owner, "fp32_precision", "ieee") for owner in precise
    ]
    settings += [(backends.cudnn, "benchmark", False), (backends.cudnn, "deterministic", True)]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in settings]
    try:
        for owner, name, value in settings:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def _cuda_switches() -> list[Any]:
    return [torch.backends.cuda.matmul, torch.backends.cudnn.conv]  # type: ignore[attr-defined]
