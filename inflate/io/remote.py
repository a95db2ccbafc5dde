"""Sources and destinations elsewhere: ``s3://``, ``gs://``, ``https://``, ``hf://`` and so on.

The other rooms import from here. fsspec and huggingface_hub come with the extra ``remote``, and are
imported where they are used.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from inflate.errors import CheckpointError
from inflate.io.caching import scratch_folder
from inflate.io.faults import in_words
from inflate.io.folder import Members, RemoteFolder, members_of_file, members_of_folder
from inflate.io.hub import open_repository
from inflate.io.location import is_remote, local_path, parse, shown
from inflate.io.publishing import check_destination, publish
from inflate.io.ranges import fetch_parts
from inflate.io.stores import open_store
from inflate.progress import Progress, silent

__all__ = [
    "check_destination",
    "fetch",
    "is_remote",
    "local_path",
    "matches",
    "publish",
    "scratch_folder",
    "shown",
    "version",
]

_FILE_ENDINGS = frozenset({".bin", ".ckpt", ".json", ".pt", ".pth", ".safetensors"})
_NOT_LISTED = frozenset({"hf", "http", "https"})


def fetch(location: str, progress: Progress = silent) -> Path:
    """The local path of a remote checkpoint, to be opened with ``reader.open_checkpoint``.

    The index of a sharded checkpoint brings its shards along, next to it. For a folder of diffusers
    the path is that of a local folder. Of safetensors files only the beginning is downloaded, and
    the rest where it is read; other files are downloaded and verified whole.

    Args:
        location: a URL; see :func:`inflate.io.location.is_remote`.
        progress: called with ``downloading``, in bytes.

    Raises:
        CheckpointError: there is nothing to fetch, it cannot be fetched, or what arrives is not
            what the store promised.
    """
    folder, name = _open(location)
    if name and not folder.has(name):
        if PurePosixPath(name).suffix in _FILE_ENDINGS:
            raise CheckpointError(
                f"{folder.shown()} does not exist{folder.near(name)}; expected a checkpoint file"
            )
        folder, name = folder.inside(name), ""
    found: Members[RemoteFolder]
    found = members_of_file(folder, name) if name else members_of_folder(folder)
    files = [file for file in map(found.folder.look, found.names) if file is not None]
    path = fetch_parts(found.folder, files, progress)
    return path / name if name else path


def matches(pattern: str) -> list[str]:
    """The locations that a pattern such as ``s3://bucket/*.safetensors`` matches, sorted.

    Raises:
        CheckpointError: the store cannot be listed.
    """
    scheme, _, path = pattern.partition("://")
    if scheme.lower() in _NOT_LISTED:
        raise CheckpointError(f"{shown(pattern)}: {scheme}:// cannot be listed; name each file")
    # Only what comes before the first wildcard is a place that can be opened.
    fixed = path.partition("*")[0]
    place = parse(f"{scheme}://{fixed.rpartition('/')[0]}/", CheckpointError)
    store = open_store(place)
    with in_words(f"{shown(pattern)} cannot be listed", place.scheme, CheckpointError):
        return sorted(store.fs.unstrip_protocol(found) for found in store.fs.glob(pattern))


def version(location: str) -> str | None:
    """A text that differs for each version of a file; None if the file does not exist.

    Empty where the store gives no such thing, or where the location is that of a folder.

    Raises:
        CheckpointError: the store does not answer.
    """
    if location.lower().startswith("hf://"):
        repository, name = open_repository(location)
        found = repository.stat(name) if name else None
    else:
        place = parse(location, CheckpointError)
        name, store = place.name, open_store(place)
        found = store.stat(name) if name else None
        if name and found is None and store.info(place.url(name)) is not None:
            name = ""  # A folder, written without a slash at its end.
    if not name:
        return ""
    if found is None:
        return None
    return f"{found.size} {found.version}" if found.version else ""


def _open(location: str) -> tuple[RemoteFolder, str]:
    """The folder that a location lies in, and the name of the file; empty for the folder itself."""
    if location.lower().startswith("hf://"):
        return open_repository(location)
    place = parse(location, CheckpointError)
    return open_store(place), place.name
