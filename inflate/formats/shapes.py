"""Where the tensors of a file differ from those that its architecture has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches

from inflate.config.schema import Architecture
from inflate.formats.layouts import DECODER, UNCHECKED, is_inflated
from inflate.formats.locate import Located
from inflate.formats.spec import Shape, image_shapes
from inflate.io.index import FLOATS, NARROW

_MOST, _EXAMPLES = 10, 3
"""Problems of one kind that are listed; of more, so many are, and the rest is counted."""


def image_problems(
    located: Located, architecture: Architecture, temporal: Collection[str] = ()
) -> list[str]:
    """Every way in which the tensors of a file do not fit their architecture, as messages.

    Parts other than the decoder may be absent; a part that is present must be complete. The
    ``temporal`` keys are not compared.
    """
    problems = []
    for part, expected in image_shapes(architecture).items():
        present = [key for key in located.part(part) if key not in temporal]
        if part in UNCHECKED:
            present = [key for key in present if key in expected]
        if present or part == DECODER:
            problems += mismatches(located, expected, present)
    known = (*FLOATS, *NARROW)
    return problems + _counted(
        f"{info.name} is stored as {info.dtype}; expected one of {', '.join(known)}"
        for key, info in located.tensors.items()
        # Other quantisers have integer counters; they are passed through unchanged.
        if info.dtype not in known
        and (not key.startswith(UNCHECKED) or key == "quantize.embedding.weight")
    )


def mismatches(
    located: Located, expected: Mapping[str, Shape], present: Collection[str]
) -> list[str]:
    """Missing, extra and misshapen tensors of a part, as messages.

    Where many tensors have the same problem, three are named and the others counted.
    """
    extra = {located.name_of(key): key for key in present if key not in expected}
    missing = {located.name_of(key): key for key in expected if key not in located.tensors}
    hint = ""
    if extra and not missing:
        hint = ": another tool added them; --ignore PATTERN leaves them out"
    elif missing and is_inflated(missing.values()):
        hint = ": the file has fewer temporal layers than its configuration says"
    return [
        *_counted(
            (
                f"{name} is missing; expected the shape {list(expected[key])}{_alike(name, extra)}"
                for name, key in missing.items()
            ),
            hint,
        ),
        *_counted(
            (f"{name} is not part of this architecture{_alike(name, missing)}" for name in extra),
            hint,
        ),
        *_counted(
            f"{info.name} has the shape {list(info.shape)}; expected {list(shape)}"
            for key, shape in expected.items()
            if (info := located.tensors.get(key)) is not None and info.shape != shape
        ),
    ]


def _counted(problems: Iterable[str], hint: str = "") -> list[str]:
    found = list(problems)
    if len(found) <= _MOST:
        return found
    return [*found[:_EXAMPLES], f"and {len(found) - _EXAMPLES} more tensors like these{hint}"]


def _alike(name: str, others: Iterable[str]) -> str:
    close = get_close_matches(name, list(others), 1, cutoff=0.95)
    return f" (did you mean {close[0]!r}?)" if close else ""
