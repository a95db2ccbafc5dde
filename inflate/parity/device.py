"""Where parity is computed, and how: the device, and float32 that is float32."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from inflate.errors import DeviceError
from inflate.loading import dtype_name
from inflate.parity.process import ProcessWide
from inflate.parity.result import Environment


def resolve_device(name: str) -> torch.device:
    """The device of a name: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    ``auto`` is the first CUDA device where there is one, and the CPU otherwise.

    Raises:
        DeviceError: an unknown name, or a device that is not there.
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


def device_name(device: torch.device) -> str:
    """A device, and which one it is where there are many kinds."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def fell_back(name: str, device: torch.device) -> bool:
    """Whether the CPU computes because no GPU was found, though ``auto`` looked for one."""
    return name == "auto" and device.type == "cpu"


def environment(device: torch.device, dtype: torch.dtype, *, fallback: bool) -> Environment:
    """What is computed in, as a report states it.

    Args:
        device: where.
        dtype: the type computed in.
        fallback: whether the CPU computes for want of a GPU.
    """
    cudnn = None
    if device.type == "cuda":
        version = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        cudnn = None if version is None else str(version)
    return Environment(
        device=device_name(device),
        dtype=dtype_name(dtype),
        torch=torch.__version__,
        tf32=tf32_enabled(device),
        cudnn=cudnn,
        fallback=fallback,
    )


def exact_float32() -> AbstractContextManager[None]:
    """Compute float32 in float32: TF32 and reduced bfloat16 passes off, one algorithm per shape.

    The settings are the process's; after the last thread that needs them they are as before.
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
    """Whether a convolution or matrix product on the device may round float32 to TF32 now."""
    if device.type != "cuda":
        return False
    return any(switch.fp32_precision == "tf32" for switch in _cuda_switches())


def _cuda_switches() -> list[Any]:
    return [torch.backends.cuda.matmul, torch.backends.cudnn.conv]  # type: ignore[attr-defined]
