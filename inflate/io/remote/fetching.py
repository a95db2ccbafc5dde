"""From a remote location to a local path."""

from __future__ import annotations

from pathlib import Path

from inflate.errors import CheckpointError
from inflate.io.remote.caching import CachedStore
from inflate.io.remote.hub import open_repository
from inflate.io.remote.layout import Source, fetch_folder, fetch_named
from inflate.io.remote.location import parse
from inflate.io.remote.stores import open_store
from inflate.progress import Progress, silent


def fetch(location: str, progress: Progress = silent) -> Path:
    """The local path of a whole and verified copy of a remote checkpoint.

    The index of a sharded checkpoint brings its shards along, and lies beside them. For a folder
    that holds an autoencoder as diffusers writes it, the path is that of the copied folder.

    Args:
        location: a URL; see :func:`inflate.io.remote.location.is_remote`.
        progress: told of ``downloading``, in bytes.

    Raises:
        CheckpointError: there is nothing to fetch, it cannot be fetched, or what arrives is not
            what the store promised.
    """
    source: Source
    if location.lower().startswith("hf://"):
        source, name = open_repository(location)
    else:
        place = parse(location, CheckpointError)
        source, name = CachedStore(open_store(place)), place.name
    return fetch_named(source, name, progress) if name else fetch_folder(source, progress)
