"""The options of ``convert`` and ``verify``, declared once.

Each field is a flag of the command and an argument in Python. An option of ``convert`` that a job
may have is a key of the manifest and part of the job's entry in the ledger, too.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Optional, TypeVar, Union, get_args, get_origin, get_type_hints

from inflate.errors import ConfigError, DeviceError, nearest, quoted
from inflate.vocabulary import (
    AttnType,
    ComputeType,
    MergeStrategy,
    PostQuant,
    StoredType,
    Target,
    TimeMode,
    Weights,
)

# Optional and Union stay spelled out: OmegaConf and Typer read these annotations on Python 3.10.
# ruff: noqa: UP007, UP045

Group = Literal["Basics", "Temporal layers", "Output", "Checks", "Advanced"]
Scope = Literal["run", "job", "matrix"]


@dataclass(frozen=True)
class Flag:
    """How an option appears outside of Python.

    Args:
        help: one sentence for ``--help``.
        group: the heading in ``--help``.
        metavar: placeholder of the value; None leaves it to the type.
        setting: the key of the configuration that the option sets, if it is one.
        scope: ``run`` for options of a single run; ``job`` for keys of a job in a manifest;
            ``matrix`` for those that may vary within a matrix as well.
        minimum: the smallest number allowed; None allows every finite number.
    """

    help: str
    group: Group
    metavar: str | None = None
    setting: str | None = None
    scope: Scope = "run"
    minimum: float | None = None


def _option(default: Any, help: str, group: Group, **more: Any) -> Any:
    return field(default=default, metadata={"flag": Flag(help, group, **more)})


_DEVICE = "auto|cpu|cuda|cuda:N|mps"
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
"""The names of devices."""


@dataclass(frozen=True)
class ConvertOptions:
    """Everything that decides a conversion apart from its source and its output."""

    config: Optional[str] = _option(
        None,
        "A preset's name or a YAML file. [default: read off the checkpoint]",
        "Basics",
        scope="matrix",
    )
    time_mode: Optional[TimeMode] = _option(
        None,
        "Which parts become temporal. [default: conv-only]",
        "Temporal layers",
        setting="temporal.time_mode",
        scope="matrix",
    )
    merge_strategy: Optional[MergeStrategy] = _option(
        None,
        "How branches blend. [default: learned]",
        "Temporal layers",
        setting="temporal.merge_strategy",
        scope="matrix",
    )
    alpha: Optional[float] = _option(
        None,
        "Share of the temporal branch at the start. [default: 0]",
        "Temporal layers",
        metavar="F",
        setting="temporal.alpha",
        scope="matrix",
    )
    video_kernel_size: Optional[Union[int, tuple[int, ...]]] = _option(
        None,
        "Kernel of the time convolutions, odd. [default: 3]",
        "Temporal layers",
        metavar="N|T,H,W",
        setting="temporal.video_kernel_size",
        scope="matrix",
    )
    attn_type: Optional[AttnType] = _option(
        None,
        "Attention blocks. [default: the checkpoint's]",
        "Temporal layers",
        setting="architecture.attn_type",
        scope="matrix",
    )
    set: Optional[tuple[str, ...]] = _option(
        None, "Any key of the configuration.", "Advanced", metavar="KEY=VALUE", scope="job"
    )
    seed: Optional[int] = _option(
        None,
        "Seed of the random start. [default: 0]",
        "Temporal layers",
        metavar="N",
        setting="seed",
        scope="matrix",
    )
    dtype: Optional[StoredType] = _option(
        None, "Type to store in. [default: the source's]", "Output", setting="dtype", scope="matrix"
    )
    float32_norms: Optional[bool] = _option(
        None,
        "Keep temporal norms in float32 whatever --dtype.",
        "Output",
        setting="float32_norms",
        scope="matrix",
    )
    prefix: Optional[str] = _option(
        None, "Which autoencoder of SOURCE to take, such as 'vae.'.", "Basics", scope="matrix"
    )
    weights: Weights = _option(
        "plain", "Plain weights, or their moving averages.", "Basics", scope="matrix"
    )
    ignore: Optional[tuple[str, ...]] = _option(
        None,
        "Leave out tensors of SOURCE by name, such as '*.total_ops'.",
        "Advanced",
        metavar="PATTERN",
        scope="job",
    )
    layout: Optional[Target] = _option(
        None,
        "Layout to write; copies a video checkpoint. [default: autoencoder]",
        "Output",
        scope="matrix",
    )
    post_quant: PostQuant = _option(
        "keep", "What becomes of the 1x1 convolution before the decoder.", "Output", scope="matrix"
    )
    allow_inexact: bool = _option(
        False, "Fold although it changes the border.", "Output", scope="job"
    )
    device: str = _option(
        "auto",
        "Where parity is computed; auto takes CUDA if there is a GPU.",
        "Checks",
        metavar=_DEVICE,
        scope="matrix",
    )
    skip_parity: bool = _option(
        False, "Publish unverified; the file says so.", "Checks", scope="job"
    )
    dry_run: bool = _option(False, "Print the plan and write nothing.", "Basics")
    overwrite: bool = _option(False, "Replace an existing output.", "Output", scope="job")


@dataclass(frozen=True)
class VerifyOptions:
    """Everything that decides a verification apart from the two files."""

    atol: Optional[float] = _option(
        None, "Largest absolute error. [default: by --dtype]", "Checks", metavar="F", minimum=0
    )
    rtol: Optional[float] = _option(
        None, "Largest relative error. [default: by --dtype]", "Checks", metavar="F", minimum=0
    )
    device: str = _option(
        "auto",
        "Where parity is computed; auto takes CUDA if there is a GPU.",
        "Basics",
        metavar=_DEVICE,
    )
    dtype: ComputeType = _option("float32", "Type to compute in.", "Checks")
    seed: int = _option(0, "Seed of the probes.", "Checks", metavar="N")
    merge_strategy: Optional[MergeStrategy] = _option(
        None, "How the candidate blends, where its file does not say.", "Advanced"
    )
    prefix: Optional[str] = _option(
        None, "Which autoencoder of REFERENCE to take, such as 'vae.'.", "Advanced"
    )
    weights: Weights = _option("plain", "Plain weights, or their moving averages.", "Advanced")
    ignore: Optional[tuple[str, ...]] = _option(
        None, "Leave out tensors of REFERENCE by name.", "Advanced", metavar="PATTERN"
    )
    trainability: bool = _option(
        False, "Measure by two backward passes which temporal tensors learn.", "Checks"
    )
    images: Optional[Path] = _option(
        None, "Also decode these images, as frames of one video.", "Checks", metavar="DIR"
    )
    video: Optional[Path] = _option(
        None, "Also decode the first frames of this video.", "Checks", metavar="FILE"
    )
    latents: Optional[Path] = _option(
        None,
        "Also decode stored latents, T C h w or B T C h w, unscaled.",
        "Checks",
        metavar="FILE",
    )
    scaled_latents: bool = _option(
        False, "--latents are scaled, as diffusion models have them.", "Checks"
    )
    max_side: Optional[int] = _option(
        None,
        "Longest side of images and frames. [default: 128 on a CPU, else 512]",
        "Advanced",
        metavar="N",
        minimum=1,
    )
    max_frames: Optional[int] = _option(
        None,
        "How many images and frames to take. [default: 4 on a CPU, else 16]",
        "Advanced",
        metavar="N",
        minimum=1,
    )
    save_outputs: Optional[Path] = _option(
        None, "Keep latents and outputs of every probe here; new or empty.", "Output", metavar="DIR"
    )
    bisect: bool = _option(
        False, "Disable temporal modules one at a time to find the faulty one.", "Checks"
    )
    self_test: bool = _option(
        False, "Fault injection: every known corruption must be detected.", "Checks"
    )


_O = TypeVar("_O", ConvertOptions, VerifyOptions)


def flags(options: type[ConvertOptions] | type[VerifyOptions]) -> Mapping[str, Flag]:
    """The flag of every option, by the option's name."""
    return {option.name: option.metadata["flag"] for option in dataclasses.fields(options)}


