"""The autoencoders and bare decoders of a file, recognised by names, and the one to take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from inflate.errors import FamilyError, nearest
from inflate.formats.dialects import (
    INNER,
    MARKS,
    WRAPPERS,
    Dialect,
    to_ldm,
    unwrapped,
    without_inner,
)
from inflate.formats.layouts import PASSED_THROUGH, ends_with, is_inflated, what_else


@dataclass(frozen=True)
class Candidate:
    """An autoencoder or bare decoder that a file may hold.

    ``root`` precedes the names of its parts, ``decoder`` those inside its decoder, both without
    wrappers; ``prefix`` is ``root`` as the file writes it.
    """

    prefix: str
    root: str
    decoder: str
    bare: bool
    dialect: Dialect


def without_wrappers(stored: Sequence[str]) -> dict[str, str]:
    """Each name by the name without wrappers; names that would be alike keep theirs."""
    counts = Counter(map(unwrapped, stored))
    return {own if counts[own := unwrapped(name)] == 1 else name: name for name in stored}


def choose(names: Mapping[str, str], path: object, wanted: str | None) -> Candidate:
    """The one autoencoder or bare decoder of a file, or the one that ``--prefix`` names.

    Raises:
        FamilyError: there is none, or more than one, or none of this prefix.
    """
    found = sorted(_candidates(names), key=lambda one: (one.prefix, one.decoder))
    if not found:
        raise FamilyError(f"{path} holds {what_else(list(names))}")
    choices = ", ".join(f"{one.prefix!r} ({_kind(names, one)})" for one in found)
    if wanted is None:
        if len(found) > 1:
            raise FamilyError(
                f"{path} holds several autoencoders, under {choices}; choose one with --prefix"
            )
        return found[0]
    forms = {wanted, f"{wanted.rstrip('.')}."}
    forms |= {form.removeprefix("state_dict.") for form in forms}
    for one in found:
        if one.prefix in forms or one.root in {unwrapped(form) for form in forms}:
            return one
    for one in found:  # The decoder of an autoencoder, taken alone.
        if one.decoder in forms:
            return replace(one, prefix=one.decoder, root=one.decoder, bare=True)
    raise FamilyError(
        f"{path} has no autoencoder under --prefix {wanted!r}; expected one of {choices}"
        f"{nearest(wanted, [one.prefix for one in found])}"
    )


def _candidates(names: Mapping[str, str]) -> Iterator[Candidate]:
    for own, name in names.items():
        for mark, dialect in MARKS.items():
            if not ends_with(own, mark):
                continue
            head = own.removesuffix(mark)
            parts = head.split(".")[:-1]
            while parts and parts[-1] in INNER:
                parts.pop()
            if parts[-1:] == ["decoder"]:
                root = "".join(f"{part}." for part in parts[:-1])
                yield Candidate(_as_stored(root, name), root, head, False, dialect)
            elif parts[-1:] != ["encoder"] and _is_decoder(names, head):
                yield Candidate(_as_stored(head, name), head, head, True, dialect)


def _is_decoder(names: Mapping[str, str], head: str) -> bool:
    """Whether the tensors below a prefix are a decoder's: they go up, and never down."""
    sides = {own[len(head) :].split(".")[0] for own in names if own.startswith(head)}
    return bool(sides & {"up", "up_blocks"}) and not sides & {"down", "down_blocks"}


def _as_stored(root: str, name: str) -> str:
    """A prefix without wrappers as a name in the file has it, wrappers at its end included."""
    parts = name.split(".")
    lengths = [n for n in range(len(parts)) if _joined(parts[:n]) == root]
    return "".join(f"{part}." for part in parts[: max(lengths)]) if lengths else root


def _joined(parts: Sequence[str]) -> str:
    return "".join(f"{part}." for part in parts if part not in WRAPPERS)


def _kind(names: Mapping[str, str], one: Candidate) -> str:
    inflated = is_inflated(name for name in names if name.startswith(one.decoder))
    return "a video decoder" if inflated else "an image decoder"


def levels_of(names: Mapping[str, str], chosen: Candidate) -> int:
    """How many ``up_blocks`` the decoder has."""
    start = f"{chosen.decoder}up_blocks."
    numbers = {own[len(start) :].split(".")[0] for own in names if own.startswith(start)}
    return len(numbers)


def key_of(own: str, chosen: Candidate, levels: int) -> str | None:
    """LDM's key for a name without wrappers; None where it is not part of the autoencoder."""
    if not own.startswith(chosen.root):
        return None
    part, _, rest = own[len(chosen.root) :].partition(".")
    if chosen.bare:
        part, rest = "decoder", own[len(chosen.root) :]
    elif f"{part}." in PASSED_THROUGH[1:]:
        return f"{part}.{rest}"
    elif part not in ("encoder", "decoder"):
        return None
    rest = without_inner(rest)
    # FLUX.2 has its quant convs inside the parts.
    if rest.startswith(("quant_conv.", "post_quant_conv.")):
        return rest
    return f"{part}.{to_ldm(rest, levels)}"
