"""Compare the outputs of each spatial layer of two decoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inflate.formats.layouts import is_inflated
from inflate.models.attention import AttnBlock
from inflate.models.blocks import ResnetBlock
from inflate.models.temporal import TemporalBlock
from inflate.parity.metrics import Tolerance, is_finite, measure, worst_of, worst_verdict
from inflate.parity.pair import Modules
from inflate.parity.result import Errors, LayerResult
from inflate.vocabulary import Verdict

_KINDS = (nn.Conv2d, nn.GroupNorm, ResnetBlock, AttnBlock)
"""The layers of an image decoder that compute, and the blocks that end in a temporal branch."""

_KEPT_BYTES = 2 << 30
"""Outputs of the reference that are kept for the candidate's; later layers are not compared."""


@dataclass(frozen=True)
class _Compared:
    """A layer on a probe, and whether the reference's own output is finite."""

    name: str
    verdict: Verdict
    errors: Errors
    finite: bool


def spatial_layers(whole: nn.Module) -> dict[str, nn.Module]:
    """The spatial layers of a module by name."""
    return {
        name: module
        for name, module in whole.named_modules()
        if isinstance(module, _KINDS) and not is_inflated([name])
    }


@contextmanager
def watching(layers: dict[str, nn.Module], watch: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call ``watch`` with the name and the output of every layer as it is computed."""

    def watcher(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
            watch(name, output)

        return hook

    with ExitStack() as stack:
        for name, module in layers.items():
            stack.callback(module.register_forward_hook(watcher(name)).remove)
        yield


class Lockstep:
    """Compares the layers of two decoders while they decode the same latents.

    The reference decodes inside :meth:`reference`, then the candidate inside :meth:`candidate`, in
    the same pieces. Each output of the reference is kept until it is compared. A probe that an
    exception ends is left out.
    """

    def __init__(self, modules: Modules, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        one, two = spatial_layers(modules.reference), spatial_layers(modules.candidate)
        names = [name for name in one if name in two]
        self._reference = {name: one[name] for name in names}
        self._candidate = {name: two[name] for name in names}
        self._kept: dict[str, list[Tensor]] = {}
        self._bytes = 0
        self._new: list[_Compared] = []
        self._found: dict[str, list[_Compared]] = {}

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Keep the outputs of the reference's layers."""
        self._kept, self._bytes = {}, 0
        with watching(self._reference, self._keep):
            yield

    @contextmanager
    def candidate(self) -> Iterator[None]:
        """Compare the outputs of the candidate's layers with those that were kept."""
        self._new = []
        try:
            with watching(self._candidate, self._compare):
                yield
            for compared in self._new:
                self._found.setdefault(compared.name, []).append(compared)
        finally:
            self._kept = {}

    @property
    def layers(self) -> tuple[LayerResult, ...]:
        """The layers in the order in which they ran, each with its worst numbers of all probes."""
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
        bad = (name for name, found in self._found.items() if not all(c.finite for c in found))
        return next(bad, None)

    def culprit(self) -> str | None:
        """The first layer out of tolerance, or its block if only the layer's input was wrong.

        Between the temporal attention of a block and the block's last projection both decoders have
        no other layer: if the projection's weights are equal, the fault is in the block.
        """
        name = next((layer.name for layer in self.layers if layer.verdict == "fail"), None)
        if name is None or not name.endswith(".proj_out"):
            return name
        block = name.removesuffix(".proj_out")
        temporal = isinstance(self._candidate.get(block), TemporalBlock)
        one, two = self._reference[name].state_dict(), self._candidate[name].state_dict()
        same = all(torch.equal(one[key], two[key]) for key in one)
        return block if temporal and same else name

    def _keep(self, name: str, output: Tensor) -> None:
        self._bytes += output.nbytes
        if self._bytes <= _KEPT_BYTES:
            # A copy, since later layers may work in place.
            self._kept.setdefault(name, []).append(output.clone())

    def _compare(self, name: str, output: Tensor) -> None:
        if not self._kept.get(name):
            return
        expected = self._kept[name].pop(0)
        verdict, errors = measure(expected, output, self._tolerance)
        finite = errors.finite or is_finite(expected)
        self._new.append(_Compared(name, verdict, errors, finite))


def _kind(module: nn.Module) -> str:
    """The usual name of a layer's class."""
    kinds = {nn.GroupNorm: "GroupNorm", nn.Conv2d: "Conv2d", ResnetBlock: "ResnetBlock"}
    return next((name for kind, name in kinds.items() if isinstance(module, kind)), "AttnBlock")
