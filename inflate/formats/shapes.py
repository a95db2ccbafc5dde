"""Where the tensors of a file differ from those that its architecture has."""

from __future__ import annotations

from collections.abc import Mapping

from inflate.config.schema import Architecture
from inflate.errors import nearest
from inflate.formats.layouts import DECODER, PASSED_THROUGH
from inflate.formats.locate import Located
from inflate.formats.spec import Shape, image_shapes
from inflate.io.index import FLOATS


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
        if part == "quantize.":
            # Other quantisers keep more than their codebook; it is passed through unchanged.
            present = [key for key in present if key in expected]
        if present or part == DECODER:
            problems += mismatches(located, expected, present)
    for key in (*located.part(DECODER), *(k for p in PASSED_THROUGH for k in located.part(p))):
        info = located.tensors[key]
        # Other quantisers have integer counters; they are passed through unchanged.
        counted = key.startswith("quantize.") and key != "quantize.embedding.weight"
        if info.dtype not in FLOATS and not counted:
            problems.append(
                f"{info.name} is stored as {info.dtype}; expected one of {', '.join(FLOATS)}"
            )
    return problems


def mismatches(located: Located, expected: Mapping[str, Shape], present: list[str]) -> list[str]:
    """Missing, extra and misshapen tensors of a part, as messages."""
    names = {key: located.name_of(key) for key in (*expected, *present)}
    extra = [key for key in present if key not in expected]
    missing = [key for key in expected if key not in located.tensors]
    # Keys are compared, not names: a long prefix would make any two of them alike.
    problems = [
        f"{names[key]} is missing; expected the shape {list(expected[key])}"
        f"{nearest(key, extra, names)}"
        for key in missing
    ]
    problems += [
        f"{names[key]} is not part of this architecture{nearest(key, missing, names)}"
        for key in extra
    ]
    for key, shape in expected.items():
        info = located.tensors.get(key)
        if info is not None and info.shape != shape:
            problems.append(f"{info.name} has the shape {list(info.shape)}; expected {list(shape)}")
    return problems
