"""Whole parity reports, made up: every part filled in, in the sizes of a real decoder."""

from __future__ import annotations

from dataclasses import replace
from math import log10
from typing import Any

import torch

from inflate.parity.result import (
    BisectResult,
    CastResult,
    Damage,
    Environment,
    Errors,
    FloorResult,
    FoldResult,
    FrameNumbers,
    LayerResult,
    OverflowResult,
    ParityReport,
    PartResult,
    Picture,
    PlanRow,
    ProbeQuality,
    ProbeResult,
    QualityMeasure,
    QualityResult,
    SelfTestResult,
    Suspect,
    TemporalResult,
    TensorLearning,
    Tolerance,
    TrainabilityResult,
    WeightsResult,
    Worst,
)
from inflate.report.documents import parity_document
from inflate.vocabulary import Verdict

TOLERANCE = 1e-5
GUILTY = "decoder.up.2.block.1.time_stack.out_layers.3"
FIRST = "decoder.up.2.block.1.conv2"
PROBES = (
    ("single-frame", (1, 4, 8, 8), 1),
    ("two-frames", (2, 4, 8, 8), 2),
    ("odd-frames", (5, 4, 6, 10), 5),
    ("two-videos", (8, 4, 8, 8), 4),
    ("non-square", (3, 4, 5, 12), 3),
    ("permuted", (5, 4, 8, 8), 5),
    ("skip-video", (4, 4, 8, 8), 4),
    ("real", (8, 4, 16, 16), 8),
)
PARTS = ("first frame", "middle frame", "last frame", "border", "interior")


def layer_names() -> list[str]:
    """The spatial layers of a decoder of four levels, as they run."""
    block = ("norm1", "conv1", "norm2", "conv2")
    names = ["conv_in"]
    names += [f"mid.block_1.{part}" for part in block]
    names += [f"mid.attn_1.{part}" for part in ("norm", "q", "k", "v", "proj_out")]
    names += [f"mid.block_2.{part}" for part in block]
    for level in (3, 2, 1, 0):
        for number in range(3):
            names += [f"up.{level}.block.{number}.{part}" for part in block]
            if number == 0 and level < 2:
                names.append(f"up.{level}.block.{number}.nin_shortcut")
        if level:
            names.append(f"up.{level}.upsample.conv")
    return [f"decoder.{name}" for name in (*names, "norm_out", "conv_out")]


def errors_of(largest: float | None) -> Errors:
    """Errors of a size."""
    if not largest:
        return Errors(largest, largest, largest, None, largest, finite=largest is not None)
    return Errors(
        largest, largest / 20, largest / 3, -20 * log10(largest), largest * 0.6, finite=True
    )


def verdict_of(largest: float | None) -> Verdict:
    """What the tolerance makes of an error."""
    if largest is None or largest > TOLERANCE:
        return "fail"
    return "bitwise" if largest == 0.0 else "within-tolerance"


def layers_of(before: float, after: float | None) -> tuple[LayerResult, ...]:
    """Layers that are ``before`` apart, and grow to ``after`` from the first bad one on."""
    names = layer_names()
    first = names.index(FIRST)
    layers = []
    for index, name in enumerate(names):
        # Something that looks like rounding as it grows from layer to layer.
        size: float | None = before * (1.0 + index * 0.11) * (1.0 + 0.4 * ((index * 7) % 5))
        if index >= first and after != before:
            size = None if after is None else after * (1.0 - 0.5 * ((index * 3) % 7) / 7)
        kind = "GroupNorm" if "norm" in name else "Conv2d"
        layers.append(LayerResult(name, kind, verdict_of(size), errors_of(size)))
    return tuple(layers)


def probe_of(name: str, shape: tuple[int, ...], frames: int, largest: float | None) -> ProbeResult:
    """A probe with its parts; its border is better than its interior."""
    parts = [
        PartResult(part, verdict_of(size), size)
        for part in PARTS
        for size in [largest and largest / (1e4 if part == "border" else 1)]
    ]
    worst = None if largest == 0.0 else Worst(0, frames - 1, 1, 13, 7)
    errors = errors_of(largest)
    verdict = verdict_of(largest)
    return ProbeResult(name, shape, frames, verdict, largest, errors, tuple(parts), worst)


