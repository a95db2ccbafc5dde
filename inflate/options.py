"""The options of ``convert`` and ``verify``, as flags, arguments, manifest keys and ledger keys."""

from __future__ import annotations

import dataclasses
import math
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

# Keep Optional and Union: Typer reads these annotations on Python 3.10.
# ruff: noqa: UP007, UP045

Group = Literal["Basics", "Temporal layers", "Output", "Checks", "Advanced"]
Scope = Literal["run", "job", "matrix"]


@dataclass(frozen=True)
class Flag:
    """Metadata of an option for the command line and manifests."""

    help: str
    """One sentence for ``--help``, at most 60 characters."""
    group: Group
    metavar: str | None = None
    setting: str | None = None
    """The configuration key that the option sets, if any."""
    scope: Scope = "run"
    """Whether a manifest's job may set the option, and whether its matrix may vary it."""
    minimum: float | None = None


def _option(help: str, group: Group, default: Any = None, **more: Any) -> Any:
    return field(default=default, metadata={"flag": Flag(help, group, **more)})


def _varying(help: str, group: Group, default: Any = None, **more: Any) -> Any:
    """An option that a matrix may vary."""
    return _option(help, group, default, scope="matrix", **more)


def _temporal(help: str, setting: str, metavar: str | None = None) -> Any:
    return _varying(help, "Temporal layers", metavar=metavar, setting=setting)


def _switch(help: str, group: Group, scope: Scope = "run") -> Any:
    return _option(help, group, False, scope=scope)


DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
"""The names of devices."""

_DEVICES = "auto|cpu|cuda|cuda:N|mps"
_DEVICE = _varying(
    "Where parity is computed; auto prefers CUDA.", "Checks", "auto", metavar=_DEVICES
)
_PREFIX = _varying(
    "Key prefix of the autoencoder to read, such as 'vae.'.", "Advanced", metavar="PREFIX"
)
_WEIGHTS = _varying("Weights, or their moving averages.", "Advanced", "plain")
_IGNORE = _option(
    "Leave out tensors by name, such as '*.total_ops'.", "Advanced", metavar="PATTERN", scope="job"
)


class _Checked:
    """Options whose values are checked against their declared types and ranges.

    Raises:
        ConfigError: values are of the wrong type or out of range; lists all of them.
        DeviceError: the device has an unknown name.
    """

    device: str

    def arguments(self) -> dict[str, Any]:
        """The options as arguments of ``convert`` or ``verify``: ``set`` is called ``set_``."""
        return {"set_" if name == "set" else name: value for name, value in vars(self).items()}

    def __post_init__(self) -> None:
        problems, hints = [], get_type_hints(type(self))
        for option in dataclasses.fields(self):  # type: ignore[arg-type]  # Of its subclasses.
            name, hint, minimum = option.name, hints[option.name], option.metadata["flag"].minimum
            kinds, value = _kinds(hint), getattr(self, name)
            if isinstance(value, str) and Path in kinds and "://" not in value:
                value = Path(value)
            elif isinstance(value, Path) and str in kinds:
                value = str(value)
            elif isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)):
                value = tuple(value)
            elif type(value) is int and float in kinds and abs(value) < _LARGEST_FLOAT:
                value = float(value)
            object.__setattr__(self, name, value)
            if not any(_is_of(value, kind) for kind in kinds):
                words = choices(hint)
                close = nearest(str(value), words) if isinstance(value, str) else ""
                expected = " or ".join(_NAMES[kind] for kind in kinds if kind in _NAMES)
                expected = f"one of {', '.join(words)}" if words else expected
                problems.append(f"{name} is {quoted(value)}{close}; expected {expected}")
            elif None not in (minimum, value) and not minimum <= value < math.inf:
                problems.append(f"{name} is {value}; expected a finite number, {minimum} or more")
        if problems:
            raise ConfigError("invalid options:", problems)
        if not DEVICE.fullmatch(self.device):
            close = nearest(self.device, ("auto", "cpu", "cuda", "mps"))
            raise DeviceError(
                f"--device is {self.device!r}{close}; expected auto, cpu, cuda, cuda:N or mps"
            )


@dataclass(frozen=True)
class ConvertOptions(_Checked):
    """All options of a conversion, except source and output."""

    config: Optional[str] = _varying(
        "Preset or YAML file. [default: read from the checkpoint]", "Basics", metavar="NAME|YAML"
    )
    time_mode: Optional[TimeMode] = _temporal(
        "Parts that become temporal. [default: conv-only]", "temporal.time_mode"
    )
    merge_strategy: Optional[MergeStrategy] = _temporal(
        "How the branches blend. [default: learned]", "temporal.merge_strategy"
    )
    alpha: Optional[float] = _temporal(
        "Initial blend, before the sigmoid if learned. [default: 0]", "temporal.alpha", "NUMBER"
    )
    video_kernel_size: Optional[Union[int, tuple[int, ...]]] = _temporal(
        "Temporal kernel, odd sizes. [default: 3]", "temporal.video_kernel_size", "N|T,H,W"
    )
    attn_type: Optional[AttnType] = _temporal(
        "Kind of attention blocks. [default: the checkpoint's]", "architecture.attn_type"
    )
    set: Optional[tuple[str, ...]] = _option(
        "Set any key of the configuration; repeatable.",
        "Advanced",
        metavar="KEY=VALUE",
        scope="job",
    )
    seed: Optional[int] = _temporal("Seed of the new temporal weights. [default: 0]", "seed", "N")
    dtype: Optional[StoredType] = _varying(
        "Type to store. [default: the source's]", "Output", setting="dtype"
    )
    float32_norms: Optional[bool] = _varying(
        "Keep temporal norms in float32 with any --dtype.", "Output", setting="float32_norms"
    )
    prefix: Optional[str] = _PREFIX
    weights: Weights = _WEIGHTS
    ignore: Optional[tuple[str, ...]] = _IGNORE
    layout: Optional[Target] = _varying("Layout to write; also converts a video SOURCE.", "Output")
    into: Optional[str] = _option(
        "Whole model to copy with its first stage replaced.", "Output", metavar="FILE"
    )
    base: Optional[str] = _option(
        "Image checkpoint for a SOURCE with only temporal layers.", "Output", metavar="FILE"
    )
    post_quant: PostQuant = _varying("Keep the quant convs, or fold them in.", "Output", "keep")
    allow_inexact: bool = _switch("Fold even if it changes the images.", "Output", "job")
    device: str = _DEVICE
    skip_parity: bool = _switch("Publish without the check; the file records it.", "Checks", "job")
    dry_run: bool = _switch("Print the plan; write nothing.", "Basics")
    overwrite: bool = _switch("Replace an existing output.", "Output", "job")
    source_sha256: bool = _switch(
        "Also record the SHA-256 of the source's files.", "Advanced", "job"
    )


