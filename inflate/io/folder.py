"""The files of a checkpoint in any folder: one file, an index with shards, or diffusers files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from inflate.errors import CheckpointError, FamilyError, quoted
from inflate.io.location import is_plain

CONFIG = "config.json"
VIDEO_CLASS = "AutoencoderKLTemporalDecoder"
CLASSES = (
    *("AutoencoderKL", VIDEO_CLASS, "VQModel", "AutoencoderKLFlux2", "AsymmetricAutoencoderKL"),
)
"""The diffusers classes of this family of autoencoders."""

LARGEST_JSON = 100_000_000
LONGEST_NAME = 1000
"""Characters that the name of a tensor may contain."""

FOLDER_FILES = tuple(
    f"diffusion_pytorch_model.{ending}"
    for ending in (
        *("safetensors", "safetensors.index.json", "bin", "bin.index.json"),
        *("fp16.safetensors", "fp16.bin", "bf16.safetensors", "bf16.bin"),
    )
)
"""File names of the weights in a diffusers folder, best first."""

_INDEX_NAME = re.compile(r"(.*)\.(safetensors|bin)\.index\.json", re.DOTALL)


def without_index_ending(name: str) -> str | None:
    """The name of the checkpoint that belongs to an index of this name; None for other names."""
    found = _INDEX_NAME.fullmatch(name)
    return found and found[1]


def shown(name: str) -> str:
    """A name from a file, safe to print: quoted and cut if it would garble a terminal."""
    return name if name.isprintable() and len(name) <= LONGEST_NAME else repr(name[:100])


class Folder(Protocol):
    """A folder whose files are looked up by name."""

    @property
    def listed(self) -> bool:
        """Whether looking for a file that may not exist costs nothing."""

    def shown(self, name: str = "") -> str:
        """The path or URL of a file, or of the folder, for messages."""

    def inside(self, name: str) -> Any:
        """A subfolder."""

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""

    def read(self, name: str) -> bytes:
        """The content of a small file; a CheckpointError if it cannot be read, or is too large."""


F = TypeVar("F", bound=Folder)


@dataclass(frozen=True)
class Members(Generic[F]):
    """The files of a checkpoint, by their names in one folder.

    ``config`` is the content of the ``config.json`` of a diffusers folder, or of one next to a
    file, if its class is one of CLASSES. ``shards`` maps tensors to files.
    """

    folder: F
    weights: tuple[str, ...]
    index: str | None = None
    shards: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Every file; configuration and index come before the weights."""
        config, index = [CONFIG] if self.config else [], [self.index] if self.index else []
        return [*config, *index, *self.weights]


def members_of_file(folder: F, name: str) -> Members[F]:
    """The files that belong to a file: the shards of an index, and a ``config.json`` next to it."""
    nearby: Mapping[str, Any] = {}
    ours = name in FOLDER_FILES  # The file has a diffusers name, so it belongs to this folder.
    if (ours or folder.listed) and folder.has(CONFIG):
        try:
            nearby = _json(folder, CONFIG)
        except CheckpointError:
            if ours:
                raise
        if nearby.get("_class_name") not in CLASSES:
            nearby = {}
    return _members(folder, name, nearby)


def members_of_folder(folder: F) -> Members[F]:
    """The configuration and weights of a diffusers folder; for a pipeline, those of its ``vae``.

    Raises:
        FamilyError: its class is not supported.
    """
    named = folder
    if not folder.has(CONFIG):
        folder = folder.inside("vae")
        if not folder.has(CONFIG):
            raise CheckpointError(
                f"{named.shown()} is a folder with neither config.json nor vae/config.json; "
                "expected a checkpoint file, a folder of diffusers, or for a batch a pattern such "
                "as 'DIR/*.safetensors'"
            )
    config = _json(folder, CONFIG)
    kind = config.get("_class_name")
    if kind not in CLASSES:
        held = "a config.json without _class_name" if kind is None else f"a {quoted(kind)}"
        raise FamilyError(f"{folder.shown()} holds {held}; expected one of {', '.join(CLASSES)}")
    weights = next((name for name in FOLDER_FILES if folder.has(name)), None)
    if weights is None:
        raise CheckpointError(
            f"{folder.shown()} has none of {', '.join(FOLDER_FILES)}; name the file"
        )
    return _members(folder, weights, config)


def _members(folder: F, name: str, config: Mapping[str, Any]) -> Members[F]:
    """A checkpoint of one file, or of the shards that an index lists."""
    if without_index_ending(name) is None:
        return Members(folder, (name,), config=config)
    where, shards = folder.shown(name), _json(folder, name).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{where} has no 'weight_map'; expected an index of shards")
    for tensor, shard in shards.items():
        if not isinstance(shard, str) or not is_plain(shard) or shard.endswith(".json"):
            raise CheckpointError(
                f"{where} places {shown(tensor)} in {quoted(shard)}; expected a file next to it"
            )
    weights = tuple(sorted(set(shards.values())))
    missing = [shard for shard in weights if not folder.has(shard)]
    if missing:
        raise CheckpointError(f"{where} names shards that are missing: {first_names(missing)}")
    return Members(folder, weights, name, shards, config)


def first_names(names: list[str]) -> str:
    """The first five names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(shown, names[:5])) + more


def _json(folder: Folder, name: str) -> dict[str, Any]:
    try:
        content = json.loads(folder.read(name).decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder.shown(name)} is not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{folder.shown(name)} is not a JSON object")
    return content
