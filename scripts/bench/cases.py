"""The cases, their inputs, their yardsticks and their targets."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bench.running import ROOT, measure

PROGRAMS = ROOT / "scripts" / "bench" / "programs"
PYTHON = sys.executable
MODES = ("conv-only", "attn-only", "all")
KERNELS = ("3", "3,1,1")
SIZES = ("kl-f4", "kl-f8", "kl-f16", "kl-f32")


@dataclass(frozen=True)
class Case:
    """A command, the yardstick for its time, and the file or folder that it writes.

    ``checked`` says that parity is part of it; ``code`` is the exit code that is expected.
    """

    name: str
    command: tuple[str, ...]
    yardstick: str = "import torch"
    output: Path | None = None
    checked: bool = False
    code: int = 0


@dataclass(frozen=True)
class Target:
    """A number made of the medians of cases, and the most that it may be."""

    what: str
    needs: tuple[str, ...]
    value: Callable[..., float]
    limit: float


def make_inputs(folder: Path) -> None:
    """Make the checkpoints that are measured with, unless an earlier run has."""
    wanted = {f"{preset}.ckpt": (preset,) for preset in SIZES}
    wanted["kl-f8.safetensors"] = ("kl-f8",)
    wanted["sd-2gb.ckpt"] = ("kl-f8", "--around", "1.7")
    for name, (preset, *around) in wanted.items():
        if not (folder / name).exists():
            part = folder / f"part.{name}"
            maker = str(ROOT / "scripts" / "make_checkpoint.py")
            measure([PYTHON, maker, str(part), "--preset", preset, *around])
            part.rename(folder / name)


def all_cases(folder: Path) -> list[Case]:
    """Every case, the yardsticks before those that are compared with them."""
    image, hand = folder / "kl-f8.ckpt", folder / "hand.safetensors"
    exported, copied = folder / "exported", folder / "copied"
    cases = [
        Case("python", (PYTHON, "-c", "pass")),
        Case("import torch", (PYTHON, "-c", "import torch")),
        _inflate("--help", "--help"),
        _inflate("--version", "--version"),
        _inflate("presets", "presets"),
        _inflate("usage error", "convert", "x", "--time-mode", "both", code=2),
        _inflate("inspect safetensors", "inspect", str(folder / "kl-f8.safetensors")),
        _inflate("inspect ckpt", "inspect", str(image)),
        _inflate("convert --dry-run", "convert", str(image), "--dry-run", "-q"),
        Case("hand-written", _program("hand_written", image, hand), output=hand),
        # What the script by hand wrote has no holes, which cp would leave out.
        Case(
            "cp + fsync", ("sh", "-c", f"cp '{hand}' '{copied}' && sync '{copied}'"), output=copied
        ),
        _convert("convert", folder, image, "hand-written"),
        _convert("convert, checked", folder, image, "hand-written", checked=True),
        _convert("convert safetensors", folder, folder / "kl-f8.safetensors", "convert"),
        _convert("convert 2 GB", folder, folder / "sd-2gb.ckpt", "convert"),
    ]
    for mode in MODES:
        for kernel in KERNELS:
            options = ("--time-mode", mode, "--video-kernel-size", kernel)
            for checked in (False, True):
                if (mode, kernel) != (MODES[0], KERNELS[0]):
                    name = f"convert {mode} {kernel}" + (", checked" if checked else "")
                    cases.append(
                        _convert(name, folder, image, "convert", *options, checked=checked)
                    )
    cases += [
        Case("diffusers build + save", _program("diffusers_export", exported), output=exported),
        _convert(
            "convert to diffusers", folder, image, "diffusers build + save",
            "--layout", "diffusers", "--post-quant", "fold", "--allow-inexact",
            "--video-kernel-size", "3,1,1",
        ),
    ]  # fmt: skip
    cases += [
        _convert(f"convert {preset}", folder, folder / f"{preset}.ckpt", "convert")
        for preset in SIZES
        if preset != "kl-f8"
    ]
    batch = ("batch", f"{folder}/kl-*.ckpt", "-o", f"{folder}/batch/", "-q", "--skip-parity")
    cases += [
        replace(_inflate("batch of 4", *batch), yardstick="convert", output=folder / "batch"),
        _inflate("batch of 4, done", *batch),
    ]
    # After the conversion whose decoder it runs.
    output = folder / "convert.safetensors"
    return [*cases, Case("both decoders", _program("forwards", image, output))]


def ratio(name: str, other: str, limit: float) -> Target:
    """The most that a case may take, as a multiple of another."""
    return Target(f"{name} / {other}", (name, other), lambda a, b: a / b, limit)


TARGETS = (
    ratio("convert", "hand-written", 0.40),
    ratio("convert", "cp + fsync", 1.6),
    ratio("convert, checked", "hand-written", 1.0),
    Target(
        "(convert, checked - convert) / both decoders' passes",
        ("convert, checked", "convert", "both decoders: passes"),
        lambda p, c, f: (p - c) / f,
        1.15,
    ),
    ratio("convert, checked", "convert", 3.0),
    *(ratio(name, "import torch", 0.15) for name in ("--help", "--version", "presets")),
    ratio("usage error", "import torch", 0.15),
    ratio("inspect safetensors", "import torch", 0.25),
    ratio("inspect ckpt", "import torch", 0.25),
    ratio("convert --dry-run", "import torch", 0.25),
    ratio("convert 2 GB", "convert", 1.15),
)
"""Of seconds, on the wall and of all cores."""

MEMORY_TARGETS = (
    Target("convert, MB", ("convert",), lambda c: c / 1e6, 120.0),
    Target(
        "convert 2 GB - convert, MB", ("convert 2 GB", "convert"), lambda b, c: (b - c) / 1e6, 50.0
    ),
)
"""Of peak memory."""


def _inflate(name: str, *words: str, code: int = 0) -> Case:
    return Case(name, (PYTHON, "-m", "inflate", *words), code=code)


def _program(name: str, *paths: Path) -> tuple[str, ...]:
    return (PYTHON, str(PROGRAMS / f"{name}.py"), *map(str, paths))


def _convert(
    name: str, folder: Path, source: Path, yardstick: str, *options: str, checked: bool = False
) -> Case:
    stem = "diffusers" if "diffusers" in options else name.replace(" ", "-").replace(",", "-")
    output = folder / (stem if stem == "diffusers" else f"{stem}.safetensors")
    command = (PYTHON, "-m", "inflate", "convert", str(source), "-o", str(output), "-q")
    how = ("--device", "cpu") if checked else ("--skip-parity",)
    return Case(name, (*command, "--overwrite", *options, *how), yardstick, output, checked)
