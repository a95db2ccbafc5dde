"""Which temporal modules keep a video decoder from being its image decoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from inflate.models import VideoDecoder
from inflate.models.temporal import AE3DConv, VideoResBlock
from inflate.models.video_decoder import TEMPORAL_MODULES
from inflate.parity.comparands import Comparands, Modules
from inflate.parity.metrics import Tolerance, is_finite
from inflate.parity.result import BisectResult, Suspect
from inflate.parity.statistics import measure
from inflate.progress import Progress


def temporal_modules(decoder: VideoDecoder) -> dict[str, nn.Module]:
    """The blocks that hold a temporal module, by its name in a checkpoint.

    The name is that of the temporal part: ``decoder.mid.block_1.time_stack``. The embedding of the
    frames belongs to the attention that it feeds.
    """
    return {
        f"decoder.{name}.{_branch(module)}": module
        for name, module in decoder.named_modules()
        if isinstance(module, TEMPORAL_MODULES)
    }


def bisect(
    comparands: Comparands,
    z: Tensor,
    frames: int,
    expected: Tensor,
    *,
    failed: bool,
    tolerance: Tolerance,
    progress: Progress,
) -> BisectResult | None:
    """Set the temporal modules to an identity one at a time, and say which are guilty.

    With several guilty ones no error disappears with one alone. So each is judged by itself too:
    it gets what the reference's own layer gets, and is guilty where its output is then another
    than without it, or where the whole passes without it alone.

    Args:
        comparands: what is checked.
        z: latents of the probe that shows the error, ``(B T) e h w``.
        frames: T.
        expected: what the reference makes of them.
        failed: whether the probe fails.
        tolerance: what a temporal module may change.
        progress: told of every module.
    """
    modules = comparands.modules
    if modules is None:
        return None
    inputs = _reference_inputs(comparands, modules, z, frames)
    suspects = []
    named = temporal_modules(modules.candidate)
    for done, (name, block) in enumerate(named.items()):
        progress("bisecting", done, len(named))
        x = inputs[block]
        without, with_it = block(x, skip_video=True), block(x, timesteps=frames)
        alone, _ = measure(without, with_it, tolerance)
        with _identity(block):
            rest, left = measure(expected, comparands.candidate(z, frames), tolerance)
        # Of what is not finite before it is reached, a module cannot be guilty.
        guilty = (alone == "fail" and is_finite(without)) or (failed and rest != "fail")
        suspects.append(Suspect(name, guilty, left.max_abs))
    progress("bisecting", len(named), len(named))
    return BisectResult(tuple(suspects))


def _reference_inputs(
    comparands: Comparands, modules: Modules, z: Tensor, frames: int
) -> dict[nn.Module, Tensor]:
    """What the reference's layers get, by the candidate's blocks in the same places."""
    inputs: dict[nn.Module, Tensor] = {}

    def keep(block: nn.Module) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs[block] = args[0]

        return hook

    with ExitStack() as stack:
        for name, block in modules.candidate.named_modules():
            if isinstance(block, TEMPORAL_MODULES):
                own = modules.reference.get_submodule(name)
                stack.callback(own.register_forward_pre_hook(keep(block)).remove)
        comparands.reference(z, frames)
    return inputs


@contextmanager
def _identity(block: nn.Module) -> Iterator[None]:
    """A temporal block as the image's, whatever it is told."""

    def hook(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "skip_video": True}

    handle = block.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _branch(block: nn.Module) -> str:
    if isinstance(block, AE3DConv):
        return "time_mix_conv"
    return "time_stack" if isinstance(block, VideoResBlock) else "time_mix_block"
