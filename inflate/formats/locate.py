"""The autoencoder in a file, found by its names and translated into LDM's; no tensor is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from inflate.errors import FamilyError, nearest
from inflate.formats.dialects import (
    attention_matrices,
    from_diffusers,
    speaks_diffusers,
    to_diffusers,
)
from inflate.formats.layouts import (
    DECODER,
    MARK,
    PASSED_THROUGH,
    drop_reason,
    ends_with,
    family_under,
    is_inflated,
    what_else,
)
from inflate.io.index import TensorInfo

EMA = "model_ema."
"""What stands before the moving averages of weights, whose names are flattened."""


@dataclass(frozen=True)
class LeftBehind:
    """A tensor of the file that is no part of the autoencoder, and the reason."""

    info: TensorInfo
    reason: str


@dataclass(frozen=True)
class Located:
    """The autoencoder of a file.

    ``tensors`` has its keys in LDM's words without any prefix (``decoder.conv_in.weight``), in
    LDM's shapes, each with its name in the file; ``dropped`` has the reason for everything else.
    ``notes`` are for whoever uses it, in words.
    """

    prefix: str
    bare: bool
    dialect: str
    weights: str
    tensors: Mapping[str, TensorInfo]
    dropped: tuple[LeftBehind, ...]
    notes: tuple[str, ...] = ()

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
        return key.removeprefix(DECODER) if self.bare else self.prefix + key


def locate(
    index: Mapping[str, TensorInfo], path: object, *, prefix: str | None = None, ema: bool = False
) -> Located:
    """Find the autoencoder among the tensors of a file.

    Args:
        index: all tensors of the file, by their names.
        path: the file's name, for messages.
        prefix: which one to take where a file holds several.
        ema: take the moving averages of the weights in place of the weights.

    Raises:
        FamilyError: there is none, another family's, more than one, or no moving average.
    """
    # A name that is not of diffusers, or that diffusers' own classes do not have, stays as it is.
    names = from_diffusers(index) if speaks_diffusers(index) else {}
    translated = {names.get(name, name): name for name in index}
    found, bare = _prefix(translated, index, path, prefix)
    family = family_under(index, found)
    if family is not None:
        raise FamilyError(f"{path} holds {family}")
    dialect = "diffusers" if speaks_diffusers(index, found) else "ldm"
    tensors = {}
    for own, name in translated.items():
        key = DECODER + own if bare else own.removeprefix(found)
        if own.startswith(found) and key.startswith((DECODER, *PASSED_THROUGH)):
            tensors[key] = index[name]
    if ema:
        tensors = _averaged(tensors, index, found, path)
    tensors = in_ldm_shapes(tensors)
    taken = {info.name for info in tensors.values()}
    dropped = []
    for name, info in index.items():
        if name not in taken:
            averaged = ema and names.get(name, name).removeprefix(found) in tensors
            reason = "replaced by its moving average" if averaged else drop_reason(name, found)
            dropped.append(LeftBehind(info, reason))
    weights = "ema" if ema else "plain"
    notes = _of_two_kinds(tensors, found) if ema else ()
    return Located(found, bare, dialect, weights, tensors, tuple(dropped), notes)


def in_ldm_shapes(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Tensors by LDM's keys, with attention matrices as the convolutions that LDM has."""
    matrices = attention_matrices({key: info.shape for key, info in tensors.items()})
    return {
        key: replace(info, shape=(*info.shape, 1, 1)) if key in matrices else info
        for key, info in tensors.items()
    }


def _prefix(
    names: Iterable[str], stored: Iterable[str], path: object, wanted: str | None
) -> tuple[str, bool]:
    """The prefix of the autoencoder, and whether the names are those of a bare decoder."""
    names = list(names)
    marks = [n for n in names if ends_with(n, DECODER + MARK)]
    prefixes = sorted(mark.removesuffix(DECODER + MARK) for mark in marks)
    bare = not prefixes and MARK in names and any(name.startswith("up.") for name in names)
    if bare:
        prefixes = [""]
    if not prefixes:
        raise FamilyError(f"{path} holds {what_else(list(stored))}")
    choices = ", ".join(f"{p!r} ({_kind(names, p)})" for p in prefixes)
    if wanted is not None:
        if wanted.rstrip(".") + "." not in prefixes and wanted not in prefixes:
            raise FamilyError(
                f"{path} has no autoencoder under --prefix {wanted!r}; expected one of {choices}"
                f"{nearest(wanted, prefixes)}"
            )
        return (wanted if wanted in prefixes else wanted.rstrip(".") + "."), bare
    if len(prefixes) > 1:
        raise FamilyError(
            f"{path} holds several autoencoders, under {choices}; choose one with --prefix"
        )
    return prefixes[0], bare


def _kind(names: Iterable[str], prefix: str) -> str:
    decoder = [name for name in names if name.startswith(prefix + DECODER)]
    return "a video decoder" if is_inflated(decoder) else "an image decoder"


def _of_two_kinds(tensors: Mapping[str, TensorInfo], prefix: str) -> tuple[str, ...]:
    """A note where moving averages cover a part of the autoencoder alone."""
    # Buffers are never averaged: a fixed blend, and what a quantiser counts.
    buffers = ("mix_factor", "embed_avg", "cluster_size", "embedding_counter")
    plain = [
        key
        for key, info in tensors.items()
        if not info.name.startswith(prefix + EMA) and not key.endswith(buffers)
    ]
    if not plain:
        return ()
    parts = Counter(key.partition(".")[0] for key in plain)
    told = ", ".join(f"{count} of {part}" for part, count in sorted(parts.items()))
    return (
        f"--weights ema: the file has moving averages of {len(tensors) - len(plain)} of the "
        f"autoencoder's {len(tensors)} tensors; the others are its plain weights ({told})",
    )


def _averaged(
    tensors: Mapping[str, TensorInfo], index: Mapping[str, TensorInfo], prefix: str, path: object
) -> dict[str, TensorInfo]:
    """Each tensor's moving average, whose name is its own without the dots."""
    names = {key: f"{prefix}{EMA}{key.replace('.', '')}" for key in tensors}
    found = {key: index[name] for key, name in names.items() if name in index}
    # A fixed blend is a buffer, and buffers are not averaged.
    lost = [key for key in tensors if key.startswith(DECODER) and key not in found
            and not key.endswith(".mix_factor")]  # fmt: skip
    if lost:
        have = len([key for key in found if key.startswith(DECODER)])
        raise FamilyError(
            f"{path} has moving averages of {have} of the decoder's {have + len(lost)} tensors "
            f"({names[lost[0]]} is missing); expected all of them for --weights ema"
        )
    return {**tensors, **found}
