"""Find faulty temporal modules, and inject faults that a check must detect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from inflate.formats.layouts import DECODER
from inflate.inflation.initializers import usual_start
from inflate.loading import make_tensor
from inflate.models import VideoDecoder
from inflate.models.temporal import AE3DConv, TemporalBlock, VideoResBlock
from inflate.models.video_decoder import TEMPORAL_MODULES
from inflate.parity.metrics import ProbeRun, is_finite, measure
from inflate.parity.pair import Decode, DecoderPair, Modules
from inflate.parity.result import Damage, Suspect, Tolerance
from inflate.progress import Progress

_STEP = 1.0
"""The amount by which a value is changed: far larger than the rounding of every type."""

_LEAST_SHARE = 0.01
"""Damage in a branch with a smaller share of the blend may be within tolerance."""


def bisect(
    pair: DecoderPair, run: ProbeRun, tolerance: Tolerance, progress: Progress
) -> tuple[Suspect, ...]:
    """Disable the temporal modules one at a time to find the faulty ones.

    With several faults, disabling one module does not remove the error. So each module is also
    judged separately, on the input of the reference's layer: it is faulty if it changes the
    block's output, or if the probe passes with only this module disabled.
    """
    assert pair.modules is not None
    frames = run.probe.frames
    blocks = {
        name: module
        for name, module in pair.modules.candidate.named_modules()
        if isinstance(module, TEMPORAL_MODULES)
    }
    inputs: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[name] = args[0]

    with ExitStack() as stack:
        for name in blocks:
            layer = pair.modules.reference.get_submodule(name)
            stack.enter_context(layer.register_forward_pre_hook(partial(keep, name)))
        pair.reference(run.z, frames)
    suspects = []
    for done, (name, block) in enumerate(blocks.items()):
        progress("bisecting", done, len(blocks))
        without = block(inputs[name], skip_video=True)
        alone, _ = measure(without, block(inputs[name], timesteps=frames), tolerance)
        with block.register_forward_pre_hook(_skip_video, with_kwargs=True):
            rest, left = measure(run.expected, pair.candidate(run.z, frames), tolerance)
        # A module whose input is not finite cannot be judged.
        guilty = alone == "fail" and is_finite(without)
        guilty = guilty or (run.result.verdict == "fail" and rest != "fail")
        parts = ("time_stack", "time_mix_conv", "time_mix_block")
        branch = next(part for part in parts if hasattr(block, part))
        suspects.append(Suspect(f"{name}.{branch}", guilty, left.max_abs))
    progress("bisecting", len(blocks), len(blocks))
    return tuple(suspects)


def _skip_video(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    return args, {**kwargs, "skip_video": True}


class _Fault(NamedTuple):
    """A tensor of the candidate, by its key without ``decoder.``, and its replacement."""

    name: str
    what: str
    key: str
    tensor: Tensor


def self_test(
    pair: DecoderPair, runs: Sequence[ProbeRun], tolerance: Tolerance
) -> tuple[tuple[Damage, ...], tuple[str, ...]]:
    """Inject each known fault into a candidate that passed, and find the probe that detects it.

    Afterwards the candidate is restored. A fault that cannot affect the output of this decoder is
    left out with a note.
    """
    assert pair.modules is not None
    video, damages, notes = pair.modules.candidate.video, [], []
    shared = pair.modules.reference.decoder.state_dict() if pair.weights.compared else {}

    def caught(candidate: Decode) -> str | None:
        """The first probe that a faulty candidate fails."""
        for run in runs:
            if measure(run.expected, candidate(run.z, run.probe.frames), tolerance)[0] == "fail":
                return run.probe.name
        return None

    for fault in _faults(pair.modules):
        if isinstance(fault, str):
            notes.append(f"self-test: {fault}")
            continue
        path, _, name = fault.key.rpartition(".")
        owner = video.get_submodule(path)
        before = getattr(owner, name)
        # Replace the tensor instead of writing to it: the reference may share it.
        setattr(owner, name, nn.Parameter(fault.tensor, requires_grad=False))
        try:
            probe = caught(pair.candidate)
        finally:
            setattr(owner, name, before)
        if probe is None and not torch.equal(shared.get(fault.key, fault.tensor), fault.tensor):
            probe = "weights"
        damages.append(Damage(fault.name, fault.what, probe))

    def reversed_frames(z: Tensor, frames: int) -> Tensor:
        images = pair.candidate(z, frames)
        return images.reshape(-1, frames, *images.shape[1:]).flip(1).flatten(0, 1)

    what = "the frames of each video in reverse order"
    damages.append(Damage("frames-swapped", what, caught(reversed_frames)))
    return tuple(damages), tuple(notes)


def _faults(modules: Modules) -> Iterator[_Fault | str]:
    """The known faults, or why one cannot affect this decoder's output."""
    decoder = modules.candidate.video
    branch = _zeroed_layer(decoder)
    dirac = "conv_out.time_mix_conv" if isinstance(decoder.conv_out, AE3DConv) else None
    norms = [module for module in decoder.modules() if isinstance(module, nn.GroupNorm)]
    if (key := dirac or branch) is None:
        yield "no temporal bias was changed: no temporal branch reaches the output"
    elif dirac is None and all(norm.num_channels == norm.num_groups for norm in norms):
        yield "no temporal bias was changed: with one channel per group, norms undo it"
    else:
        yield _moved("temporal-bias", decoder, f"{key}.bias", (0,))
    if modules.reference is modules.candidate:
        yield "no spatial weight was changed: the reference shares the candidate's weights"
    else:
        yield _moved("spatial-weight", decoder, "conv_in.weight", (0, 0, 1, 1))
    if branch is None:
        yield "no branch was randomised: none reaches the output"
    else:
        key = f"{branch}.weight"
        tensor = decoder.get_parameter(key)
        drawn = make_tensor(usual_start(tensor[0].numel()), tuple(tensor.shape), DECODER + key, 0)
        what = f"decoder.{key} drawn at random instead of zeros"
        yield _Fault("branch-not-zeroed", what, key, drawn.to(tensor))
    key = f"{dirac}.weight"
    weight = None if dirac is None else decoder.get_parameter(key).detach()
    axes = [axis for axis in (2, 3, 4) if weight is not None and weight.shape[axis] > 1]
    if weight is None or not axes:
        yield "no Dirac was moved: the output has no time convolution of more than one element"
    else:
        what = f"decoder.{key} moved by one {('frame', 'row', 'column')[axes[0] - 2]}"
        yield _Fault("dirac-off-centre", what, key, weight.roll(1, dims=axes[0]))


def _moved(name: str, decoder: VideoDecoder, key: str, index: tuple[int, ...]) -> _Fault:
    tensor = decoder.get_parameter(key).detach().clone()
    tensor[index] += _STEP
    return _Fault(name, f"{_STEP:g} added to decoder.{key}{list(index)}", key, tensor)


def _zeroed_layer(decoder: VideoDecoder) -> str | None:
    """The zero layer of the first temporal branch that contributes to the output."""
    for name, module in decoder.named_modules():
        if isinstance(module, TemporalBlock) and float(module.temporal_share()) >= _LEAST_SHARE:
            residual = isinstance(module, VideoResBlock)
            return f"{name}.{'time_stack.out_layers.3' if residual else 'time_mix_block.ff.net.2'}"
    return None