def plan_rows() -> tuple[PlanRow, ...]:
    """Some 300 tensors: what is copied, made, and passed through."""
    rows = []
    for name in layer_names():
        wide = (128,) if "norm" in name else (128, 128, 3, 3)
        for kind, shape in (("weight", wide), ("bias", (128,))):
            size = 4 * torch.Size(shape).numel()
            rows.append(PlanRow(f"{name}.{kind}", "copied", shape, "float32", size))
            passed = name.replace("decoder.up", "encoder.down").replace("decoder.", "encoder.")
            if "up.0" not in name:
                rows.append(PlanRow(f"{passed}.{kind}", "passed-through", shape, "float32", size))
        if name.endswith("conv2"):
            time_stack = name.removesuffix("conv2") + "time_stack"
            for part, rule in (("in_layers.2", "uniform(0.02)"), ("out_layers.3", "zeros")):
                shape = (128, 128, 3, 1, 1)
                made = f"{time_stack}.{part}.weight"
                rows.append(PlanRow(made, "initialised", shape, "float32", 196_608, rule))
            mix = name.removesuffix("conv2") + "mix_factor"
            rows.append(PlanRow(mix, "initialised", (1,), "float32", 4, "constant(0)"))
    return tuple(rows)


def trainability() -> TrainabilityResult:
    """Tensors that learn now, later and never."""
    never = ("never", "a fixed blend at 0 stops its gradient", "choose --merge-strategy learned")
    later = ("next-step", "the zero convolution behind it stops its gradient in the first step")
    return TrainabilityResult(
        tuple(
            TensorLearning(
                row.name,
                *(never if row.name.endswith("mix_factor")
                  else later if "in_layers" in row.name else ("now", "its gradient is not zero")),
            )
            for row in plan_rows()
            if row.origin == "initialised"
        )
    )  # fmt: skip


def pictures(corrupted: float, frames: int = 5, size: tuple[int, int] = (48, 80)) -> list[Picture]:
    """A ball that moves through a room, as it was and as both decoders see it."""
    rows = torch.linspace(-1, 1, size[0])[:, None].expand(size)
    columns = torch.linspace(-1, 1, size[1])[None, :].expand(size)
    made = []
    for frame in range(frames):
        middle = -0.6 + 1.2 * frame / max(frames - 1, 1)
        ball = ((rows * 0.6) ** 2 + (columns - middle) ** 2 < 0.06).float()
        room = torch.stack([0.3 - 0.4 * rows, 0.2 * columns - 0.1, 0.5 + 0.3 * rows])
        colour = torch.tensor([0.9, 0.4, -0.6])[:, None, None]
        image = room * (1 - ball) + colour * ball
        decoded = image * 0.96
        candidate = decoded + corrupted * torch.sin(9 * columns + frame) * ball
        made.append(Picture("real", frame, image, decoded, candidate))
    return made


def measure_of(name: str, image: list[float | None], video: list[float | None]) -> QualityMeasure:
    """A measure of both decoders' frames, whose mean is that of the last one."""
    sides = (FrameNumbers(values[-1], tuple(values)) for values in (image, video))
    return QualityMeasure(name, *sides)


QUALITY = QualityResult(
    (
        ProbeQuality(
            "real",
            (
                measure_of("psnr", [30.0, 31.25, 30.5], [31.0, 33.0, 32.25]),
                measure_of("ssim", [0.9, 0.9, 0.9], [0.9, 0.9, 0.9]),
                measure_of("flicker", [None, 3.0, 4.0], [None, 1.5, 1.0]),
                measure_of("lpips", [0.1, 0.2, 0.125], [0.3, 0.2, 0.25]),
            ),
        ),
    )
)

DAMAGES = (
    Damage("temporal bias", "0.1 added to one temporal bias", "odd-frames"),
    Damage("spatial weight", "1% added to one spatial weight", "weights"),
    Damage("frames swapped", "the first two frames exchanged", "permuted"),
    Damage("branch not zeroed", "the last convolution of one branch made random", "two-frames"),
    Damage("Dirac off centre", "one Dirac kernel moved by a frame", "odd-frames"),
)

