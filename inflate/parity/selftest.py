"""Fault injection: every known corruption of a sound candidate must be detected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inflate.formats.layouts import DECODER
from inflate.inflation.initializers import usual_start
from inflate.loading import make_tensor
from inflate.models import VideoDecoder
from inflate.models.temporal import AE3DConv, TemporalBlock, VideoResBlock
from inflate.parity.metrics import Tolerance, measure
from inflate.parity.pair import Decode, DecoderPair, Modules
from inflate.parity.result import Damage, SelfTestResult
from inflate.parity.running import ProbeRun

_STEP = 1.0
"""How far a number is moved: far beyond the rounding of every type."""

_LEAST_SHARE = 0.01
"""A branch with a smaller share of the blend may be damaged within tolerance."""


@dataclass(frozen=True)
class _Fault:
    """A tensor of the candidate, by its key without ``decoder.``, and what replaces it."""

    name: str
    what: str
    key: str
    tensor: Tensor


def self_test(
    pair: DecoderPair, runs: Sequence[ProbeRun], tolerance: Tolerance
) -> tuple[SelfTestResult | None, tuple[str, ...]]:
    """Inject each known fault into the candidate, and find the probe that detects it.

    Afterwards the candidate is as it was. A fault that cannot reach the output of this decoder is
    left out with a note.

    Args:
        pair: what was checked, and passed.
        runs: the probes of that check.
        tolerance: of that check.

    Returns:
        The faults and what caught them, and notes.
    """
    if pair.modules is None:
        return None, ("the self-test was left out: it needs decoders of this package",)
    video, damages, notes = pair.modules.candidate.video, [], []
    for fault in _faults(pair.modules):
        if isinstance(fault, str):
            notes.append(f"self-test: {fault}")
            continue
        with _replaced(video, fault.key, fault.tensor):
            caught = _caught(pair.candidate, runs, tolerance)
        if caught is None and _compared(pair, fault):
            caught = "weights"
        damages.append(Damage(fault.name, fault.what, caught))

    def reversed_frames(z: Tensor, frames: int) -> Tensor:
        images = pair.candidate(z, frames)
        return images.reshape(-1, frames, *images.shape[1:]).flip(1).flatten(0, 1)

    caught = _caught(reversed_frames, runs, tolerance)
    damages.append(Damage("frames-swapped", "the frames of each video in reverse order", caught))
    return SelfTestResult(tuple(damages)), tuple(notes)


def _caught(candidate: Decode, runs: Sequence[ProbeRun], tolerance: Tolerance) -> str | None:
    """The first probe that a faulty candidate fails."""
    for run in runs:
        if measure(run.expected, candidate(run.z, run.frames), tolerance)[0] == "fail":
            return run.result.name
    return None


def _compared(pair: DecoderPair, fault: _Fault) -> bool:
    """Whether the comparison of weights shows a fault."""
    assert pair.modules is not None
    shared = pair.modules.reference.decoder.state_dict()
    compared = bool(pair.weights.compared) and fault.key in shared
    return compared and not torch.equal(shared[fault.key], fault.tensor)


@contextmanager
def _replaced(decoder: VideoDecoder, key: str, tensor: Tensor) -> Iterator[None]:
    """Replace a tensor for a while; never write to it, since the reference may share it."""
    path, _, name = key.rpartition(".")
    owner = decoder.get_submodule(path)
    before = getattr(owner, name)
    setattr(owner, name, nn.Parameter(tensor, requires_grad=False))
    try:
        yield
    finally:
        setattr(owner, name, before)


def _faults(modules: Modules) -> Iterator[_Fault | str]:
    """The known faults, or why one cannot reach this decoder's output."""
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
        yield "no spatial weight was changed: the reference has the candidate's own"
    else:
        yield _moved("spatial-weight", decoder, "conv_in.weight", (0, 0, 1, 1))
    if branch is None:
        yield "no branch was drawn at random: none reaches the output"
    else:
        key = f"{branch}.weight"
        tensor = decoder.get_parameter(key)
        drawn = make_tensor(usual_start(tensor[0].numel()), tuple(tensor.shape), DECODER + key, 0)
        what = f"decoder.{key} drawn at random instead of zeros"
        yield _Fault("branch-not-zeroed", what, key, drawn.to(tensor))
    if dirac is None:
        yield "no Dirac was moved: the output has no time convolution"
        return
    key = f"{dirac}.weight"
    weight = decoder.get_parameter(key).detach()
    axis = next((i for i in (2, 3, 4) if weight.shape[i] > 1), None)
    if axis is None:
        yield "no Dirac was moved: the kernel of the time convolution has only one element"
    else:
        what = f"decoder.{key} moved by one {('frame', 'row', 'column')[axis - 2]}"
        yield _Fault("dirac-off-centre", what, key, weight.roll(1, dims=axis))


def _moved(name: str, decoder: VideoDecoder, key: str, index: tuple[int, ...]) -> _Fault:
    tensor = decoder.get_parameter(key).detach().clone()
    tensor[index] += _STEP
    return _Fault(name, f"{_STEP:g} added to decoder.{key}{list(index)}", key, tensor)


def _zeroed_layer(decoder: VideoDecoder) -> str | None:
    """The layer whose zeros make the first branch with a share of the output an identity."""
    for name, module in decoder.named_modules():
        if isinstance(module, TemporalBlock) and float(module.temporal_share()) >= _LEAST_SHARE:
            end = "time_stack.out_layers.3" if isinstance(module, VideoResBlock) else None
            return f"{name}.{end or 'time_mix_block.ff.net.2'}"
    return None
