"""The autoencoder in a file, found by its names and translated into LDM's; no tensor is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from inflate.errors import FamilyError
from inflate.formats.candidates import Candidate, choose, key_of, levels_of, without_wrappers
from inflate.formats.dialects import (
    Dialect,
    attention_matrices,
    to_diffusers,
)
from inflate.formats.layouts import (
    CONDITION,
    DECODER,
    drop_reason,
    family_under,
    is_inflated,
)
from inflate.io.index import NARROW, TensorInfo

EMA = "model_ema."
"""What precedes the moving averages of weights, whose names are flattened."""

_SCALES = ("scale_weight", "weight_scale")
_UNUSED_SCALES = ("scale_input", "input_scale")
_UNKNOWN_SCALES = ("scale", "zero_point", "comfy_quant", "absmax", "quant_state")


@dataclass(frozen=True)
class LeftBehind:
    """A tensor of the file that is not part of the autoencoder, and the reason."""

    info: TensorInfo
    reason: str


@dataclass(frozen=True)
class Located:
    """The autoencoder of a file.

    ``tensors`` has its keys in LDM's words without any prefix (``decoder.conv_in.weight``), in
    LDM's shapes, each with its name in the file; ``dropped`` has the reason for everything else.
    ``scales`` has the factor of each narrow weight that has one, by the weight's key; ``averages``
    is how many of the tensors have a moving average in the file.
    """

    prefix: str
    bare: bool
    dialect: Dialect
    weights: str
    tensors: Mapping[str, TensorInfo]
    dropped: tuple[LeftBehind, ...]
    notes: tuple[str, ...] = ()
    scales: Mapping[str, TensorInfo] = field(default_factory=dict)
    averages: int = 0

    @property
    def inflated(self) -> bool:
        """Whether its decoder is a video decoder."""
        return is_inflated(key for key in self.tensors if key.startswith(DECODER))

    def part(self, part: str) -> list[str]:
        """The keys of a part, such as ``encoder.``."""
        return [key for key in self.tensors if key.startswith(part)]

    def name_of(self, key: str) -> str:
        """A key as the file calls it, or would."""
        if key in self.tensors:
            return self.tensors[key].name
        if self.dialect == "diffusers":
            levels = {key.split(".")[2] for key in self.part(f"{DECODER}up.")}
            with suppress(KeyError):
                key = to_diffusers([key], len(levels), video=self.inflated)[key]
        return self.prefix + (key.removeprefix(DECODER) if self.bare else key)


def locate(
    index: Mapping[str, TensorInfo],
    path: object,
    *,
    prefix: str | None = None,
    ema: bool = False,
    ignore: Sequence[str] = (),
) -> Located:
    """Find the autoencoder among the tensors of a file.

    Args:
        index: all tensors of the file, by their names.
        path: the file's name, for messages.
        prefix: which one to take where a file holds several.
        ema: take the moving averages of the weights in place of the weights.
        ignore: patterns of names to leave out, such as ``*.total_ops``.

    Raises:
        FamilyError: there is none, another family's, more than one, or no moving average; its
            weights are placeholders, or scaled in an unknown way.
    """
    ignored = {name for name in index if any(fnmatchcase(name, each) for each in ignore)}
    names = without_wrappers([name for name in index if name not in ignored])
    chosen = choose(names, path, prefix)
    family = family_under(names, chosen.root)
    if family is not None:
        raise FamilyError(f"{path} holds {family}")
    tensors: dict[str, TensorInfo] = {}
    levels = levels_of(names, chosen)
    for own, name in names.items():
        key = key_of(own, chosen, levels)
        if key is None:
            continue
        if key in tensors:
            raise FamilyError(
                f"{path} has two tensors for {key}: {tensors[key].name} and {name}; leave one out "
                "with --ignore"
            )
        tensors[key] = index[name]
    reasons = dict.fromkeys(ignored, "left out with --ignore")
    notes = []
    condition = [key for key in tensors if key.startswith(DECODER + CONDITION)]
    if condition and chosen.dialect == "diffusers":
        reasons |= {tensors.pop(key).name: "used for inpainting only" for key in condition}
        notes.append(
            f"the decoder's {len(condition)} tensors for inpainting ({CONDITION}*) are left out"
        )
    scales = _scales(tensors, reasons, path)
    _check_placeholders(tensors, path)
    averages = _averages(tensors, index, chosen)
    if ema:
        if not any(key.startswith(DECODER) for key in averages):
            raise FamilyError(
                f"{path} has no moving averages of this decoder (names such as "
                f"{chosen.prefix}{EMA}decoderconv_inweight); leave --weights ema out"
            )
        notes += _of_two_kinds(tensors, averages)
        reasons |= {tensors[key].name: "replaced by its moving average" for key in averages}
        tensors = {**tensors, **averages}
    taken = {info.name for info in (*tensors.values(), *scales.values())}
    dropped = tuple(
        LeftBehind(info, reasons.get(name) or drop_reason(name, chosen.prefix))
        for name, info in index.items()
        if name not in taken
    )
    return Located(
        prefix=chosen.prefix,
        bare=chosen.bare,
        dialect=chosen.dialect,
        weights="ema" if ema else "plain",
        tensors=in_ldm_shapes(tensors),
        dropped=dropped,
        notes=tuple(notes),
        scales=scales,
        averages=len(averages),
    )


def in_ldm_shapes(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Tensors by LDM's keys, with attention matrices as the convolutions that LDM has."""
    matrices = attention_matrices({key: info.shape for key, info in tensors.items()})
    return {
        key: replace(info, shape=(*info.shape, 1, 1)) if key in matrices else info
        for key, info in tensors.items()
    }