EQUAL = ParityReport(
    verdict="bitwise",
    max_abs_error=0.0,
    reference=("img.ckpt", "0f" * 32),
    candidate=("img.video.safetensors", "a7" * 32),
    environment=Environment("cuda:0 (NVIDIA H100)", "float32", "2.13.0", False, "9.10.2"),
    tolerance=Tolerance(TOLERANCE, TOLERANCE),
    weights=WeightsResult(138, (), TemporalResult(64, ())),
    probes=tuple(probe_of(*probe, 0.0) for probe in PROBES),
    cast=None,
    notes=("the latents of the probe real are those of 8 frames of clip.mp4",),
    layers=layers_of(0.0, 0.0),
    floor=FloorResult(2.1e-7, 6.4e-7, 0.0),
    self_test=SelfTestResult(DAMAGES),
    trainability=trainability(),
    quality=QUALITY,
    plan=plan_rows(),
    pictures=tuple(pictures(0.0)),
)

CLOSE = replace(
    EQUAL,
    verdict="within-tolerance",
    max_abs_error=2.4e-6,
    environment=Environment("cpu", "float32", "2.13.0", False, None, fallback=True),
    probes=tuple(probe_of(*probe, 2.4e-6 / (n + 1)) for n, probe in enumerate(PROBES)),
    layers=layers_of(3e-8, 3e-8),
    floor=FloorResult(1.1e-6, 1.9e-6, 2.4 / 1.9),
    cast=CastResult("float32", "bfloat16", 0.0121),
    weights=WeightsResult(138, (), TemporalResult(64, ("decoder.up.0.block.0.mix_factor",))),
    pictures=tuple(pictures(2e-6)),
)

FOLDED = replace(EQUAL, fold=FoldResult(0.4, 0.0, 0.95))
"""Equal to a folded decoder, whose images are not those of the source."""

FAILED = replace(
    EQUAL,
    verdict="fail",
    max_abs_error=0.0731,
    environment=Environment("cpu", "float32", "2.13.0", False, None, fallback=True),
    probes=tuple(
        probe_of(*probe, 2e-7 if probe[2] == 1 or probe[0] == "skip-video" else 0.0731)
        for probe in PROBES
    ),
    layers=layers_of(3e-8, 0.0731),
    first_divergence=FIRST,
    floor=FloorResult(1.1e-6, 1.9e-6, 0.0731 / 1.9e-6),
    bisect=BisectResult(
        tuple(
            Suspect(name, name == GUILTY, 2e-7 if name == GUILTY else 0.0731)
            for name in (
                "decoder.mid.block_1.time_stack.out_layers.3",
                "decoder.up.3.block.0.time_stack.out_layers.3",
                GUILTY,
                "decoder.up.0.block.2.time_stack.out_layers.3",
            )
        )
    ),
    self_test=SelfTestResult((*DAMAGES[:-1], replace(DAMAGES[-1], caught_by=None))),
    pictures=tuple(pictures(0.07)),
)

NOT_FINITE = replace(
    FAILED,
    max_abs_error=None,
    probes=tuple(probe_of(*probe, None) for probe in PROBES),
    layers=layers_of(3e-8, None),
    floor=FloorResult(1.1e-6, 1.9e-6, None),
    bisect=None,
)

OVERFLOW = replace(
    NOT_FINITE,
    environment=Environment("cuda:0 (NVIDIA H100)", "float16", "2.13.0", False, "9.10.2"),
    overflow=OverflowResult("float16", "decoder.up.1.block.2.conv2", "bfloat16"),
)

WRONG_WEIGHTS = replace(
    EQUAL,
    verdict="fail",
    weights=WeightsResult(138, ("encoder.conv_in.bias", "encoder.conv_in.weight")),
)

BARE = ParityReport(
    verdict="bitwise",
    max_abs_error=0.0,
    reference=("img.ckpt", "0f" * 32),
    candidate=("img.video.safetensors", ""),
    environment=Environment("cpu", "float32", "2.13.0", tf32=False),
    tolerance=Tolerance(TOLERANCE, TOLERANCE),
    weights=WeightsResult(0, ()),
    probes=(ProbeResult("single-frame", (1, 4, 4, 4), 1, "bitwise", 0.0),),
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
    weights=WeightsResult(138, (HOSTILE_NAME,)),
    layers=tuple(replace(layer, name=HOSTILE_NAME) for layer in FAILED.layers),
    probes=tuple(replace(probe, name=HOSTILE_NAME) for probe in FAILED.probes),
    plan=(PlanRow(HOSTILE_NAME, "initialised", (1,), "float32", 4, HOSTILE_NAME),),
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
