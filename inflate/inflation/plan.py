"""The plan of a conversion, made before any tensor is read or written.

It is total: it says where every tensor of the target comes from, and where every one of the source
goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from inflate.checkpoint.index import FLOATS, WIDTHS, TensorInfo
from inflate.checkpoint.layouts import (
    DECODER,
    PASSED_THROUGH,
    Layout,
    drop_reason,
    is_inflated,
)
from inflate.config.schema import Architecture, Config
from inflate.errors import FamilyError, PlanError, nearest
from inflate.inflation.initializers import Rule, start_rules
from inflate.models import Encoder, VideoDecoder

Part = Literal["spatial", "temporal", "passed-through"]
Index = Mapping[str, TensorInfo]


@dataclass(frozen=True)
class Copy:
    """A tensor that comes from the source, under its name there."""

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

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return torch.Size(self.shape).numel()

    @property
    def info(self) -> TensorInfo:
        """What the writer needs to know of it."""
        return TensorInfo(self.key, self.shape, self.dtype, self.parameters * WIDTHS[self.dtype])


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
    def notes(self) -> tuple[str, ...]:
        """What whoever trains the result should know of it, in words."""
        temporal = self.config.temporal
        if temporal.merge_strategy == "fixed" and temporal.alpha == 0.0:
            return (
                "a fixed blend with alpha 0 lets no gradient into the temporal branches: they stay "
                "as they are made, however long the decoder is trained. To let them learn, choose "
                "--merge-strategy learned, or an alpha above 0",
            )
        return ()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors of the target."""
        return sum(tensor.info.nbytes for tensor in self.tensors)


def make_plan(index: Index, layout: Layout, config: Config, path: object) -> InflationPlan:
    """Plan the conversion of a checkpoint.

    Args:
        index: the tensors of the source.
        layout: where the autoencoder stands among them.
        config: what to make of it.
        path: the source's name, for messages.

    Raises:
        FamilyError: the source is a video decoder already.
        PlanError: missing and extra keys, wrong shapes and types, all of them at once.
    """
    decoder_names = layout.decoder_names(index)
    if is_inflated(decoder_names):
        raise FamilyError(
            f"{path} is inflated already: its decoder has temporal layers; expected an image "
            "autoencoder. 'inflate verify' checks it as it is"
        )
    video = build_video_decoder(config)
    rules = start_rules(video)
    problems: list[str] = []
    tensors = []
    spatial = {k: tuple(v.shape) for k, v in video.state_dict().items() if k not in rules}
    problems += mismatches(index, layout.decoder, spatial, decoder_names)
    encoder_names = layout.part_names(index, "encoder.")
    if encoder_names:
        shapes = {k: tuple(v.shape) for k, v in build_encoder(config).state_dict().items()}
        problems += mismatches(index, f"{layout.prefix}encoder.", shapes, encoder_names)
    problems += _aroundmismatches(index, layout, config)
    used = [*decoder_names, *(n for p in PASSED_THROUGH for n in layout.part_names(index, p))]
    problems += [
        f"{name} is stored as {index[name].dtype}; expected one of {', '.join(FLOATS)}"
        for name in used
        if index[name].dtype not in FLOATS
    ]
    if problems:
        raise PlanError(f"{path} does not fit its architecture:", problems)

    made_dtype = config.dtype or index[f"{layout.decoder}conv_in.weight"].dtype
    for key, value in video.state_dict().items():
        shape = tuple(value.shape)
        if key in rules:
            planned = PlannedTensor(DECODER + key, shape, made_dtype, "temporal", Make(rules[key]))
        else:
            source = layout.decoder + key
            dtype = config.dtype or index[source].dtype
            planned = PlannedTensor(DECODER + key, shape, dtype, "spatial", Copy(source))
        tensors.append(planned)
    for part in PASSED_THROUGH:
        for name in layout.part_names(index, part):
            info = index[name]
            key = name.removeprefix(layout.prefix)
            tensors.append(
                PlannedTensor(
                    key, info.shape, config.dtype or info.dtype, "passed-through", Copy(name)
                )
            )
    # Wider types first, so that every tensor lies at a multiple of its width; else as they came.
    tensors.sort(key=lambda tensor: -WIDTHS[tensor.dtype])
    dropped = _dropped(index, layout, set(used))
    return InflationPlan(config, tuple(tensors), dropped)


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


def quant_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The tensors between encoder and decoder: quant convs and codebook, by their keys."""
    shapes: dict[str, tuple[int, ...]] = {}
    e, z = architecture.embed_dim, architecture.z_channels
    if e is not None:
        twice = 2 if architecture.double_z else 1
        shapes["quant_conv.weight"] = (twice * e, twice * z, 1, 1)
        shapes["quant_conv.bias"] = (twice * e,)
        shapes["post_quant_conv.weight"] = (z, e, 1, 1)
        shapes["post_quant_conv.bias"] = (z,)
    if architecture.n_embed is not None:
        shapes["quantize.embedding.weight"] = (architecture.n_embed, e if e is not None else z)
    return shapes


def _aroundmismatches(index: Index, layout: Layout, config: Config) -> list[str]:
    """What is wrong with the quant convs and the codebook; none of them is required."""
    expected = {f"{layout.prefix}{k}": s for k, s in quant_shapes(config.architecture).items()}
    parts = ("quant_conv.", "post_quant_conv.")
    present = [name for part in parts for name in layout.part_names(index, part)]
    present += [n for n in layout.part_names(index, "quantize.") if n in expected]
    problems = []
    for name in present:
        if name not in expected:
            problems.append(f"{name} is not part of this architecture{nearest(name, expected)}")
        elif index[name].shape != expected[name]:
            problems.append(_shape_problem(index[name], expected[name]))
    for part in parts:
        names = layout.part_names(index, part)
        wanted = [n for n in expected if n.startswith(layout.prefix + part)]
        problems += [f"{name} is missing" for name in wanted if names and name not in index]
    return problems


def mismatches(
    index: Index, prefix: str, expected: Mapping[str, tuple[int, ...]], present: Iterable[str]
) -> list[str]:
    """Missing, extra and misshapen tensors of a part, in words.

    Args:
        index: the tensors of a file.
        prefix: what stands before the part's keys there.
        expected: the part's keys and shapes.
        present: the names in the file that claim to be of the part.
    """
    wanted = {prefix + key: shape for key, shape in expected.items()}
    extra = [name for name in present if name not in wanted]
    missing = [name for name in wanted if name not in index]
    problems = [
        f"{name} is missing; expected the shape {list(wanted[name])}{nearest(name, extra)}"
        for name in missing
    ]
    problems += [
        f"{name} is not part of this architecture{nearest(name, missing)}" for name in extra
    ]
    problems += [
        _shape_problem(index[name], shape)
        for name, shape in wanted.items()
        if name in index and index[name].shape != shape
    ]
    return problems


def _shape_problem(info: TensorInfo, expected: tuple[int, ...]) -> str:
    return f"{info.name} has the shape {list(info.shape)}; expected {list(expected)}"


def _dropped(index: Index, layout: Layout, used: set[str]) -> tuple[Dropped, ...]:
    found = []
    for name, info in index.items():
        if name not in used:
            reason = drop_reason(name, layout) or "not part of an autoencoder of this family"
            found.append(Dropped(name, reason, info.nbytes))
    return tuple(found)
