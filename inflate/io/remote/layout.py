"""Which files a location stands for: one, an index with its shards, or a folder of diffusers'."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from inflate.errors import CheckpointError
from inflate.io.remote.contents import RemoteFile
from inflate.io.remote.location import is_plain
from inflate.progress import Progress
from inflate.vocabulary import FOLDER_FILES, without_index_ending

CONFIG = "config.json"
_FILE_ENDINGS = frozenset({".bin", ".ckpt", ".json", ".pt", ".pth", ".safetensors"})
_LARGEST_INDEX = 64 << 20


class Source(Protocol):
    """A remote folder whose files can be described and fetched."""

    def shown(self, name: str | None = None) -> str:
        """The URL of a file, or of the location itself, for messages."""

    def near(self, name: str) -> str:
        """A hint at a name much like one that is not there, for messages; it may be empty."""

    def stat(self, name: str) -> RemoteFile | None:
        """Describe a file; None where there is none of this name."""

    def fetch(self, files: Sequence[RemoteFile], progress: Progress) -> Path:
        """A local folder that holds whole copies of these files."""

    def inside(self, name: str) -> Source:
        """A folder in this one."""


def fetch_named(source: Source, name: str, progress: Progress) -> Path:
    """The local path of what a location names, which may be a folder all the same.

    Raises:
        CheckpointError: there is no such file, or it cannot be fetched whole.
    """
    file = source.stat(name)
    if file is not None:
        # A file named as diffusers names it belongs to the configuration in its folder.
        config = source.stat(CONFIG) if name in FOLDER_FILES else None
        beside = () if config is None else (config,)
        if without_index_ending(name) is not None:
            return _fetch_sharded(source, file, beside, progress) / name
        return source.fetch([*beside, file], progress) / name
    if PurePosixPath(name).suffix in _FILE_ENDINGS:
        raise CheckpointError(
            f"{source.shown()} does not exist{source.near(name)}; expected a checkpoint file there"
        )
    return fetch_folder(source.inside(name), progress)


def fetch_folder(source: Source, progress: Progress) -> Path:
    """The local path of a folder as diffusers writes it: a configuration and the weights.

    Of a whole pipeline it is the folder ``vae``.

    Raises:
        CheckpointError: the folder holds no such files, or they cannot be fetched whole.
    """
    named, config = source, source.stat(CONFIG)
    if config is None:
        source = source.inside("vae")
        config = source.stat(CONFIG)
    if config is None:
        raise CheckpointError(
            f"{named.shown()} is neither a file nor a folder of diffusers, which holds config.json "
            "or vae/config.json; check the name"
        )
    weights = next((file for file in map(source.stat, FOLDER_FILES) if file is not None), None)
    if weights is None:
        raise CheckpointError(
            f"{source.shown()} has none of the files {', '.join(FOLDER_FILES)}; name the file "
            "of weights"
        )
    if without_index_ending(weights.name) is not None:
        return _fetch_sharded(source, weights, (config,), progress)
    return source.fetch([config, weights], progress)


def _fetch_sharded(
    source: Source, index: RemoteFile, beside: Sequence[RemoteFile], progress: Progress
) -> Path:
    """The local folder of an index, the shards that it names, and what belongs beside them."""
    shown = source.shown(index.name)
    if index.size > _LARGEST_INDEX:
        raise CheckpointError(
            f"{shown} has {index.size:,} bytes, too many for the index of a sharded checkpoint; "
            "expected a JSON file that names the shards"
        )
    names = shard_names((source.fetch([index], progress) / index.name).read_bytes(), shown)
    shards = {name: source.stat(name) for name in names}
    lacking = [name for name, file in shards.items() if file is None]
    if lacking:
        raise CheckpointError(
            f"{shown} names shards that are not beside it: {', '.join(lacking)}. Upload them, or "
            "name the checkpoint's complete copy"
        )
    found = [file for file in shards.values() if file is not None]
    return source.fetch([*beside, index, *found], progress)


def shard_names(content: bytes, shown: str) -> list[str]:
    """The files that the index of a sharded checkpoint names, each once.

    Raises:
        CheckpointError: it is no such index, or names a file outside of its own folder.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{shown} is no JSON: {error}; expected the index of a sharded checkpoint"
        ) from error
    mapping = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(mapping, dict) or not mapping:
        raise CheckpointError(
            f"{shown} has no 'weight_map'; expected the index of a sharded checkpoint"
        )
    for shard in mapping.values():
        if not isinstance(shard, str) or not is_plain(shard) or shard.endswith(".json"):
            raise CheckpointError(
                f"{shown} names the shard {shard!r}; expected the name of a file beside it, "
                "without folders"
            )
    return sorted(set(mapping.values()))
