"""Whole parity reports, made up: every part filled in, in the sizes of a real decoder."""

from __future__ import annotations

from dataclasses import replace
from math import log10
from typing import Any

import torch

from inflate.parity import result as r
from inflate.report.documents import parity_document
from inflate.vocabulary import Verdict

TOLERANCE = 1e-5
GUILTY = "decoder.up.2.block.1.time_stack.out_layers.3"
FIRST = "decoder.up.2.block.1.conv2"
PROBES = (
    ("single-frame", (1, 4, 8, 8), 1),
    ("two-frames", (2, 4, 8, 8), 2),
    ("odd-frames", (5, 4, 6, 10), 5),
    ("permuted", (5, 4, 8, 8), 5),
    ("skip-video", (4, 4, 8, 8), 4),
    ("real", (8, 4, 16, 16), 8),
)


def layer_names() -> list[str]:
    """The spatial layers of a decoder of four levels, as they run."""
    blocks = ["mid.block_1", "mid.block_2"]
    blocks += [f"up.{level}.block.{number}" for level in (3, 2, 1, 0) for number in range(3)]
    parts = ("norm1", "conv1", "norm2", "conv2")
    inner = [f"{block}.{part}" for block in blocks for part in parts]
    return [f"decoder.{name}" for name in ("conv_in", *inner, "norm_out", "conv_out")]


def errors_of(largest: float | None) -> r.Errors:
    """Errors of a size."""
    if not largest:
        return r.Errors(largest, largest, largest, None, largest, finite=largest is not None)
    return r.Errors(
        largest, largest / 20, largest / 3, -20 * log10(largest), largest * 0.6, finite=True
    )


def verdict_of(largest: float | None) -> Verdict:
    """What the tolerance makes of an error."""
    if largest is None or largest > TOLERANCE:
        return "fail"
    return "bitwise" if largest == 0.0 else "within-tolerance"


def layers_of(before: float, after: float | None) -> tuple[r.LayerResult, ...]:
    """Layers that are ``before`` apart, and ``after`` from the first bad one on."""
    names = layer_names()
    first = names.index(FIRST)
    sizes = [before * (index + 1) if index < first else after for index in range(len(names))]
    return tuple(
        r.LayerResult(name, "Conv2d", verdict_of(size), errors_of(size))
        for name, size in zip(names, sizes, strict=True)
    )


def probe_of(
    name: str, shape: tuple[int, ...], frames: int, largest: float | None
) -> r.ProbeResult:
    """A probe with its parts; its border is better than its interior."""
    sizes = dict.fromkeys(("first frame", "middle frame", "last frame", "interior"), largest)
    sizes["border"] = largest and largest / 1e4
    parts = tuple(r.PartResult(part, verdict_of(size), size) for part, size in sizes.items())
    worst = None if largest == 0.0 else r.Worst(0, frames - 1, 1, 13, 7)
    errors, verdict = errors_of(largest), verdict_of(largest)
    return r.ProbeResult(name, shape, frames, verdict, largest, errors, parts, worst)


PLAN = (
    r.PlanRow("decoder.conv_in.weight", "copied", (128,), "float32", 512),
    r.PlanRow("encoder.conv_in.weight", "passed-through", (128,), "float32", 512),
    r.PlanRow("decoder.mid.block_1.mix_factor", "initialised", (1,), "float32", 4, "constant(0)"),
)
LEARNS: dict[str, tuple[Any, ...]] = {
    "time_stack.in_layers.2": ("next-step", "the zero convolution behind it"),
    "time_stack.out_layers.3": ("now", "its gradient is not zero"),
    "mix_factor": ("never", "a fixed blend at 0", "choose --merge-strategy learned"),
}
"""When each temporal tensor of a block learns, why, and what to change."""

LEARNING = tuple(
    r.TensorLearning(name.removesuffix("conv2") + part, *when)
    for name in layer_names()
    if name.endswith("conv2")
    for part, when in LEARNS.items()
)


def pictures(corrupted: float) -> list[r.Picture]:
    """A wave that moves, as it was and as both decoders see it."""
    columns = torch.linspace(-1, 1, 80).expand(3, 48, 80)
    made = []
    for frame in range(5):
        image = 0.9 * torch.sin(5 * columns + frame)
        decoded = image * 0.96
        candidate = decoded + corrupted * torch.sin(9 * columns + frame)
        made.append(r.Picture("real", frame, image, decoded, candidate))
    return made


def measure_of(name: str, image: list[float | None], video: list[float | None]) -> r.QualityMeasure:
    """A measure of both decoders' frames, whose mean is that of the last one."""
    sides = (r.FrameNumbers(values[-1], tuple(values)) for values in (image, video))
    return r.QualityMeasure(name, *sides)


MEASURES = (
    measure_of("psnr", [30.0, 31.25, 30.5], [31.0, 33.0, 32.25]),
    measure_of("ssim", [0.9, 0.9, 0.9], [0.9, 0.9, 0.9]),
    measure_of("flicker", [None, 3.0, 4.0], [None, 1.5, 1.0]),
    measure_of("lpips", [0.1, 0.2, 0.125], [0.3, 0.2, 0.25]),
)

DAMAGES = (
    r.Damage("spatial weight", "1% added to one spatial weight", "weights"),
    r.Damage("frames swapped", "the first two frames exchanged", "permuted"),
    r.Damage("branch not zeroed", "the last convolution of one branch made random", "odd-frames"),
    r.Damage("Dirac off centre", "one Dirac kernel moved by a frame", "odd-frames"),
)