def _scales(
    tensors: dict[str, TensorInfo], reasons: dict[str, str], path: object
) -> dict[str, TensorInfo]:
    """Take the factors of narrow weights out of the tensors, by the key of the weight."""
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
            raise FamilyError(
                f"{path} scales its float8 weights in a way that is not known here "
                f"({tensors[key].name}); expected none, or one factor per tensor or channel in "
                f"{' or '.join(_SCALES)}. Use the checkpoint in float16 or bfloat16"
            )
    for key, info in scales.items():
        weight = tensors.get(key)
        if weight is None or info.parameters not in (1, *weight.shape[:1]):
            raise FamilyError(
                f"{path}: {info.name} of shape {list(info.shape)} is not one factor per tensor or "
                "output channel of its weight. Use the checkpoint in float16 or bfloat16"
            )
    return scales


def _check_placeholders(tensors: Mapping[str, TensorInfo], path: object) -> None:
    empty = [info.name for info in tensors.values() if info.shape == (0,)]
    if 2 * len(empty) > len(tensors):
        raise FamilyError(
            f"{path} holds empty placeholders for {len(empty)} of the autoencoder's {len(tensors)} "
            f"tensors (such as {empty[0]}), as DeepSpeed's ZeRO-3 saves them; gather the weights "
            "first with its zero_to_fp32.py"
        )


def _averages(
    tensors: Mapping[str, TensorInfo], index: Mapping[str, TensorInfo], chosen: Candidate
) -> dict[str, TensorInfo]:
    """The moving averages of tensors: LitEma names them without dots, from any root."""
    if not any(EMA in name for name in index):
        return {}
    parts = chosen.prefix.split(".")
    roots = ["".join(f"{part}." for part in parts[:n]) for n in range(len(parts))]
    best: dict[str, TensorInfo] = {}
    for root in reversed(roots):
        for start in (chosen.prefix, root):
            names = {
                key: f"{root}{EMA}{info.name.removeprefix(start).replace('.', '')}"
                for key, info in tensors.items()
            }
            found = {key: index[name] for key, name in names.items() if name in index}
            if len(found) > len(best):
                best = found
    return best


def _of_two_kinds(
    tensors: Mapping[str, TensorInfo], averages: Mapping[str, TensorInfo]
) -> list[str]:
    """A note where moving averages cover only a part of the autoencoder."""
    # Buffers are never averaged: a fixed blend, and what a quantiser counts.
    buffers = ("mix_factor", "embed_avg", "cluster_size", "embedding_counter")
    plain = [key for key in tensors if key not in averages and not key.endswith(buffers)]
    if not plain:
        return []
    parts = Counter(key.partition(".")[0] for key in plain)
    counts = ", ".join(f"{count} of {part}" for part, count in sorted(parts.items()))
    return [
        f"--weights ema: the file has moving averages of {len(tensors) - len(plain)} of the "
        f"autoencoder's {len(tensors)} tensors; the others are its plain weights ({counts})"
    ]
