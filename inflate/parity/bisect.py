"""Find the temporal modules that make a video decoder differ from its image decoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from inflate.models.temporal import AE3DConv, VideoResBlock
from inflate.models.video_decoder import TEMPORAL_MODULES
from inflate.parity.metrics import Tolerance, is_finite, measure
from inflate.parity.pair import DecoderPair
from inflate.parity.result import BisectResult, Suspect
from inflate.parity.running import ProbeRun
from inflate.progress import Progress


def bisect(
    pair: DecoderPair, run: ProbeRun, tolerance: Tolerance, progress: Progress
) -> BisectResult | None:
    """Disable the temporal modules one at a time to find the faulty ones.

    With several faults no error disappears with one module. So each is also judged by itself, on
    the input of the reference's own layer: a module is faulty if it changes the block's output, or
    if the probe passes without it alone.

    Args:
        pair: what is checked.
        run: the probe that shows the error.
        tolerance: what a temporal module may change.
        progress: called for every module.
    """
    if pair.modules is None:
        return None
    blocks = {
        name: module
        for name, module in pair.modules.candidate.named_modules()
        if isinstance(module, TEMPORAL_MODULES)
    }
    own = {name: pair.modules.reference.get_submodule(name) for name in blocks}
    inputs = _inputs(pair, own, run)
    failed, suspects = run.result.verdict == "fail", []
    for done, (name, block) in enumerate(blocks.items()):
        progress("bisecting", done, len(blocks))
        x = inputs[name]
        without, with_it = block(x, skip_video=True), block(x, timesteps=run.frames)
        alone, _ = measure(without, with_it, tolerance)
        with _disabled(block):
            rest, left = measure(run.expected, pair.candidate(run.z, run.frames), tolerance)
        # A module whose input is not finite cannot be judged.
        guilty = (alone == "fail" and is_finite(without)) or (failed and rest != "fail")
        suspects.append(Suspect(f"{name}.{_branch(block)}", guilty, left.max_abs))
    progress("bisecting", len(blocks), len(blocks))
    return BisectResult(tuple(suspects))


def _inputs(pair: DecoderPair, layers: dict[str, nn.Module], run: ProbeRun) -> dict[str, Tensor]:
    """The inputs of the reference's layers on a probe."""
    inputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs[name] = args[0]

        return hook

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(keep(name)).remove)
        pair.reference(run.z, run.frames)
    return inputs


@contextmanager
def _disabled(block: nn.Module) -> Iterator[None]:
    """Run a temporal block as the image's block."""

    def hook(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "skip_video": True}

    handle = block.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _branch(block: nn.Module) -> str:
    """The temporal part of a block, as a checkpoint names it."""
    if isinstance(block, AE3DConv):
        return "time_mix_conv"
    return "time_stack" if isinstance(block, VideoResBlock) else "time_mix_block"
