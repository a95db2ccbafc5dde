"""Two decoders in lockstep: the output of each spatial layer of the one against the other's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inflate.formats.layouts import is_inflated
from inflate.models.blend import TemporalBlock
from inflate.models.blocks import AttnBlock, ResnetBlock
from inflate.parity.comparands import Modules
from inflate.parity.metrics import Tolerance, is_finite, worst_verdict
from inflate.parity.result import Errors, LayerResult
from inflate.parity.statistics import measure, worst_of
from inflate.vocabulary import Verdict

_KINDS = (nn.Conv2d, nn.GroupNorm, ResnetBlock, AttnBlock)
"""The layers of an image decoder that compute, and the blocks whose end a temporal branch joins."""

_KEPT_BYTES = 2 << 30
"""Outputs of the reference that wait for the candidate's; what is beyond is not compared."""

Watch = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class _Compared:
    """A layer on a probe, and whether the reference's own output is finite."""

    name: str
    verdict: Verdict
    errors: Errors
    finite: bool


def spatial_layers(decoder: nn.Module) -> dict[str, nn.Module]:
    """The spatial layers of a decoder by their names in a checkpoint, ``decoder.*``."""
    return {
        f"decoder.{name}": module
        for name, module in decoder.named_modules()
        if isinstance(module, _KINDS) and not is_inflated([name])
    }


@contextmanager
def watching(layers: dict[str, nn.Module], watch: Watch) -> Iterator[None]:
    """Tell ``watch`` the output of every layer as it is computed."""

    def told(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
            watch(name, output)

        return hook

    with ExitStack() as stack:
        for name, module in layers.items():
            stack.callback(module.register_forward_hook(told(name)).remove)
        yield


class Lockstep:
    """Compares the layers of two decoders while they decode the same latents.

    The reference decodes inside :meth:`reference`, then the candidate inside :meth:`candidate`; an
    output of the reference is held until the candidate's is there, and freed. A decoder may decode
    a batch in pieces, each its own; a probe that one of them begins anew, for want of memory, is
    left out.
    """

    def __init__(self, modules: Modules, tolerance: Tolerance) -> None:
        self._modules = modules
        self._tolerance = tolerance
        names = [
            ("post_quant_conv", modules.before_reference, modules.before_candidate),
            *(
                (name, module, _layer(modules.candidate, name))
                for name, module in spatial_layers(modules.reference).items()
            ),
        ]
        pairs = {name: (a, b) for name, a, b in names if a is not None and b is not None}
        self._reference = {name: pair[0] for name, pair in pairs.items()}
        self._candidate = {name: pair[1] for name, pair in pairs.items()}
        self._kept: dict[str, list[Tensor]] = {}
        self._bytes = 0
        self._seen: Counter[str] = Counter()
        self._new: list[_Compared] = []
        self._found: dict[str, list[_Compared]] = {}

    @contextmanager
    def reference(self, batch: int) -> Iterator[None]:
        """Keep what the reference's layers give for a batch of so many frames."""
        self._kept, self._bytes, self._seen, self._new = {}, 0, Counter(), []
        with watching(self._reference, self._keep):
            yield
        self._begin(batch)

    @contextmanager
    def candidate(self, batch: int) -> Iterator[None]:
        """Compare what the candidate's layers give with what was kept."""
        try:
            with watching(self._candidate, self._compare):
                yield
            if self._seen.total() == len(self._seen) * batch:
                for compared in self._new:
                    self._found.setdefault(compared.name, []).append(compared)
        finally:
            self._kept = {}

    @property
    def layers(self) -> tuple[LayerResult, ...]:
        """The layers in the order in which they ran, each with the worst of all probes."""
        return tuple(
            LayerResult(
                name,
                _kind(self._reference[name]),
                worst_verdict([compared.verdict for compared in found]),
                worst_of([compared.errors for compared in found]),
            )
            for name, found in self._found.items()
        )

    @property
    def not_finite(self) -> str | None:
        """The first layer of the reference whose own output is not finite."""
        spoilt = (n for n, found in self._found.items() if not all(c.finite for c in found))
        return next(spoilt, None)

    def culprit(self) -> str | None:
        """The first layer out of tolerance; for one that was only fed wrong, its block.

        Nothing that both decoders have lies between the temporal attention of a block and the
        block's last projection: where its weights are the same on both sides, the block it is.
        """
        name = next((layer.name for layer in self.layers if layer.verdict == "fail"), None)
        if name is None or not name.endswith(".proj_out"):
            return name
        block = name.removesuffix(".proj_out")
        temporal = isinstance(self._candidate.get(block), TemporalBlock)
        return block if temporal and self._same_weights(name) else name

    def _same_weights(self, name: str) -> bool:
        one, two = self._reference[name].state_dict(), self._candidate[name].state_dict()
        return all(torch.equal(one[key], two[key]) for key in one)

    def _begin(self, batch: int) -> None:
        """Be ready for the candidate, unless the reference began anew."""
        if self._seen.total() != len(self._seen) * batch:
            self._kept = {}
        self._seen.clear()

    def _keep(self, name: str, output: Tensor) -> None:
        self._seen[name] += len(output)
        self._bytes += output.nbytes
        if self._bytes <= _KEPT_BYTES:
            # A copy: what runs next may take the place of what it was given.
            self._kept.setdefault(name, []).append(output.clone())

    def _compare(self, name: str, output: Tensor) -> None:
        self._seen[name] += len(output)
        kept = self._kept.pop(name, None)
        if kept is None:
            return
        expected = kept[0] if len(kept) == 1 else torch.cat(kept)
        if len(expected) > len(output):  # The candidate decodes in pieces.
            self._kept[name] = [expected[len(output) :]]
            expected = expected[: len(output)]
        verdict, errors = measure(expected, output, self._tolerance)
        finite = errors.finite or is_finite(expected)
        self._new.append(_Compared(name, verdict, errors, finite))


def _layer(decoder: nn.Module, name: str) -> nn.Module:
    return decoder.get_submodule(name.removeprefix("decoder."))


def _kind(module: nn.Module) -> str:
    """The class that the field knows: the layer's own, or that of the image block."""
    if isinstance(module, nn.GroupNorm):
        return "GroupNorm"
    if isinstance(module, nn.Conv2d):
        return "Conv2d"
    return "ResnetBlock" if isinstance(module, ResnetBlock) else "AttnBlock"
