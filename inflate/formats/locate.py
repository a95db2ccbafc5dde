"""Find the autoencoder in a file by its names and translate them to LDM's; reads no tensor."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property

from inflate.errors import FamilyError
from inflate.formats.candidates import Candidate, choose, without_wrappers
from inflate.formats.dialects import Dialect, to_diffusers
from inflate.formats.layouts import DECODER, drop_reason, other_family, temporal_part
from inflate.io.index import NARROW, TensorInfo

_EMA = "model_ema."
"""The prefix of moving averages of weights; their names have no dots."""

_NOT_AVERAGED = ("mix_factor", "embed_avg", "cluster_size", "embedding_counter")
"""Buffers: a fixed blend, and the counters of a quantiser."""

_SCALES = ("scale_weight", "weight_scale")
_UNUSED_SCALES = ("scale_input", "input_scale")
_UNKNOWN_SCALES = ("scale", "zero_point", "comfy_quant", "absmax", "quant_state")
_ATTENTION_WEIGHT = re.compile(r"(^|\.)attn(_1|\.\d+)\.(q|k|v|proj_out)\.weight$")


@dataclass(frozen=True)
class Dropped:
    """A tensor of the file that is not part of the autoencoder, and the reason."""

    info: TensorInfo
    reason: str


@dataclass(frozen=True)
class Located:
    """The autoencoder of a file.

    ``tensors`` has LDM's keys without any prefix (``decoder.conv_in.weight``) and LDM's shapes,
    each with its name in the file. ``dropped`` has every other tensor, with a reason. ``scales``
    has the scale factors of narrow weights, by the weight's key. ``averages`` counts the tensors
    that have a moving average in the file.
    """

    prefix: str
    bare: bool
    dialect: Dialect
    tensors: Mapping[str, TensorInfo]
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...] = ()
    scales: Mapping[str, TensorInfo] = field(default_factory=dict)
    averages: int = 0

    @cached_property
    def temporal(self) -> list[str]:
        """The keys of its temporal tensors."""
        return [key for key in self.part(DECODER) if temporal_part(key)]

    @property
    def inflated(self) -> bool:
        """Whether its decoder is a video decoder."""
        return bool(self.temporal)

    def part(self, part: str) -> list[str]:
        """The keys of a part, such as ``encoder.``."""
        return [key for key in self.tensors if key.startswith(part)]

    def name_of(self, key: str) -> str:
        """The name of a key in the file, whether or not the file has it."""
        if key in self.tensors:
            return self.tensors[key].name
        if self.dialect == "diffusers":
            levels = {key.split(".")[2] for key in self.part(f"{DECODER}up.")}
            with suppress(KeyError):
                key = to_diffusers(key, len(levels), video=self.inflated)
        return self.prefix + (key.removeprefix(DECODER) if self.bare else key)


def locate(
    index: Mapping[str, TensorInfo],
    path: object,
    *,
    prefix: str | None = None,
    ema: bool = False,
    ignore: Sequence[str] = (),
) -> Located:
    """Find the autoencoder among the tensors of a file, given by their names.

    ``prefix`` selects one if a file holds several; ``ema`` selects the moving averages of the
    weights; ``ignore`` has patterns of names to leave out, such as ``*.total_ops``.

    Raises:
        FamilyError: there is no autoencoder that can be used.
    """
    ignored = [name for name in index if any(fnmatchcase(name, each) for each in ignore)]
    reasons = dict.fromkeys(ignored, "left out with --ignore")
    names = without_wrappers([name for name in index if name not in reasons])
    chosen = choose(names, path, prefix)
    below = {name.removeprefix(chosen.root) for name in names if name.startswith(chosen.root)}
    if family := other_family(below):
        raise FamilyError(f"{path} holds {family}")
    tensors: dict[str, TensorInfo] = {}
    averaged: dict[str, str] = {}
    levels = chosen.levels(names)
    for own, name in names.items():
        key = chosen.key_of(own, levels)
        if key is None:
            continue
        if key in tensors:
            raise FamilyError(
                f"{path} has two tensors for {key}: {tensors[key].name} and {name}; leave one out "
                "with --ignore"
            )
        tensors[key], averaged[key] = index[name], own
    notes = []
    scales = _take_scales(tensors, reasons, path)
    _check_placeholders(tensors, path)
    averages = _averages({key: averaged[key] for key in tensors}, names, index, chosen)
    if ema:
        if not any(key.startswith(DECODER) for key in averages):
            raise FamilyError(
                f"{path} has no moving averages of this decoder (names such as "
                f"{chosen.root}{_EMA}decoderconv_inweight); leave --weights ema out"
            )
        plain = [k for k in tensors if k not in averages and not k.endswith(_NOT_AVERAGED)]
        if plain:
            notes.append(
                f"the file has moving averages of {len(tensors) - len(plain)} of the "
                f"autoencoder's {len(tensors)} tensors; the others are its plain weights"
            )
        reasons |= {tensors[key].name: "replaced by its moving average" for key in averages}
        tensors |= averages
    taken = {info.name for info in (*tensors.values(), *scales.values())}
    reasons |= {
        name: drop_reason(own, chosen.root)
        for own, name in names.items()
        if name not in taken and name not in reasons
    }
    return Located(
        prefix=chosen.root,
        bare=chosen.bare,
        dialect=chosen.dialect,
        tensors=in_ldm_shapes(tensors),
        dropped=tuple(Dropped(index[n], reasons[n]) for n in index if n not in taken),
        notes=tuple(notes),
        scales=scales,
        averages=len(averages),
    )


def in_ldm_shapes(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Tensors by LDM's keys, with attention matrices reshaped to LDM's 1x1 convolutions."""
    return {
        key: replace(info, shape=(*info.shape, 1, 1))
        if len(info.shape) == 2 and _ATTENTION_WEIGHT.search(key)
        else info
        for key, info in tensors.items()
    }