@dataclass(frozen=True)
class VerifyOptions(_Checked):
    """All options of a verification, except the two files."""

    atol: Optional[float] = _option(
        "Absolute tolerance. [default: by --dtype]", "Checks", metavar="NUMBER", minimum=0
    )
    rtol: Optional[float] = _option(
        "Relative tolerance. [default: by --dtype]", "Checks", metavar="NUMBER", minimum=0
    )
    device: str = _DEVICE
    dtype: ComputeType = _option("Type to compute in.", "Checks", "float32")
    seed: int = _option("Seed of the probes.", "Checks", 0, metavar="N")
    merge_strategy: Optional[MergeStrategy] = _option(
        "Blend of the CANDIDATE, if its file does not record it.", "Advanced"
    )
    prefix: Optional[str] = _PREFIX
    weights: Weights = _WEIGHTS
    ignore: Optional[tuple[str, ...]] = _IGNORE
    trained: bool = _switch("Check a trained checkpoint against its image decoder.", "Checks")
    trainability: bool = _switch("Measure which temporal tensors learn.", "Checks")
    images: Optional[Path] = _option(
        "Also decode the images of a folder, as one video.", "Checks", metavar="DIR"
    )
    video: Optional[Path] = _option(
        "Also decode the first frames of a video.", "Checks", metavar="FILE"
    )
    latents: Optional[Path] = _option(
        "Also decode latents, T C h w or B T C h w, unscaled.", "Checks", metavar="FILE"
    )
    scaled_latents: bool = _switch("The --latents are scaled as in diffusion models.", "Checks")
    max_side: Optional[int] = _option(
        "Longest side in pixels. [default: 128 on a CPU, else 512]",
        "Advanced",
        metavar="N",
        minimum=1,
    )
    max_frames: Optional[int] = _option(
        "Most images and frames. [default: 4 on a CPU, else 16]", "Advanced", metavar="N", minimum=1
    )
    save_outputs: Optional[Path] = _option(
        "New folder for the latents and outputs of each probe.", "Output", metavar="DIR"
    )
    bisect: bool = _switch("Disable one temporal module at a time to find the fault.", "Checks")
    self_test: bool = _switch("Fault injection: every corruption must be detected.", "Checks")


_O = TypeVar("_O", ConvertOptions, VerifyOptions)


def flags(options: type[ConvertOptions] | type[VerifyOptions]) -> Mapping[str, Flag]:
    """The flag of every option, by the option's name."""
    return {option.name: option.metadata["flag"] for option in dataclasses.fields(options)}


_FLAGS = flags(ConvertOptions)
JOB_OPTIONS = tuple(name for name, flag in _FLAGS.items() if flag.scope != "run")
"""The options of ``convert`` that a batch job may set."""

MATRIX_OPTIONS = tuple(name for name, flag in _FLAGS.items() if flag.scope == "matrix")
"""The options that a matrix may vary."""

SETTINGS = {name: flag.setting for name, flag in _FLAGS.items() if flag.setting}
"""The options that set a configuration key, and that key."""


def choices(hint: Any) -> tuple[str, ...]:
    """The words that an option of this type accepts; empty if it is not a choice."""
    return tuple(w for kind in _kinds(hint) if get_origin(kind) is Literal for w in get_args(kind))


def options_of(kind: type[_O], arguments: Mapping[str, Any]) -> _O:
    """The options among the arguments of a function; the inverse of ``arguments``."""
    given = {"set": arguments.get("set_"), **arguments, "device": str(arguments["device"])}
    return kind(**{option.name: given[option.name] for option in dataclasses.fields(kind)})


def check_location(name: str, value: object) -> None:
    """Raise ConfigError if an argument is neither a path nor a URL."""
    if not isinstance(value, (str, Path)):
        raise ConfigError(f"{name} is {quoted(value)}; expected a path or URL")


def _kinds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is Union else (hint,)


def _is_of(value: object, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_of(one, get_args(kind)[0]) for one in value)
    if isinstance(value, bool):  # A bool is an int in Python.
        return kind is bool
    if isinstance(value, int) and abs(value) > _LARGEST:
        return False
    return isinstance(value, (int, float) if kind is float else kind)


_LARGEST_FLOAT = 2**1023
_LARGEST = 10**4000
"""Python converts few more digits than this to text, and records hold numbers as text."""

_NAMES: Mapping[Any, str] = {
    bool: "True or False",
    float: "a number",
    int: "a whole number",
    str: "a text",
    Path: "a local path",
    tuple[int, ...]: "several of them",
    tuple[str, ...]: "a list of texts",
}
"""Names of option types in messages."""