JOB_OPTIONS = tuple(name for name, flag in flags(ConvertOptions).items() if flag.scope != "run")
"""The options of ``convert`` that a job of a batch may have."""

MATRIX_OPTIONS = tuple(
    name for name, flag in flags(ConvertOptions).items() if flag.scope == "matrix"
)
"""Those that may vary within a matrix."""

SETTINGS: Mapping[str, str] = {
    name: flag.setting for name, flag in flags(ConvertOptions).items() if flag.setting
}
"""The options that set a key of the configuration, and that key."""


def checked(options: _O) -> _O:
    """Options with values of the types declared; sequences become tuples, texts and paths either.

    Raises:
        ConfigError: options have other values; all of them at once.
    """
    problems, values = [], {}
    for name, hint in get_type_hints(type(options)).items():
        value = getattr(options, name)
        kinds = get_args(hint) if get_origin(hint) is Union else (hint,)
        if isinstance(value, str) and Path in kinds:
            value = Path(value)
        elif isinstance(value, Path) and str in kinds:
            value = str(value)
        elif isinstance(value, Iterable) and not isinstance(value, str):
            value = tuple(value)
        values[name] = value
        if not any(_is_of(value, kind) for kind in kinds):
            words = [w for kind in kinds if get_origin(kind) is Literal for w in get_args(kind)]
            close = nearest(str(value), words) if isinstance(value, str) else ""
            expected = f"one of {', '.join(words)}" if words else _expected(kinds)
            problems.append(f"{name} is {quoted(value)}{close}; expected {expected}")
    if problems:
        raise ConfigError("options have values that are not known:", problems)
    if not DEVICE.fullmatch(options.device):
        raise DeviceError(
            f"--device is {options.device!r}; expected auto, cpu, cuda, cuda:N or mps"
        )
    return dataclasses.replace(options, **values)


def check_location(name: str, value: object) -> None:
    """Raise ConfigError where an argument is neither a path nor a URL."""
    if not isinstance(value, (str, Path)):
        raise ConfigError(f"{name} is {quoted(value)}; expected a path or URL")


def _is_of(value: object, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_of(one, get_args(kind)[0]) for one in value)
    if isinstance(value, bool):  # To Python, it is a whole number as well.
        return kind is bool
    if isinstance(value, int) and abs(value) > _LARGEST:
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _expected(kinds: Iterable[Any]) -> str:
    return " or ".join(_NAMES[kind] for kind in kinds if kind is not type(None))


_LARGEST = 10**4000
"""Python writes few more digits than this has, and records hold numbers in digits."""

_NAMES: Mapping[Any, str] = {
    bool: "True or False",
    float: "a number",
    int: "a whole number",
    str: "a text",
    Path: "a path",
    tuple[int, ...]: "several of them",
    tuple[str, ...]: "texts such as key=value",
}
"""The types of options, as messages call them."""
