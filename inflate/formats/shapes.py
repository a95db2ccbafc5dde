"""Where the tensors of a file differ from those that its architecture has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher

from inflate.config.schema import Architecture
from inflate.formats.layouts import DECODER, UNCHECKED, is_inflated
from inflate.formats.locate import Located
from inflate.formats.spec import Shape, image_shapes
from inflate.io.index import FLOATS, NARROW

_MOST = 10
"""Problems of one kind that are listed; of more, :data:`_EXAMPLES` are, and the rest is counted."""

_EXAMPLES = 3
_ALIKE = 0.6


def image_problems(
    located: Located, architecture: Architecture, temporal: frozenset[str] = frozenset()
) -> list[str]:
    """Every way in which the tensors of a file do not fit their architecture, as messages.

    Parts other than the decoder may be absent; a part that is present must be complete.

    Args:
        located: the autoencoder of the file.
        architecture: the expected architecture.
        temporal: keys of temporal tensors, which are not compared.
    """
    problems = []
    for part, expected in image_shapes(architecture).items():
        present = [key for key in located.part(part) if key not in temporal]
        if part in UNCHECKED:
            present = [key for key in present if key in expected]
        if present or part == DECODER:
            problems += mismatches(located, expected, present)
    known = (*FLOATS, *NARROW)
    other = [
        f"{info.name} is stored as {info.dtype}; expected one of {', '.join(known)}"
        for key, info in located.tensors.items()
        # Other quantisers have integer counters; they are passed through unchanged.
        if info.dtype not in known
        and (not key.startswith(UNCHECKED) or key == "quantize.embedding.weight")
    ]
    return problems + _counted(other, "are of other types", "it may be quantised")


def mismatches(located: Located, expected: Mapping[str, Shape], present: list[str]) -> list[str]:
    """Missing, extra and misshapen tensors of a part, as messages.

    Where many tensors have the same problem, three are named and the others counted.
    """
    names = {key: located.name_of(key) for key in (*expected, *present)}
    extra = [key for key in present if key not in expected]
    missing = [key for key in expected if key not in located.tensors]
    cause = _cause(present, extra, missing)
    misshapen = [
        f"{info.name} has the shape {list(info.shape)}; expected {list(shape)}"
        for key, shape in expected.items()
        if (info := located.tensors.get(key)) is not None and info.shape != shape
    ]
    return [
        *_counted(
            [
                f"{names[key]} is missing; expected the shape {list(expected[key])}"
                f"{_alike(key, extra, names)}"
                for key in missing
            ],
            "are missing",
            cause,
        ),
        *_counted(
            [
                f"{names[key]} is not part of this architecture{_alike(key, missing, names)}"
                for key in extra
            ],
            "are not part of this architecture",
            cause,
        ),
        *_counted(misshapen, "have other shapes", "its layers are of more than one width"),
    ]


def _counted(problems: list[str], what: str, cause: str) -> list[str]:
    if len(problems) <= _MOST:
        return problems
    more = len(problems) - _EXAMPLES
    return [*problems[:_EXAMPLES], f"and {more} more tensors {what}: {cause}"]


def _cause(present: list[str], extra: list[str], missing: list[str]) -> str:
    """The likely cause of many missing or extra tensors."""
    if any(word in key for key in extra for word in (".norm_layer.", ".conv_y.", ".conv_b.")):
        return "it may be diffusers' MOVQ, whose norms take the latents"
    if any(".block." in key or ".attn." in key for key in extra):
        return "its levels may have different numbers of blocks"
    if extra and not missing:
        return "another tool added them; --ignore PATTERN leaves them out"
    if missing and all(is_inflated([key]) for key in missing):
        return "the file has fewer temporal layers than its configuration says"
    if not present:
        return "the file does not have this part"
    return "the file may be incomplete, or of another architecture"


def _alike(key: str, others: Iterable[str], names: Mapping[str, str]) -> str:
    """`` (did you mean 'x'?)`` for a key that differs in one component, and only a little there."""
    parts = key.split(".")
    best, likeness = None, _ALIKE
    for other in others:
        differ = [pair for pair in zip(parts, other.split("."), strict=False) if pair[0] != pair[1]]
        if len(differ) == 1 and other.count(".") == key.count("."):
            ratio = SequenceMatcher(None, *differ[0]).ratio()
            if ratio >= likeness:
                best, likeness = other, ratio
    return "" if best is None else f" (did you mean {names[best]!r}?)"
