"""Options that several commands share, and the reading of their values."""

from __future__ import annotations

import math
from typing import Annotated, Optional

import typer

from inflate.vocabulary import (
    LARGEST_KERNEL,
    AttnType,
    MergeStrategy,
    StoredType,
    Target,
    TimeMode,
    Weights,
    kernel_of,
)

# Typer reads these annotations on Python 3.10 too.
# ruff: noqa: UP045


def number(text: object) -> float:
    """A number; what is none is told with its value, as Typer's own message does not."""
    try:
        return float(str(text))
    except ValueError as error:
        raise typer.BadParameter(f"{_cut(text)} is no number; expected one such as 0.25") from error


def whole_number(text: object) -> int:
    """A whole number, likewise."""
    try:
        return int(str(text))
    except ValueError as error:
        raise typer.BadParameter(
            f"{_cut(text)} is no whole number; expected one such as 7"
        ) from error


def count(text: object) -> int:
    """A whole number of things, one or more."""
    value = whole_number(text)
    if value < 1:
        raise typer.BadParameter(f"{_cut(text)} is too few; expected 1 or more")
    return value


def amount(text: object) -> float:
    """A number that is not negative."""
    value = number(text)
    if not value >= 0.0:
        raise typer.BadParameter(f"{_cut(text)} is no amount; expected 0 or more")
    return value


def finite_amount(text: object) -> float:
    """A number that is neither negative nor infinite."""
    value = amount(text)
    if math.isinf(value):
        raise typer.BadParameter(f"{_cut(text)} is no amount; expected a finite number, 0 or more")
    return value


def _cut(text: object) -> str:
    return repr(str(text)[:80])


Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda|cuda:N|mps",
        help="Where parity is computed. auto takes CUDA where there is one.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print a JSON document instead of text.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print the result alone.")]
Reports = Annotated[
    Optional[list[str]],
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write a report as well: .html, .json, .md or .xml (JUnit). May be given several "
        "times; an older report is replaced.",
    ),
]
GithubSummary = Annotated[
    bool,
    typer.Option(
        "--github-summary", help="Append the report to the summary of a step of a GitHub workflow."
    ),
]
Seed = Annotated[
    int, typer.Option(parser=whole_number, metavar="N", help="Seed of everything that is random.")
]
Prefix = Annotated[
    Optional[str],
    typer.Option(help="Which autoencoder to take where SOURCE holds several, such as 'vae.'."),
]
FromWeights = Annotated[
    Weights, typer.Option(help="The weights, or the moving averages that SOURCE has beside them.")
]
SourceLocation = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        show_default=False,
        help="A .ckpt, .pt, .pth, .bin or .safetensors file, an *.index.json of shards, a folder "
        "of diffusers, or a URL.",
    ),
]


def parse_kernel(text: str | None) -> str | None:
    """Refuse a ``--video-kernel-size`` that is no kernel; the text itself is kept."""
    if text is not None:
        kernel_from(text)
    return text


def kernel_from(text: str) -> int | tuple[int, ...]:
    """The kernel of ``3`` or ``3,1,1``."""
    try:
        sizes = tuple(int(part) for part in text.strip("[]() ").split(","))
        kernel_of(sizes[0] if len(sizes) == 1 else sizes)
    except ValueError as error:
        raise typer.BadParameter(
            f"{_cut(text)} is no kernel; expected one positive odd number, or three for time, "
            f"height and width, such as 3 or 3,1,1, of {LARGEST_KERNEL} at most"
        ) from error
    return sizes[0] if len(sizes) == 1 else sizes


NewConfig = Annotated[
    Optional[str],
    typer.Option(help="A preset's name or a YAML file; by default read off the checkpoint."),
]
NewTimeMode = Annotated[
    Optional[TimeMode], typer.Option(help="Which parts become temporal. [default: conv-only]")
]
NewMergeStrategy = Annotated[
    Optional[MergeStrategy], typer.Option(help="How branches blend. [default: learned]")
]
NewAlpha = Annotated[
    Optional[float],
    typer.Option(
        parser=number, metavar="F", help="Share of the temporal branch at the start. [default: 0]"
    ),
]
NewKernel = Annotated[
    Optional[str],
    typer.Option(
        metavar="N|T,H,W",
        callback=parse_kernel,
        help="Kernel of the time convolutions, odd. [default: 3]",
    ),
]
NewAttnType = Annotated[
    Optional[AttnType], typer.Option(help="Attention blocks. [default: the checkpoint's]")
]
NewSettings = Annotated[
    Optional[list[str]],
    typer.Option("--set", metavar="KEY=VALUE", help="Any key of the configuration."),
]
NewSeed = Annotated[
    Optional[int],
    typer.Option(parser=whole_number, metavar="N", help="Seed of the random start. [default: 0]"),
]
NewType = Annotated[
    Optional[StoredType], typer.Option(help="Type to store in. [default: the source's]")
]
NewFloat32Norms = Annotated[
    Optional[bool],
    typer.Option("--float32-norms", help="Keep temporal norms in float32 whatever --dtype."),
]
NewLayout = Annotated[
    Optional[Target],
    typer.Option(
        help="Layout to write. [default: autoencoder] Given for a video checkpoint, it is copied "
        "into that layout."
    ),
]
