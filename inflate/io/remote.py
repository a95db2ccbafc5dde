"""Remote sources and destinations: ``s3://``, ``gs://``, ``https://``, ``hf://`` and so on."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from inflate.errors import CheckpointError, OutputError
from inflate.io.contents import hashes_of
from inflate.io.faults import in_words, was_taken
from inflate.io.folder import members_of_file, members_of_folder
from inflate.io.hub import open_repository
from inflate.io.location import Location, parse, shown, store_of
from inflate.io.ranges import fetch_files
from inflate.io.staging import CHOOSE
from inflate.io.stores import StoreFolder, check_scheme, open_store
from inflate.progress import Progress, silent, summed

_FILE_ENDINGS = frozenset({".bin", ".ckpt", ".json", ".pt", ".pth", ".safetensors"})

# Uploads to these appear only when complete, and can be made to fail if the name is taken.
_WHOLE = frozenset({"abfs", "gs", "s3"})
_BUCKETS = _WHOLE | {"oci", "oss", "tos"}
_READ_ONLY = frozenset({"hf", "https", "data", "gist", "git", "github"})


def fetch(location: str, progress: Progress = silent) -> Path:
    """The local path of a remote checkpoint, to open with ``reader.open_checkpoint``.

    An index of shards includes its shards; a diffusers folder becomes a local folder. Of
    safetensors files only the header is downloaded now, and the rest when it is read. Other files
    are downloaded whole and verified.

    Raises:
        CheckpointError: there is nothing to download, or the download fails verification.
    """
    folder = _folder_of(location)
    name = folder.name
    if name and not folder.has(name):
        if PurePosixPath(name).suffix in _FILE_ENDINGS:
            raise CheckpointError(f"{folder.shown()} does not exist; check the path")
        folder, name = folder.inside(name), ""
    found = members_of_file(folder, name) if name else members_of_folder(folder)
    files = [file for file in map(found.folder.look, found.names) if file is not None]
    path = fetch_files(found.folder, files, progress)
    return path / name if name else path


def matches(pattern: str) -> list[str]:
    """The locations that a pattern such as ``s3://bucket/*.safetensors`` matches, sorted."""
    store, path = store_of(pattern)
    if store in ("hf", "https"):
        raise CheckpointError(f"{shown(pattern)}: {store}:// cannot be listed; name each file")
    # Only the part before the first wildcard can be opened.
    fixed = pattern[: len(pattern) - len(path)] + path.partition("*")[0].rpartition("/")[0]
    fs = open_store(parse(f"{fixed}/", CheckpointError)).fs
    with in_words(f"{shown(pattern)} cannot be listed", store, CheckpointError):
        return sorted(fs.unstrip_protocol(found) for found in fs.glob(pattern))


def version(location: str) -> str | None:
    """A string that differs for each version of a file; None if the file does not exist.

    Empty if the store does not provide one, or if the location is a folder.
    """
    folder = _folder_of(location)
    name = folder.name
    found = folder.stat(name) if name else None
    if found is None:
        return "" if not name or folder.exists(name) else None
    return f"{found.size} {found.version}" if found.version else ""


def _folder_of(location: str) -> StoreFolder:
    """The folder that contains a location; its own location keeps the file name, if any."""
    if location.lower().startswith("hf://"):
        return open_repository(location)
    return open_store(parse(location, CheckpointError))


def check_destination(
    location: str, *, overwrite: bool, folder: bool = False, connect: bool = True
) -> None:
    """Raise OutputError if a file or folder cannot be published at a URL, with the reason.

    Without ``connect`` only the URL is judged.
    """
    if connect:
        _open_destination(location, overwrite=overwrite, folder=folder)
    else:
        check_scheme(_parse_destination(location), OutputError)


def publish(local: Path, location: str, *, overwrite: bool, progress: Progress = silent) -> None:
    """Upload a finished file, or every file of a folder, and verify what arrived.

    Each file appears complete or not at all; indexes and configurations come last.

    Raises:
        OutputError: the destination cannot be written, is taken, or has other content afterwards.
    """
    store = _open_destination(location, overwrite=overwrite, folder=local.is_dir())
    files = {store.name: local}
    if local.is_dir():
        last = sorted(local.iterdir(), key=lambda path: path.suffix == ".json")
        files = {path.name: path for path in last}
    callbacks = summed("uploading", [path.stat().st_size for path in files.values()], progress)
    for moved, (name, path) in zip(callbacks, files.items(), strict=True):
        _upload(store, path, name, moved, overwrite=overwrite)


def _parse_destination(location: str) -> Location:
    place = parse(location, OutputError)
    if place.store in _READ_ONLY:
        raise OutputError(
            f"{place.shown()}: {place.store}:// can be read only; expected a path, s3://, gs:// or "
            "another store that can be written. For the Hub, run hf upload OWNER/REPO FILE after"
        )
    return place


def _open_destination(location: str, *, overwrite: bool, folder: bool) -> StoreFolder:
    """The store of a destination, checked as far as possible without writing."""
    place = _parse_destination(location)
    store = open_store(place, OutputError)
    found = store.info(place.url(place.name))
    is_folder = not place.name or (found is not None and found.get("type") == "directory")
    if is_folder and not folder:
        raise OutputError(f"{place.shown()} is a folder; expected the name of a file in it")
    bucket = "/".join(place.folder.split("/")[:3])
    if found is None and place.store in _BUCKETS and store.info(bucket) is None:
        raise OutputError(f"{place.shown()}: there is no bucket {bucket}; create it or check it")
    if found is not None and not overwrite:
        raise OutputError(f"{place.shown()} exists; {CHOOSE}")
    return store.inside(place.name) if folder and place.name else store


def _upload(
    store: StoreFolder, path: Path, name: str, progress: Progress, *, overwrite: bool
) -> None:
    kind, taken = store.store, f"{store.shown(name)} was created a moment ago; {CHOOSE}"
    with in_words(f"{path} cannot be read", "file", OutputError):
        hashes = hashes_of(path, ["md5", "sha256"])
    if kind in _WHOLE:
        options: dict[str, Any] = {"mode": "overwrite" if overwrite else "create"}
        if kind == "s3":
            # A multipart upload has no MD5 to verify a later download with.
            options["Metadata"] = {"sha256": hashes["sha256"]}
        try:
            store.upload(path, name, progress, **options)
        except OutputError as error:
            if not overwrite and was_taken(error):
                raise OutputError(taken) from error
            raise
    else:
        staged = f".{name}.{secrets.token_hex(4)}.staged"
        try:
            store.upload(path, staged, progress)
            _verify(store, path, staged, hashes)
            if not overwrite and store.exists(name):
                raise OutputError(taken)
            with in_words(f"{store.shown(name)} cannot be written", kind, OutputError):
                store.fs.mv(store.url(staged), store.url(name))
        finally:
            # After the move nothing is left to remove; after a failure there may be nothing yet.
            with suppress(OutputError), in_words("", kind, OutputError):
                if store.fs.exists(store.url(staged)):
                    store.fs.rm_file(store.url(staged))
    _verify(store, path, name, hashes)


def _verify(store: StoreFolder, path: Path, name: str, hashes: Mapping[str, str]) -> None:
    """Compare the stored file with the one that was sent."""
    found = store.stat(name)
    wrong = "nothing there" if found is None else found.compare(path.stat().st_size, hashes)
    if wrong:
        raise OutputError(
            f"{store.shown(name)} differs from what was uploaded ({wrong}); try again"
        )
