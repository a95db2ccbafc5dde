"""How close both decoders come to real frames: PSNR, SSIM, LPIPS and flicker.

Values are per frame, in grey levels of 0..255, after clamping. No verdict depends on them.
torchmetrics, OpenCV and lpips are imported only when used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inflate.errors import ConfigError, needs_extra
from inflate.parity.metrics import ProbeRun, is_finite
from inflate.parity.result import FrameNumbers, ProbeQuality, QualityMeasure

_WINDOW = 11
"""The window size of SSIM in pixels."""

_LEAST_SIDE = 32
"""The minimum size for OpenCV's optical flow and LPIPS; both fail or crash on smaller frames."""

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""LPIPS of two batches of images in -1..1."""


def measure_quality(
    runs: Sequence[ProbeRun],
) -> tuple[tuple[ProbeQuality, ...] | None, tuple[str, ...]]:
    """Compare the outputs of both decoders with the real frames that were encoded.

    Returns:
        The measures, or None if there are none, and notes on what was left out.
    """
    videos = [(run, run.probe.sources) for run in runs if run.probe.sources is not None]
    if not videos:
        return None, ()
    try:
        with needs_extra("quality", "the quality of decoded real frames", ConfigError):
            import torchmetrics  # noqa: F401
    except ConfigError as error:
        return None, (str(error),)
    perceptual, notes = _perceptual(videos[0][0].z.device)
    probes = []
    for run, real in videos:
        name, decoded = run.probe.name, (run.expected, run.found)
        if any(images.shape != real.shape for images in decoded):
            reason = "decoded frames have another shape"
        elif not all(map(is_finite, decoded)):
            reason = "the outputs are not finite"
        else:
            levels = _levels(real.to(run.z.device))
            flows = _flows(levels)
            image, video = (_numbers(_levels(x), levels, flows, perceptual) for x in decoded)
            measures = tuple(QualityMeasure(each, image[each], video[each]) for each in image)
            probes.append(ProbeQuality(name, measures))
            continue
        notes.append(f"the quality of probe {name} was not measured: {reason}")
    return tuple(probes) or None, tuple(notes)


def _numbers(
    decoded: Tensor, real: Tensor, flows: list[Any], perceptual: Perceptual | None
) -> dict[str, FrameNumbers]:
    """Measure a decoder's frames ``T C H W`` in 0..255."""
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    side = min(real.shape[2:])
    measures: dict[str, Callable[[Tensor, Tensor], Any]] = {
        "psnr": partial(peak_signal_noise_ratio, data_range=255.0)
    }
    if side >= _WINDOW:
        measures["ssim"] = partial(structural_similarity_index_measure, data_range=255.0)
    if perceptual is not None and side >= _LEAST_SIDE:
        measures["lpips"] = lambda x, y: perceptual(x / 127.5 - 1, y / 127.5 - 1)
    pairs = list(zip(decoded[:, None], real[:, None], strict=True))
    found: dict[str, list[float | None]] = {
        name: [float(measure(x, y)) for x, y in pairs] for name, measure in measures.items()
    }
    # This equals the difference between the output's and the real frames' changes over time.
    errors = decoded - real
    before = {"flicker": errors[:-1]} if len(errors) > 1 else {}
    if flows:
        moved = [_warped(error, flow) for error, flow in zip(errors[:-1], flows, strict=True)]
        before["warped_flicker"] = torch.stack(moved)
    for name, last in before.items():
        found[name] = [None, *(errors[1:] - last).abs().mean(dim=(1, 2, 3)).tolist()]
    return {name: _frame_numbers(values) for name, values in found.items()}


def _frame_numbers(values: Sequence[float | None]) -> FrameNumbers:
    mean = fmean(value for value in values if value is not None)
    finite = [None if v is None or not math.isfinite(v) else v for v in (mean, *values)]
    return FrameNumbers(finite[0], tuple(finite[1:]))


def _levels(images: Tensor) -> Tensor:
    return (images.float().clamp(-1, 1) + 1) * 127.5


def _flows(real: Tensor) -> list[Any]:
    """Optical flow from each frame to the previous one, ``H W 2``; empty without OpenCV.

    Source: Kroeger et al. (2016), Fast Optical Flow using Dense Inverse Search.
    """
    if min(real.shape[2:]) < _LEAST_SIDE:
        return []
    try:
        import cv2
    except ImportError:
        return []
    grey = [
        cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        for frame in real.round().byte().permute(0, 2, 3, 1).cpu().numpy()
    ]
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return [search.calc(now, before, None) for before, now in pairwise(grey)]


def _warped(image: Tensor, flow: Any) -> Tensor:
    """Warp an image ``C H W`` to the next frame."""
    import cv2

    height, width = flow.shape[:2]
    places = flow + np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    moved = cv2.remap(
        pixels, places.astype(np.float32), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return torch.from_numpy(moved).permute(2, 0, 1).to(image.device)


def _perceptual(device: torch.device) -> tuple[Perceptual | None, list[str]]:
    """LPIPS with AlexNet, which downloads its weights once; None without the package."""
    try:
        import lpips
    except ImportError:
        return None, []
    try:
        return lpips.LPIPS(net="alex", verbose=False).to(device), []
    except OSError as error:
        return None, [f"LPIPS was not measured: the weights of AlexNet cannot be loaded: {error}"]
