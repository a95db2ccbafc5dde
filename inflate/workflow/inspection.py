"""``inspect``: what a file holds, from names and shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inflate.config.presets import matching_presets
from inflate.config.schema import Architecture, Temporal
from inflate.display import Displayed, bytes_text
from inflate.errors import CheckpointError, ConfigError, PlanError
from inflate.formats.architecture import infer_architecture, infer_temporal
from inflate.formats.blending import Blend, check_known, find_blend
from inflate.formats.class_config import class_settings
from inflate.formats.fingerprint import fingerprint_of
from inflate.formats.layouts import DECODER, PASSED_THROUGH, is_inflated
from inflate.formats.locate import Located, locate
from inflate.formats.recorded import changed_since, recorded_prefix, recorded_settings
from inflate.formats.shapes import image_problems
from inflate.formats.views import autoencoder_view
from inflate.io.files import CheckpointFiles
from inflate.io.index import TensorInfo
from inflate.io.reader import Checkpoint, open_checkpoint
from inflate.io.remote import is_remote
from inflate.options import check_location
from inflate.progress import Progress, silent
from inflate.workflow.sources import default_output, local_source

if TYPE_CHECKING:
    from inflate.io.reader import Checkpoint


ALREADY_VIDEO = (
    "it is a video decoder already: convert copies it into another layout with --layout, and "
    "verify checks it"
)
"""The obstacle to a conversion that is none to a copy."""

_CHEAP = 32 << 20
"""Bytes of an autoencoder whose fingerprint is computed without a request."""


@dataclass(frozen=True)
class Group:
    """Tensors that share a fate: how many, and their bytes."""

    name: str
    tensors: int
    parameters: int
    nbytes: int


@dataclass(frozen=True, repr=False)
class Inspection(Displayed):
    """What a file holds, and what ``convert`` would do with it.

    ``parts`` are the parts of the autoencoder, ``dropped`` what would be left behind, by reason;
    ``obstacles`` are the reasons why it cannot be converted, empty if it can be.
    ``blend`` is how a video decoder blends; its strategy is None where nothing shows it.
    ``fingerprint`` is None where it was not computed; ``changed`` says whether the tensors changed
    since the file's header was written, and is None where that is not known.
    """

    path: Path
    files: CheckpointFiles
    names: str | None
    prefix: str | None
    inflated: bool
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
    fingerprint: str | None = None
    changed: bool | None = None

    def _facts(self) -> dict[str, object]:
        kind = "image autoencoder" if self.architecture else "not an autoencoder of this family"
        if self.obstacles:
            converts = f"cannot be converted: {self.obstacles[0]}"
        else:
            converts = f"converts to {self.would_write.name}"
        return {
            "kind": "video autoencoder" if self.inflated else kind,
            "path": self.path.name,
            "size": bytes_text(sum(group.nbytes for group in self.parts)),
            "convert": converts,
            "presets": ", ".join(self.presets) or "none of this shape",
            "types": ", ".join(self.dtypes),
        }

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
    weights: str = "plain",
    merge_strategy: str | None = None,
    fingerprint: bool | None = None,
    progress: Progress = silent,
) -> Inspection:
    """Look at a checkpoint without converting it.

    Args:
        source: a file, an index of shards, a folder of diffusers, or a URL.
        prefix: which autoencoder to look at where the source holds several.
        weights: ``plain``, or ``ema`` for their moving averages.
        merge_strategy: how a video decoder blends, where its file does not say.
        fingerprint: whether to read the tensors for their fingerprint; by default only where they
            are local and small.
        progress: called during a download.

    Raises:
        CheckpointError: the source cannot be read at all.
    """
    check_location("source", source)
    path = local_source(source, progress)
    with open_checkpoint(path) as checkpoint:
        if fingerprint is None and is_remote(str(source)):
            fingerprint = False
        return _inspect(source, checkpoint, prefix, weights, merge_strategy, fingerprint)


def _inspect(
    source: str | Path,
    checkpoint: Checkpoint,
    prefix: str | None,
    weights: str,
    merge_strategy: str | None,
    fingerprint: bool | None,
) -> Inspection:
    path, files, index = checkpoint.path, checkpoint.files, checkpoint.tensors
    metadata = checkpoint.metadata
    obstacles: list[str] = []
    located: Located | None = None
    architecture: Architecture | None = None
    temporal: Temporal | None = None
    blend: Blend | None = None
    with _listing(obstacles):
        prefix = recorded_prefix(metadata, index) if prefix is None else prefix
        located = locate(index, path, prefix=prefix, ema=weights == "ema")
        shapes = {key: info.shape for key, info in located.tensors.items()}
        architecture = infer_architecture(shapes, path)
        obstacles += _obstacles(located, architecture)
    if located is not None and architecture is not None:
        with _listing(obstacles):
            class_settings(files, metadata, located, architecture)
        if located.inflated:
            temporal = infer_temporal(shapes)
            with _listing(obstacles):
                recorded = recorded_settings(metadata, path)
                blend = find_blend(located, recorded, checkpoint.read, path, merge_strategy)
                check_known(blend, path)
    own: str | None = None
    if located is not None and fingerprint is not False:
        view = autoencoder_view(checkpoint, located)
        if fingerprint or sum(info.nbytes for info in view.tensors.values()) <= _CHEAP:
            own = fingerprint_of(view)
    return Inspection(
        path=path,
        files=checkpoint.files,
        names=located.dialect if located else None,
        prefix=located.prefix if located else None,
        inflated=bool(located and located.inflated),
        has_ema=bool(located and located.averages),
        architecture=architecture,
        temporal=temporal,
        blend=blend,
        presets=tuple(matching_presets(architecture)) if architecture else (),
        dtypes=Counter(info.dtype for info in index.values()),
        parts=tuple(_parts(located)) if located else (_group("tensors", index.values()),),
        dropped=tuple(_dropped(located)) if located else (),
        foreign=checkpoint.foreign,
        metadata=checkpoint.metadata,
        would_write=default_output(source, "autoencoder", inflated=False),
        obstacles=tuple(obstacles),
        fingerprint=own,
        changed=None if own is None else changed_since(metadata, own),
    )


@contextmanager
def _listing(obstacles: list[str]) -> Iterator[None]:
    """Add what is wrong to a list."""
    try:
        yield
    except (CheckpointError, ConfigError, PlanError) as error:
        obstacles += getattr(error, "problems", ()) or [str(error)]


def _obstacles(located: Located, architecture: Architecture) -> list[str]:
    temporal = frozenset(key for key in located.part(DECODER) if is_inflated([key]))
    problems = [*architecture.problems(), *image_problems(located, architecture, temporal)]
    if located.inflated:
        problems.append(ALREADY_VIDEO)
    return problems


def _parts(located: Located) -> list[Group]:
    temporal = [key for key in located.part(DECODER) if is_inflated([key])]
    spatial = [key for key in located.part(DECODER) if not is_inflated([key])]
    keys = {"decoder": spatial, "decoder, temporal": temporal}
    keys.update({part.rstrip("."): located.part(part) for part in PASSED_THROUGH})
    return [
        _group(name, [located.tensors[key] for key in own]) for name, own in keys.items() if own
    ]


def _dropped(located: Located) -> list[Group]:
    reasons = dict.fromkeys(left.reason for left in located.dropped)
    return [
        _group(reason, [left.info for left in located.dropped if left.reason == reason])
        for reason in reasons
    ]


def _group(name: str, tensors: Iterable[TensorInfo]) -> Group:
    infos = list(tensors)
    parameters = sum(info.parameters for info in infos)
    return Group(name, len(infos), parameters, sum(info.nbytes for info in infos))
