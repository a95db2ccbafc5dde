"""``inspect``: the content of a file, and what ``convert`` would do with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from inflate.config.loading import matching_presets
from inflate.config.schema import Architecture, Temporal
from inflate.display import Displayed, bytes_text
from inflate.errors import InflateError
from inflate.formats import recorded
from inflate.formats.architecture import infer_architecture, infer_temporal
from inflate.formats.blending import Blend, find_blend
from inflate.formats.fingerprint import fingerprint_of
from inflate.formats.layouts import DECODER, PASSED_THROUGH
from inflate.formats.locate import Dropped, Located, locate
from inflate.formats.targets import LAYOUTS, layout_of
from inflate.formats.views import autoencoder_view
from inflate.io.files import CheckpointFiles
from inflate.io.index import TensorInfo
from inflate.io.location import is_remote
from inflate.io.reader import Checkpoint, open_checkpoint
from inflate.options import ConvertOptions, check_location
from inflate.progress import Progress, silent
from inflate.vocabulary import MergeStrategy, Target, Weights
from inflate.workflow.planning import find_source, prepare, problems_of
from inflate.workflow.sources import default_output, local_source

_CHEAP = 32 << 20
"""The largest autoencoder, in bytes, whose fingerprint is computed by default."""


@dataclass(frozen=True)
class Group:
    """A group of tensors: their number and their size in bytes."""

    name: str
    tensors: int
    parameters: int
    nbytes: int

    @classmethod
    def of(cls, name: str, infos: Collection[TensorInfo]) -> Group:
        """Count some tensors."""
        parameters = sum(info.parameters for info in infos)
        return cls(name, len(infos), parameters, sum(info.nbytes for info in infos))


@dataclass(frozen=True, repr=False)
class Inspection(Displayed):
    """The content of a file, and what ``convert`` would do with it.

    ``kind`` is None if the file has no autoencoder of this family. ``layout`` is None unless it is
    a video autoencoder in a layout that ``convert`` writes. ``dropped`` has the omitted tensors by
    reason. ``obstacles`` are the reasons why ``convert`` refuses the file; ``layouts`` has them per
    ``--layout``. ``blend.strategy`` is None if unknown, ``fingerprint`` if it was not computed.
    ``changed`` is whether tensors changed since the header was written; None if unknown.
    """

    path: Path
    files: CheckpointFiles
    kind: str | None
    names: str | None
    prefix: str | None
    layout: Target | None
    has_ema: bool
    architecture: Architecture | None
    temporal: Temporal | None
    blend: Blend | None
    presets: tuple[str, ...]
    dtypes: Mapping[str, int]
    parts: tuple[Group, ...]
    dropped: tuple[Group, ...]
    foreign: tuple[str, ...]
    metadata: Mapping[str, str]
    would_write: Path
    obstacles: tuple[str, ...]
    layouts: Mapping[Target, tuple[str, ...]]
    fingerprint: str | None = None
    changed: bool | None = None

    def _facts(self) -> dict[str, object]:
        converts = f"converts to {self.would_write.name}"
        if self.obstacles:
            converts = f"cannot be converted: {self.obstacles[0]}"
        return {
            "kind": self.kind or "not an autoencoder of this family",
            "path": self.path.name,
            "size": bytes_text(sum(group.nbytes for group in self.parts)),
            "convert": converts,
            "presets": ", ".join(self.presets) or "none of this shape",
            "types": ", ".join(self.dtypes),
        }

    @property
    def inflated(self) -> bool:
        """Whether it is a video autoencoder or decoder."""
        return self.kind is not None and self.kind.startswith("video")

    @property
    def trained(self) -> bool:
        """Whether the header records that it was trained."""
        return recorded.is_trained(self.metadata)

    @property
    def copied(self) -> int:
        """How many tensors ``convert`` would copy into the decoder."""
        return sum(group.tensors for group in self.parts if group.name.startswith("decoder"))

    @property
    def passed_through(self) -> int:
        """How many tensors outside the decoder ``convert`` would keep as they are."""
        return sum(group.tensors for group in self.parts if not group.name.startswith("decoder"))


def inspect(
    source: str | Path,
    *,
    prefix: str | None = None,
    weights: Weights = "plain",
    ignore: tuple[str, ...] | None = None,
    merge_strategy: MergeStrategy | None = None,
    fingerprint: bool | None = None,
    progress: Progress = silent,
) -> Inspection:
    """Inspect a checkpoint without converting it.

    Args:
        source: a file, an index of shards, a diffusers folder, or a URL.
        prefix: selects the autoencoder if the source holds several.
        weights: ``plain``, or ``ema`` for their moving averages.
        ignore: patterns of names to leave out, such as ``*.total_ops``.
        merge_strategy: how a video decoder blends, if its file does not record it.
        fingerprint: read the tensors for their fingerprint; by default if they are local and
            small.
        progress: called during a download.

    Raises:
        CheckpointError: the source cannot be read at all.
        ConfigError: an argument has an unknown value.
    """
    check_location("source", source)
    options = ConvertOptions(
        prefix=prefix, weights=weights, ignore=ignore, merge_strategy=merge_strategy
    )
    with open_checkpoint(local_source(source, progress)) as checkpoint:
        if fingerprint is None and is_remote(str(source)):
            fingerprint = False
        return _inspect(source, checkpoint, options, fingerprint)


def _inspect(
    source: str | Path, checkpoint: Checkpoint, options: ConvertOptions, fingerprint: bool | None
) -> Inspection:
    metadata, found, common = checkpoint.metadata, None, []
    try:
        found = find_source(checkpoint, replace(options, layout="autoencoder"))
    except InflateError as error:
        common = problems_of(error)

    def obstacles_to(target: Target | None) -> list[str]:
        try:
            if found is not None:
                prepare(found, replace(options, layout=target, dry_run=True))
        except InflateError as error:
            return problems_of(error)
        return common

    obstacles = tuple(obstacles_to(None))
    if found is None:
        located, architecture, temporal, blend = _shown(checkpoint, options)
    else:
        located, architecture, blend = found.located, found.config.architecture, found.blend
        temporal = found.config.temporal if found.inflated else None
    own: str | None = None
    if located is not None and fingerprint is not False:
        view = found.checkpoint if found else autoencoder_view(checkpoint, located)
        if fingerprint or sum(info.nbytes for info in view.tensors.values()) <= _CHEAP:
            try:
                own = fingerprint_of(view)
            except InflateError as error:
                obstacles += tuple(problems_of(error))
    return Inspection(
        path=checkpoint.path,
        files=checkpoint.files,
        kind=_kind(located) if located else None,
        names=located.dialect if located else None,
        prefix=located.prefix if located else None,
        layout=layout_of(located, metadata.get(recorded.LAYOUT_KEY)) if located else None,
        has_ema=bool(located and located.averages),
        architecture=architecture,
        temporal=temporal,
        blend=blend,
        presets=tuple(matching_presets(architecture)) if architecture else (),
        dtypes=Counter(info.dtype for info in checkpoint.tensors.values()),
        parts=_parts(located) if located else (Group.of("tensors", checkpoint.tensors.values()),),
        dropped=by_reason(located.dropped) if located else (),
        foreign=checkpoint.foreign,
        metadata=metadata,
        would_write=default_output(source, "autoencoder", inflated=False),
        obstacles=obstacles,
        layouts={target: tuple(obstacles_to(target)) for target in LAYOUTS},
        fingerprint=own,
        changed=None if own is None else recorded.changed_since(metadata, own),
    )


def _shown(
    checkpoint: Checkpoint, options: ConvertOptions
) -> tuple[Located | None, Architecture | None, Temporal | None, Blend | None]:
    """The readable facts about a file that cannot be converted."""
    path = checkpoint.path
    located = architecture = temporal = blend = None
    with suppress(InflateError):
        ema, ignore = options.weights == "ema", options.ignore or ()
        own = recorded.recorded_prefix(checkpoint.metadata, checkpoint.tensors)
        prefix = own if options.prefix is None else options.prefix
        located = locate(checkpoint.tensors, path, prefix=prefix, ema=ema, ignore=ignore)
        shapes = {key: info.shape for key, info in located.tensors.items()}
        architecture = infer_architecture(shapes, path)
        if located.inflated:
            temporal = infer_temporal(shapes)
            settings = recorded.recorded_settings(checkpoint.metadata, path)
            blend = find_blend(located, settings, checkpoint.read, path, options.merge_strategy)
    return located, architecture, temporal, blend


def _kind(located: Located) -> str:
    extent = "autoencoder" if located.part("encoder.") else "decoder"
    return f"{'video' if located.inflated else 'image'} {extent}"


def _parts(located: Located) -> tuple[Group, ...]:
    keys = {
        "decoder": [key for key in located.part(DECODER) if key not in located.temporal],
        "decoder, temporal": located.temporal,
        **{part.rstrip("."): located.part(part) for part in PASSED_THROUGH},
    }
    return tuple(
        Group.of(name, [located.tensors[key] for key in own]) for name, own in keys.items() if own
    )


def by_reason(dropped: Iterable[Dropped]) -> tuple[Group, ...]:
    """Dropped tensors, grouped by reason."""
    reasons: dict[str, list[TensorInfo]] = {}
    for left in dropped:
        reasons.setdefault(left.reason, []).append(left.info)
    return tuple(Group.of(reason, infos) for reason, infos in reasons.items())
