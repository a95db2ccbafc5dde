"""Looking at remote locations without a copy: what a pattern matches, and what has changed."""

from __future__ import annotations

from inflate.errors import CheckpointError
from inflate.io.remote.faults import in_words
from inflate.io.remote.hub import open_repository
from inflate.io.remote.location import parse, shown
from inflate.io.remote.stores import open_store

_NOT_LISTED = frozenset({"hf", "http", "https"})


def matches(pattern: str) -> list[str]:
    """The locations that a pattern such as ``s3://bucket/*.safetensors`` matches, sorted.

    Raises:
        CheckpointError: the store cannot be listed.
    """
    scheme, _, path = pattern.partition("://")
    if scheme.lower() in _NOT_LISTED:
        raise CheckpointError(f"{shown(pattern)}: {scheme}:// cannot be listed; name each file")
    # Only what stands before the first wildcard is a place that can be opened.
    fixed = path.partition("*")[0]
    place = parse(f"{scheme}://{fixed.rpartition('/')[0]}/", CheckpointError)
    store = open_store(place)
    with in_words(f"{shown(pattern)} cannot be listed", place.scheme, CheckpointError):
        return sorted(store.fs.unstrip_protocol(found) for found in store.fs.glob(pattern))


def version(location: str) -> str | None:
    """What tells the content of a file from the next; None where there is no file.

    Empty where the store gives nothing to tell it by, or where the location is that of a folder.

    Raises:
        CheckpointError: the store cannot be asked.
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
