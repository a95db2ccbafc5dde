"""Compare two decoders spatial layer by spatial layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from inflate.formats.layouts import is_inflated
from inflate.models.attention import AttnBlock
from inflate.models.blocks import ResnetBlock
from inflate.models.temporal import TemporalBlock
from inflate.parity.metrics import is_finite, measure, worst_of, worst_verdict
from inflate.parity.pair import DecoderPair
from inflate.parity.result import Errors, LayerResult, Tolerance
from inflate.vocabulary import Verdict

_KINDS = (nn.Conv2d, nn.GroupNorm, ResnetBlock, AttnBlock)
"""The layer types of an image decoder, and the blocks that end in a temporal branch."""

_KEPT_BYTES = 2 << 30
"""The number of stored reference outputs; later layers are not compared."""


def spatial_layers(whole: nn.Module) -> dict[str, nn.Module]:
    """The spatial layers of a module by name."""
    return {
        name: module
        for name, module in whole.named_modules()
        if isinstance(module, _KINDS) and not is_inflated([name])
    }


@contextmanager
def _watching(layers: dict[str, nn.Module], watch: Callable[..., None]) -> Iterator[None]:
    """Call ``watch`` with the name, arguments and output of every layer as it is computed."""
    with ExitStack() as stack:
        for name, module in layers.items():
            stack.enter_context(module.register_forward_hook(partial(watch, name)))
        yield


class Lockstep:
    """Compares the layers of two decoders while they decode the same latents."""

    def __init__(self, pair: DecoderPair, tolerance: Tolerance) -> None:
        assert pair.modules is not None
        self._pair, self._tolerance = pair, tolerance
        one, two = map(spatial_layers, (pair.modules.reference, pair.modules.candidate))
        self._reference = {name: layer for name, layer in one.items() if name in two}
        self._candidate = {name: two[name] for name in self._reference}
        # Verdict and errors of each layer per probe, and whether the reference was finite.
        self._found: dict[str, list[tuple[Verdict, Errors, bool]]] = {}

    def decode(self, z: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Decode with both; a probe that raises an exception is left out of the comparison."""
        kept: dict[str, Tensor] = {}
        new: dict[str, tuple[Verdict, Errors, bool]] = {}
        room = _KEPT_BYTES

        def keep(name: str, _module: nn.Module, _args: Any, output: Tensor) -> None:
            nonlocal room
            room -= output.nbytes
            if room >= 0:
                # A copy, since later layers may work in place.
                kept[name] = output.clone()

        def compare(name: str, _module: nn.Module, _args: Any, output: Tensor) -> None:
            if name in kept:
                expected = kept.pop(name)
                new[name] = (*measure(expected, output, self._tolerance), is_finite(expected))

        with _watching(self._reference, keep):
            expected = self._pair.reference(z, frames)
        with _watching(self._candidate, compare):
            found = self._pair.candidate(z, frames)
        for name, compared in new.items():
            self._found.setdefault(name, []).append(compared)
        return expected, found

    @property
    def layers(self) -> tuple[LayerResult, ...]:
        """The layers in execution order, each with its worst errors over all probes."""
        results = []
        for name, found in self._found.items():
            verdicts, errors, _ = zip(*found, strict=True)
            layer = self._reference[name]
            kind = next(kind.__name__ for kind in _KINDS if isinstance(layer, kind))
            results.append(LayerResult(name, kind, worst_verdict(verdicts), worst_of(errors)))
        return tuple(results)

    @property
    def not_finite(self) -> str | None:
        """The first layer of the reference with an output that is not finite."""
        found = self._found.items()
        return next((name for name, runs in found if not all(run[2] for run in runs)), None)

    def culprit(self) -> str | None:
        """The first layer out of tolerance, or its block if only the layer's input was wrong.

        In both decoders, no other layer runs between the temporal attention of a block and the
        block's last projection: if the projection's weights are equal, the fault is in the block.
        """
        name = next((layer.name for layer in self.layers if layer.verdict == "fail"), None)
        if name is None or not name.endswith(".proj_out"):
            return name
        block = name.removesuffix(".proj_out")
        temporal = isinstance(self._candidate.get(block), TemporalBlock)
        one, two = self._reference[name].state_dict(), self._candidate[name].state_dict()
        same = all(torch.equal(one[key], two[key]) for key in one)
        return block if temporal and same else name
