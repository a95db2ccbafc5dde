"""Find the autoencoders and bare decoders of a file by their names, and select one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from inflate.errors import FamilyError, nearest
from inflate.formats.dialects import MARKS, Dialect, to_ldm, unwrapped
from inflate.formats.layouts import DECODER, PASSED_THROUGH, is_inflated, what_else


@dataclass(frozen=True)
class Candidate:
    """An autoencoder or bare decoder of a file; ``root`` precedes the names of its parts."""

    root: str
    bare: bool
    dialect: Dialect

    @property
    def decoder(self) -> str:
        """The prefix of the names inside its decoder."""
        return self.root if self.bare else self.root + DECODER

    def key_of(self, name: str, levels: int) -> str | None:
        """LDM's key for a name; None if it is not part of the autoencoder."""
        if not name.startswith(self.root):
            return None
        rest = name.removeprefix(self.root)
        part, _, inner = ("decoder", "", rest) if self.bare else rest.partition(".")
        if f"{part}." in PASSED_THROUGH[1:]:
            return rest
        if part not in ("encoder", "decoder"):
            return None
        # FLUX.2 has its quant convs inside the parts.
        if inner.startswith(("quant_conv.", "post_quant_conv.")):
            return inner
        return f"{part}.{to_ldm(inner, levels)}"

    def levels(self, names: Collection[str]) -> int:
        """The number of ``up_blocks`` in its decoder."""
        start = f"{self.decoder}up_blocks."
        found = {name[len(start) :].split(".")[0] for name in names if name.startswith(start)}
        return len(found)


def without_wrappers(stored: Sequence[str]) -> dict[str, str]:
    """Each name by its name without wrappers; names that would collide keep their wrappers."""
    counts = Counter(map(unwrapped, stored))
    return {own if counts[own := unwrapped(name)] == 1 else name: name for name in stored}


def choose(names: Collection[str], path: object, wanted: str | None) -> Candidate:
    """The one autoencoder or bare decoder among names, or the one that ``--prefix`` names.

    Raises:
        FamilyError: there is none, more than one, or none with this prefix.
    """
    found = {each.root: each for each in sorted(_candidates(names), key=lambda each: each.root)}
    if not found:
        raise FamilyError(f"{path} holds {what_else(list(names))}")
    if wanted is None and len(found) == 1:
        return next(iter(found.values()))
    choices = ", ".join(f"{root!r} ({_kind(names, each)})" for root, each in found.items())
    if wanted is None:
        raise FamilyError(
            f"{path} holds several autoencoders, under {choices}; choose one with --prefix"
        )
    with_dot = f"{wanted.rstrip('.')}."
    for form in (wanted, with_dot, unwrapped(with_dot)):
        if form in found:
            return found[form]
    raise FamilyError(
        f"{path} has no autoencoder under --prefix {wanted!r}; expected one of {choices}"
        f"{nearest(wanted, found)}"
    )


def _candidates(names: Collection[str]) -> Iterator[Candidate]:
    for name in names:
        for mark, dialect in MARKS.items():
            head = name.removesuffix(mark)
            if head == name or (head and not head.endswith(".")):
                continue
            last = head.split(".")[-2:-1]
            if last == ["decoder"]:
                yield Candidate(head.removesuffix(DECODER), False, dialect)
            elif last != ["encoder"] and _is_decoder(names, head):
                yield Candidate(head, True, dialect)


def _is_decoder(names: Collection[str], head: str) -> bool:
    """Whether the tensors below a prefix are a decoder's: upsampling and no downsampling."""
    sides = {name[len(head) :].split(".")[0] for name in names if name.startswith(head)}
    return bool(sides & {"up", "up_blocks"}) and not sides & {"down", "down_blocks"}


def _kind(names: Collection[str], candidate: Candidate) -> str:
    inflated = is_inflated(name for name in names if name.startswith(candidate.decoder))
    return "a video decoder" if inflated else "an image decoder"