EQUAL = r.ParityReport(
    verdict="bitwise",
    max_abs_error=0.0,
    reference=("img.ckpt", "0f" * 32),
    candidate=("img.video.safetensors", "a7" * 32),
    environment=r.Environment("cuda:0 (NVIDIA H100)", "float32", "2.13.0", False, "9.10.2"),
    tolerance=r.Tolerance(TOLERANCE, TOLERANCE),
    weights=r.WeightsResult(138, (), r.TemporalResult(64, ())),
    probes=tuple(probe_of(*probe, 0.0) for probe in PROBES),
    cast=None,
    notes=("the latents of the probe real are those of 8 frames of clip.mp4",),
    layers=layers_of(0.0, 0.0),
    floor=r.FloorResult(2.1e-7, 6.4e-7, 0.0),
    self_test=DAMAGES,
    trainability=LEARNING,
    quality=(r.ProbeQuality("real", MEASURES),),
    plan=PLAN,
    pictures=tuple(pictures(0.0)),
)

CLOSE = replace(
    EQUAL,
    verdict="within-tolerance",
    max_abs_error=2.4e-6,
    environment=r.Environment("cpu", "float32", "2.13.0", False, None, fallback=True),
    probes=tuple(probe_of(*probe, 2.4e-6 / (n + 1)) for n, probe in enumerate(PROBES)),
    layers=layers_of(3e-8, 3e-8),
    floor=r.FloorResult(1.1e-6, 1.9e-6, 2.4 / 1.9),
    cast=r.CastResult("float32", "bfloat16", 0.0121),
    weights=r.WeightsResult(138, (), r.TemporalResult(64, ("decoder.up.0.block.0.mix_factor",))),
    pictures=tuple(pictures(2e-6)),
)

FOLDED = replace(EQUAL, fold=r.FoldResult(0.4, 0.0, 0.95))
"""Equal to a folded decoder, whose images are not those of the source."""

FAILED = replace(
    EQUAL,
    verdict="fail",
    max_abs_error=0.0731,
    environment=r.Environment("cpu", "float32", "2.13.0", False, None, fallback=True),
    probes=tuple(
        probe_of(*probe, 2e-7 if probe[2] == 1 or probe[0] == "skip-video" else 0.0731)
        for probe in PROBES
    ),
    layers=layers_of(3e-8, 0.0731),
    first_divergence=FIRST,
    floor=r.FloorResult(1.1e-6, 1.9e-6, 0.0731 / 1.9e-6),
    bisect=tuple(
        r.Suspect(name, name == GUILTY, 2e-7 if name == GUILTY else 0.0731)
        for name in ("decoder.mid.block_1.time_stack.out_layers.3", GUILTY)
    ),
    self_test=(*DAMAGES[:-1], replace(DAMAGES[-1], caught_by=None)),
    pictures=tuple(pictures(0.07)),
)

NOT_FINITE = replace(
    FAILED,
    max_abs_error=None,
    probes=tuple(probe_of(*probe, None) for probe in PROBES),
    layers=layers_of(3e-8, None),
    floor=r.FloorResult(1.1e-6, 1.9e-6, None),
    bisect=None,
)

OVERFLOW = replace(
    NOT_FINITE,
    environment=r.Environment("cuda:0 (NVIDIA H100)", "float16", "2.13.0", False, "9.10.2"),
    overflow=r.OverflowResult("float16", "decoder.up.1.block.2.conv2", "bfloat16"),
)

WRONG_WEIGHTS = replace(
    EQUAL,
    verdict="fail",
    weights=r.WeightsResult(138, ("encoder.conv_in.bias", "encoder.conv_in.weight")),
)

BARE = r.ParityReport(
    verdict="bitwise",
    max_abs_error=0.0,
    reference=("img.ckpt", "0f" * 32),
    candidate=("img.video.safetensors", ""),
    environment=r.Environment("cpu", "float32", "2.13.0", tf32=False),
    tolerance=r.Tolerance(TOLERANCE, TOLERANCE),
    weights=r.WeightsResult(0, ()),
    probes=(r.ProbeResult("single-frame", (1, 4, 4, 4), 1, "bitwise", 0.0),),
    cast=None,
    notes=(),
)

HOSTILE_NAME = "</code><script>alert(1)</script>|`\x1b[31m\u202e\n# {{ 7 * 7 }}"
HOSTILE = replace(
    FAILED,
    reference=(HOSTILE_NAME, "0f" * 32),
    candidate=(HOSTILE_NAME, "a7" * 32),
    notes=(HOSTILE_NAME,),
    first_divergence=HOSTILE_NAME,
    weights=r.WeightsResult(138, (HOSTILE_NAME,)),
    layers=tuple(replace(layer, name=HOSTILE_NAME) for layer in FAILED.layers),
    probes=tuple(replace(probe, name=HOSTILE_NAME) for probe in FAILED.probes),
    plan=(r.PlanRow(HOSTILE_NAME, "initialised", (1,), "float32", 4, HOSTILE_NAME),),
)

REPORTS = {
    "equal": EQUAL,
    "close": CLOSE,
    "folded": FOLDED,
    "close to folded": replace(CLOSE, fold=FOLDED.fold),
    "failed": FAILED,
    "not finite": NOT_FINITE,
    "overflow": OVERFLOW,
    "wrong weights": WRONG_WEIGHTS,
    "bare": BARE,
    "hostile": HOSTILE,
}


def shown_verdict(name: str) -> tuple[str, str]:
    """What people read of a report's verdict, and the verdict whose colour and sign it has."""
    report = REPORTS[name]
    if report.fold is None:
        return report.verdict, report.verdict
    return f"{report.verdict} with the folded decoder", "within-tolerance"


def document_of(name: str) -> dict[str, Any]:
    """The document of one of the reports."""
    return parity_document(REPORTS[name])