def _take_scales(
    tensors: dict[str, TensorInfo], reasons: dict[str, str], path: object
) -> dict[str, TensorInfo]:
    """Remove the scale factors of narrow weights from the tensors; return them by weight key."""
    scales: dict[str, TensorInfo] = {}
    if not any(info.dtype in NARROW for info in tensors.values()):
        return scales
    for key in list(tensors):
        module, _, leaf = key.rpartition(".")
        if leaf in _SCALES:
            scales[f"{module}.weight"] = tensors.pop(key)
        elif leaf in _UNUSED_SCALES:
            reasons[tensors.pop(key).name] = "factor of activations, not of weights"
        elif any(word in leaf for word in _UNKNOWN_SCALES):
            raise _unknown_scale(tensors[key], path)
    for key, info in scales.items():
        if key not in tensors or info.parameters not in (1, *tensors[key].shape[:1]):
            raise _unknown_scale(info, path)
    return scales


def _unknown_scale(info: TensorInfo, path: object) -> FamilyError:
    return FamilyError(
        f"{path} scales its float8 weights by {info.name} of shape {list(info.shape)}; expected "
        f"one factor per tensor or output channel in {' or '.join(_SCALES)}, or none. Use the "
        "checkpoint in float16 or bfloat16"
    )


def _check_placeholders(tensors: Mapping[str, TensorInfo], path: object) -> None:
    empty = [info.name for info in tensors.values() if info.shape == (0,)]
    if 2 * len(empty) > len(tensors):
        raise FamilyError(
            f"{path} holds empty placeholders for {len(empty)} of the autoencoder's {len(tensors)} "
            f"tensors (such as {empty[0]}), as saved by DeepSpeed ZeRO-3; gather the weights "
            "first with its zero_to_fp32.py"
        )


def _averages(
    own: Mapping[str, str],
    names: Mapping[str, str],
    index: Mapping[str, TensorInfo],
    chosen: Candidate,
) -> dict[str, TensorInfo]:
    """The moving averages of tensors: LitEma removes the dots from names, under any root."""
    parts = chosen.root.split(".")
    best: dict[str, TensorInfo] = {}
    for root in ("".join(f"{part}." for part in parts[:n]) for n in reversed(range(len(parts)))):
        for start in (chosen.root, root):
            named = {
                key: f"{root}{_EMA}{name.removeprefix(start).replace('.', '')}"
                for key, name in own.items()
            }
            found = {key: index[names[name]] for key, name in named.items() if name in names}
            best = max(best, found, key=len)
    return best
