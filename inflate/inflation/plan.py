"""The plan of a conversion, made before any tensor is read or written.

It is total: it says where every tensor of the target comes from, and where every one of the source
goes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from inflate.checkpoint.index import FLOATS, WIDTHS, TensorInfo
from inflate.checkpoint.layouts import DECODER, PASSED_THROUGH, is_inflated
from inflate.checkpoint.locate import Located
from inflate.checkpoint.shapes import image_problems, mismatches
from inflate.config.schema import Config
from inflate.errors import FamilyError, PlanError
from inflate.inflation.initializers import Rule, norm_keys, start_rules
from inflate.models import Encoder, VideoDecoder

Part = Literal["spatial", "temporal", "passed-through"]


@dataclass(frozen=True)
class Copy:
    """A tensor that comes from the source: its key there, and its name in the file."""

    key: str
    source: str


@dataclass(frozen=True)
class Make:
    """A tensor that a rule makes."""

    rule: Rule


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the target: its place, its shape and stored type, and its one origin."""

    key: str
    shape: tuple[int, ...]
    dtype: str
    part: Part
    origin: Copy | Make
    name: str = ""
    """Its name in the file, where a layout calls it otherwise than its key."""

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return torch.Size(self.shape).numel()

    @property
    def info(self) -> TensorInfo:
        """What the writer needs to know of it."""
        nbytes = self.parameters * WIDTHS[self.dtype]
        return TensorInfo(self.name or self.key, self.shape, self.dtype, nbytes)


@dataclass(frozen=True)
class Dropped:
    """A tensor of the source that is left behind, and why."""

    source: str
    reason: str
    nbytes: int


@dataclass(frozen=True)
class InflationPlan:
    """All tensors of the target, in the order of the file, and all that is left behind."""

    config: Config
    tensors: tuple[PlannedTensor, ...]
    dropped: tuple[Dropped, ...]

    def of(self, part: Part) -> tuple[PlannedTensor, ...]:
        """The tensors of a part."""
        return tuple(tensor for tensor in self.tensors if tensor.part == part)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors of the target."""
        return sum(tensor.info.nbytes for tensor in self.tensors)


def make_plan(located: Located, config: Config, path: object) -> InflationPlan:
    """Plan the inflation of an image autoencoder.

    Args:
        located: the autoencoder of the source.
        config: what to make of it.
        path: the source's name, for messages.

    Raises:
        FamilyError: the source is a video decoder already.
        PlanError: missing and extra keys, wrong shapes and types, all of them at once.
    """
    if located.inflated:
        raise FamilyError(
            f"{path} is inflated already: its decoder has temporal layers; expected an image "
            "autoencoder. 'inflate verify' checks it as it is, and --layout writes it in another "
            "layout"
        )
    _check(image_problems(located, config.architecture), path)
    video = build_video_decoder(config)
    rules = start_rules(video)
    wide = _wide_norms(video, config)
    made = config.dtype or located.tensors[f"{DECODER}conv_in.weight"].dtype
    tensors = []
    for own, value in video.state_dict().items():
        key = DECODER + own
        if own in rules:
            shape = tuple(value.shape)
            dtype = "float32" if key in wide else made
            tensors.append(PlannedTensor(key, shape, dtype, "temporal", Make(rules[own])))
        else:
            assert tuple(value.shape) == located.tensors[key].shape, key
            tensors.append(_copied(located, key, "spatial", config))
    tensors += _passed_through(located, config)
    return _plan(config, tensors, located)


def make_copy_plan(located: Located, config: Config, path: object) -> InflationPlan:
    """Plan the copy of a video checkpoint, as it is, into another layout or type.

    Raises:
        PlanError: missing and extra keys, wrong shapes and types, all of them at once.
    """
    video = build_video_decoder(config)
    temporal = {f"{DECODER}{key}" for key in start_rules(video)}
    expected = {f"{DECODER}{k}": tuple(v.shape) for k, v in video.state_dict().items()}
    own = {key: shape for key, shape in expected.items() if key in temporal}
    present = [key for key in located.part(DECODER) if is_inflated([key])]
    problems = image_problems(located, config.architecture, frozenset(present))
    _check(problems + mismatches(located, own, present), path)
    wide = _wide_norms(video, config)
    tensors = []
    for key in expected:
        copied = _copied(located, key, "temporal" if key in temporal else "spatial", config)
        tensors.append(replace(copied, dtype="float32") if key in wide else copied)
    return _plan(config, [*tensors, *_passed_through(located, config)], located)


def build_video_decoder(config: Config) -> VideoDecoder:
    """The video decoder of a configuration, on the meta device: shapes, no numbers."""
    with torch.device("meta"):
        return VideoDecoder(
            **config.architecture.module_arguments(), **config.temporal.module_arguments()
        )


def build_encoder(config: Config) -> Encoder:
    """The encoder of a configuration, on the meta device."""
    with torch.device("meta"):
        return Encoder(**config.architecture.module_arguments())


def _wide_norms(video: VideoDecoder, config: Config) -> set[str]:
    """The keys that stay in float32 whatever the stored type: temporal norms, where asked for."""
    return {DECODER + key for key in norm_keys(video)} if config.float32_norms else set()


def _plan(config: Config, tensors: list[PlannedTensor], located: Located) -> InflationPlan:
    # Wider types first, so that every tensor lies at a multiple of its width; else as they came.
    tensors.sort(key=lambda tensor: -WIDTHS[tensor.dtype])
    dropped = tuple(Dropped(d.info.name, d.reason, d.info.nbytes) for d in located.dropped)
    return InflationPlan(config, tuple(tensors), dropped)


def _copied(located: Located, key: str, part: Part, config: Config) -> PlannedTensor:
    info = located.tensors[key]
    # Counters of a quantiser stay whole numbers whatever the weights are stored in.
    dtype = (config.dtype or info.dtype) if info.dtype in FLOATS else info.dtype
    return PlannedTensor(key, info.shape, dtype, part, Copy(key, info.name))


def _passed_through(located: Located, config: Config) -> list[PlannedTensor]:
    keys = [key for part in PASSED_THROUGH for key in located.part(part)]
    return [_copied(located, key, "passed-through", config) for key in keys]


def _check(problems: list[str], path: object) -> None:
    if problems:
        raise PlanError(f"{path} does not fit its architecture:", problems)
