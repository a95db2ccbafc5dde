"""The check checked: a sound candidate is spoilt in memory in known ways, which must be caught."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inflate.inflation.initializers import usual_start
from inflate.loading import make_tensor
from inflate.models import VideoDecoder
from inflate.models.blend import TemporalBlock
from inflate.models.temporal import AE3DConv, VideoResBlock
from inflate.parity.comparands import Comparands, Decode, Modules
from inflate.parity.metrics import Tolerance, compare
from inflate.parity.result import Damage, SelfTestResult

Shown = tuple[str, Tensor, int, Tensor]
"""A probe that was decoded before: its name, latents, frames, and the reference's images."""

_STEP = 1.0
"""By how much a number is moved: far beyond every type's rounding, far below what shows at once."""


_LEAST_SHARE = 0.01
"""Of a branch that is blended in by less, damage may drown in the tolerance by right."""


@dataclass(frozen=True)
class _Change:
    """A tensor of the candidate put in the place of another."""

    name: str
    what: str
    key: str
    """In the decoder, without ``decoder.``."""
    tensor: Tensor


def self_test(
    comparands: Comparands, shown: Sequence[Shown], tolerance: Tolerance
) -> tuple[SelfTestResult | None, tuple[str, ...]]:
    """Spoil the candidate in each known way, and see which probe catches it.

    The candidate is as it was afterwards. A damage that cannot reach the output of this decoder is
    left out, which a note says.

    Args:
        comparands: what was checked, and passed.
        shown: the probes of that check.
        tolerance: that of the check.
    """
    modules = comparands.modules
    if modules is None:
        return None, ("the self-test needs decoders of ours on both sides, and was left out",)
    damages, notes = [], []
    changes, left_out = _changes(modules)
    for change in changes:
        with _spoilt(modules.candidate, change.key, change.tensor):
            caught = _caught(comparands.candidate, shown, tolerance)
        if caught is None and _weights_tell(comparands, change):
            caught = "weights"
        damages.append(Damage(change.name, change.what, caught))
    caught = _caught(_swapping(comparands.candidate), shown, tolerance)
    damages.append(Damage("frames-swapped", "the frames of each video in reverse order", caught))
    notes += [f"self-test: {text}" for text in left_out]
    return SelfTestResult(tuple(damages)), tuple(notes)


def _caught(candidate: Decode, shown: Sequence[Shown], tolerance: Tolerance) -> str | None:
    """The first probe that a spoilt candidate fails."""
    for name, z, frames, expected in shown:
        if compare(expected, candidate(z, frames), tolerance).verdict == "fail":
            return name
    return None


def _weights_tell(comparands: Comparands, change: _Change) -> bool:
    """Whether a changed tensor is one that is compared with its source."""
    assert comparands.modules is not None
    reference = comparands.modules.reference.state_dict()
    if not comparands.weights.compared or change.key not in reference:
        return False
    return not torch.equal(reference[change.key], change.tensor)


def _swapping(decode: Decode) -> Decode:
    def swapped(z: Tensor, frames: int) -> Tensor:
        images = decode(z, frames)
        return images.reshape(-1, frames, *images.shape[1:]).flip(1).flatten(0, 1)

    return swapped


@contextmanager
def _spoilt(decoder: VideoDecoder, key: str, tensor: Tensor) -> Iterator[None]:
    """A decoder with another tensor, put back after.

    The tensor is replaced, and never written to: the reference may share it.
    """
    path, _, name = key.rpartition(".")
    owner = decoder.get_submodule(path)
    before = getattr(owner, name)
    setattr(owner, name, nn.Parameter(tensor, requires_grad=False))
    try:
        yield
    finally:
        setattr(owner, name, before)


def _changes(modules: Modules) -> tuple[list[_Change], list[str]]:
    """The damages that reach this decoder's output, and why others do not."""
    makers: Sequence[Callable[[Modules], _Change | str]] = (
        _temporal_bias,
        _spatial_weight,
        _branch_not_zeroed,
        _dirac_off_centre,
    )
    made = [make(modules) for make in makers]
    changes = [change for change in made if isinstance(change, _Change)]
    return changes, [text for text in made if isinstance(text, str)]


def _temporal_bias(modules: Modules) -> _Change | str:
    """The last bias of the first branch that is blended in, else of the output's convolution."""
    key = _last_layer(modules.candidate)
    if key is None and isinstance(modules.candidate.conv_out, AE3DConv):
        key = "conv_out.time_mix_conv"
    if key is None:
        return "no temporal bias reaches the output, since no temporal branch has a share of it"
    tensor = _tensor(modules.candidate, f"{key}.bias")
    tensor[0] += _STEP
    return _Change(
        "temporal-bias", f"{_STEP:g} added to decoder.{key}.bias[0]", f"{key}.bias", tensor
    )


def _spatial_weight(modules: Modules) -> _Change | str:
    if modules.reference is modules.candidate:
        return "a spatial weight is not spoilt, since the reference has the candidate's own"
    tensor = _tensor(modules.candidate, "conv_in.weight")
    tensor[0, 0, 1, 1] += _STEP
    what = f"{_STEP:g} added to decoder.conv_in.weight[0, 0, 1, 1]"
    return _Change("spatial-weight", what, "conv_in.weight", tensor)


def _branch_not_zeroed(modules: Modules) -> _Change | str:
    decoder = modules.candidate
    key = _last_layer(decoder)
    if key is None:
        return "no branch is left that must be zeros, since none has a share of the output"
    tensor = _tensor(decoder, f"{key}.weight")
    usual = usual_start(tensor[0].numel())
    drawn = make_tensor(usual, tuple(tensor.shape), f"decoder.{key}.weight", 0)
    return _Change(
        "branch-not-zeroed",
        f"decoder.{key}.weight drawn at random instead of zeros",
        f"{key}.weight",
        drawn.to(tensor),
    )


def _dirac_off_centre(modules: Modules) -> _Change | str:
    if not isinstance(modules.candidate.conv_out, AE3DConv):
        return "there is no Dirac to move, since the output has no time convolution"
    key = "conv_out.time_mix_conv.weight"
    tensor = _tensor(modules.candidate, key)
    axis = next((i for i in (2, 3, 4) if tensor.shape[i] > 1), None)
    if axis is None:
        return "there is no Dirac to move, since the time convolution has a kernel of one number"
    what = f"decoder.{key} moved on by one {('frame', 'row', 'column')[axis - 2]}"
    return _Change("dirac-off-centre", what, key, tensor.roll(1, dims=axis))


def _last_layer(decoder: VideoDecoder) -> str | None:
    """The layer whose zeros make the first branch that is blended in an identity."""
    for name, module in decoder.named_modules():
        if isinstance(module, TemporalBlock) and float(module.temporal_share()) >= _LEAST_SHARE:
            if isinstance(module, VideoResBlock):
                return f"{name}.time_stack.out_layers.3"
            return f"{name}.time_mix_block.ff.net.2"
    return None


def _tensor(decoder: VideoDecoder, key: str) -> Tensor:
    return decoder.get_parameter(key).detach().clone()
