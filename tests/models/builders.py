"""Shared by the tests of the modules: small configurations, seeded weights, reference cases."""

from __future__ import annotations

import copy
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from inflate import models
from inflate.models import VideoDecoder

M = TypeVar("M", bound=nn.Module)
P = ParamSpec("P")
T = TypeVar("T")

REFERENCE = Path(__file__).parents[1] / "reference"
TOLERANCE = 2e-5
"""How far, absolutely, an element may be from the original's on CPU."""

SMALL: dict[str, Any] = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 16,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [8],
    "dropout": 0.0,
}
"""A ``ddconfig`` with everything in it: two levels, a change of channels, attention in ``up``."""

BAD_KERNELS: list[Any] = [
    *(0, 2, 4, -1, -3, True, False, 3.0, None, "3", "333"),
    *([], [3], [3, 3], [3, 3, 3, 3], [3, 2, 1], [0, 1, 1], [3, 1, -1], [3, True, 1], [3.0, 1, 1]),
]
"""What is neither one nor three positive odd numbers."""

TINY: dict[str, Any] = {**SMALL, "ch_mult": [1], "num_res_blocks": 0, "attn_resolutions": []}
"""The least of the family: one level of one block."""

KL_F8: dict[str, Any] = {
    **SMALL,
    "resolution": 256,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
}
KL_F16: dict[str, Any] = {
    **KL_F8,
    "z_channels": 16,
    "ch_mult": [1, 1, 2, 2, 4],
    "attn_resolutions": [16],
}


def made_once(make: Callable[P, T]) -> Callable[P, T]:
    """Cache the results of ``make`` by the text of its arguments, and return copies."""
    made: dict[str, T] = {}

    @functools.wraps(make)
    def copied(*args: P.args, **kwargs: P.kwargs) -> T:
        key = repr((args, sorted(kwargs.items())))
        if key not in made:
            made[key] = make(*args, **kwargs)
        return copy.deepcopy(made[key])

    return copied


def drawn_weights(
    shapes: Mapping[str, Sequence[int]], seed: int, mix_factor: float | None = None
) -> dict[str, Tensor]:
    """Weights by the recipe of the reference vectors, see ``tests/reference/README.md``.

    They are shared between calls: copy them, do not change them.
    """
    return dict(
        _drawn(tuple((key, tuple(shapes[key])) for key in sorted(shapes)), seed, mix_factor)
    )


@functools.lru_cache(maxsize=32)
def _drawn(
    shapes: tuple[tuple[str, tuple[int, ...]], ...], seed: int, mix_factor: float | None
) -> dict[str, Tensor]:
    weights = {}
    for i, (key, shape) in enumerate(shapes):
        n = np.random.Generator(np.random.PCG64([seed, i])).standard_normal(shape)
        if len(shape) > 1:
            value = n / math.sqrt(math.prod(shape[1:]))
        elif key.endswith("mix_factor"):
            value = 0.5 + 0.5 * n if mix_factor is None else np.full(shape, mix_factor)
        elif key.endswith("weight"):
            value = 1 + 0.1 * n
        else:
            value = 0.1 * n
        weights[key] = torch.from_numpy(value.astype(np.float32))
    return weights


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Key to shape of a module's whole state dict."""
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def randomized(module: M, seed: int = 0, *, keep_mix: bool = False) -> M:
    """``module`` in eval mode, no weight zero; ``keep_mix`` leaves ``mix_factor`` as built."""
    weights = drawn_weights(shapes_of(module), seed)
    if keep_mix:
        built = module.state_dict()
        weights |= {key: built[key] for key in weights if key.endswith("mix_factor")}
    module.load_state_dict(weights, strict=True)
    return module.eval()


def video_decoder(time_mode: str, seed: int = 0, **changes: Any) -> VideoDecoder:
    """A small video decoder with drawn weights."""
    return randomized(VideoDecoder(time_mode=time_mode, **{**SMALL, **changes}), seed)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Seeded standard normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def latents(batch: int = 2, frames: int = 3, size: int = 4, **kwargs: Any) -> Tensor:
    """Latents of ``batch`` videos for the small configurations, ``(B T) 4 h w``."""
    return noise(batch * frames, SMALL["z_channels"], size, size, **kwargs)


def error(out: Tensor, expected: Tensor) -> float:
    """The largest absolute difference; both must have one shape and be finite."""
    assert out.shape == expected.shape
    assert out.isfinite().all()
    assert expected.isfinite().all()
    return float((out.double() - expected.double()).abs().max())


def relative_rms(out: Tensor, expected: Tensor) -> float:
    """The root mean square of the difference, in units of that of ``expected``."""
    assert out.shape == expected.shape
    difference = out.double() - expected.double()
    return float(difference.square().mean().sqrt() / expected.double().square().mean().sqrt())


def reference_cases() -> list[dict[str, Any]]:
    """The cases of ``cases.json``."""
    cases: list[dict[str, Any]] = json.loads((REFERENCE / "cases.json").read_text())
    return cases


def reference_module(case: dict[str, Any]) -> nn.Module:
    """The module of a reference case, with its weights, loaded strictly."""
    module: nn.Module = getattr(models, case["module"])(**case["params"])
    module.load_state_dict(
        drawn_weights(case["shapes"], case["seed"], case["mix_factor"]), strict=True
    )
    return module.eval()


def run_reference(case: dict[str, Any], module: nn.Module, x: Tensor) -> Tensor:
    """The module's output for the input of its case."""
    with torch.no_grad():
        if isinstance(module, VideoDecoder):
            return module(x, timesteps=case["frames"], skip_video=case["skip_video"])
        return module(x)


def reference_vectors() -> dict[str, Tensor]:
    """Inputs ``{name}/z`` and outputs ``{name}/out`` of the cases."""
    return load_file(REFERENCE / "vectors.safetensors")
