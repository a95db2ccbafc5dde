"""From a finished local file to a remote location, where it appears whole or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from inflate.errors import OutputError
from inflate.io.caching import summed
from inflate.io.contents import hashes_of
from inflate.io.faults import in_words, store_errors, was_taken
from inflate.io.location import Location, parse
from inflate.io.stores import StoreFolder, open_store
from inflate.progress import Progress, silent

# An upload to these appears when it is complete, and may be asked to fail where a name is taken.
_WHOLE = frozenset({"abfs", "abfss", "az", "gcs", "gs", "s3", "s3a"})
_BUCKETS = _WHOLE | {"oci", "oss", "tos"}
_READ_ONLY = frozenset({"http", "https", "data", "gist", "git", "github"})
_CHOOSE = "replace it with --overwrite (overwrite=True in Python), or choose another name"


def check_destination(location: str, *, overwrite: bool, folder: bool = False) -> None:
    """Check before any work whether something can be published here.

    Args:
        location: the URL of a file to be, or of a folder.
        overwrite: whether what exists may be replaced.
        folder: whether a folder is going to be published.

    Raises:
        OutputError: it cannot, and why.
    """
    _open(location, overwrite=overwrite, folder=folder)


def publish(local: Path, location: str, *, overwrite: bool, progress: Progress = silent) -> None:
    """Upload a finished file, or every visible file of a folder, and verify what arrived.

    Each file appears whole or not at all. Of a folder, indexes and configurations come last, so
    that a reader that finds one finds the weights that it names.

    Args:
        local: the file or folder.
        location: the URL that it gets.
        overwrite: whether what exists may be replaced.
        progress: called with ``uploading``, in bytes.

    Raises:
        OutputError: the destination cannot be written, is taken, or holds something else after.
    """
    folder = local.is_dir()
    store = _open(location, overwrite=overwrite, folder=folder)
    names = _visible_files(local) if folder else [store.location.name]
    paths = [local / name for name in names] if folder else [local]
    callbacks = summed("uploading", [path.stat().st_size for path in paths], progress)
    for done, (moved, path, name) in enumerate(zip(callbacks, paths, names, strict=True)):
        try:
            _upload(store, path, name, moved, overwrite=overwrite)
        except OutputError as error:
            if not done:
                raise
            raise OutputError(
                f"{error}. {done} of {len(names)} files are there already; pass --overwrite to "
                "upload all of them again"
            ) from error


def _open(location: str, *, overwrite: bool, folder: bool) -> StoreFolder:
    """The store of a destination that can be written, as far as that shows without writing."""
    if location.lower().startswith("hf://"):
        raise OutputError(
            f"{location}: uploading to the Hub is not supported; write a local file with -o, then "
            "run hf upload OWNER/REPO FILE"
        )
    place = parse(location, OutputError)
    if place.scheme in _READ_ONLY:
        raise OutputError(
            f"{place.shown()}: {place.scheme}:// can be read only; expected a path, s3://, gs:// "
            "or another store that can be written"
        )
    store = open_store(place, OutputError)
    if not place.name and not folder:
        raise OutputError(
            f"{place.shown()} names a folder; expected the name of a file in it, such as "
            f"{place.shown('video.safetensors')}"
        )
    found = store.info(place.url(place.name))
    if found is not None and found.get("type") == "directory" and not folder:
        raise OutputError(
            f"{place.shown()} is a folder; expected the name of a file in it, such as "
            f"{place.inside(place.name).shown('video.safetensors')}"
        )
    if found is None and place.scheme in _BUCKETS:
        _check_bucket(store)
    if found is not None and not overwrite and not _is_bare_bucket(place):
        raise OutputError(f"{place.shown()} exists; {_CHOOSE}")
    return store.inside(place.name) if folder and place.name else store


def _is_bare_bucket(place: Location) -> bool:
    """Whether a location is a whole bucket, which has to exist."""
    return place.scheme in _BUCKETS and place.folder.count("/") == 3 and not place.name


def _check_bucket(store: StoreFolder) -> None:
    bucket = "/".join(store.location.folder.split("/")[:3])
    try:
        found = store.info(bucket)
    except OutputError as error:
        if isinstance(error.__cause__, PermissionError):
            return  # The right to write to a bucket need not include that to look at it.
        raise
    if found is None:
        raise OutputError(
            f"{store.shown()}: there is no bucket {bucket}; make it, or check the name"
        )


def _upload(
    store: StoreFolder, path: Path, name: str, progress: Progress, *, overwrite: bool
) -> None:
    scheme, shown = store.location.scheme, store.shown(name)
    with in_words(f"{path} cannot be read", "file", OutputError):
        hashes = hashes_of(path, ["md5", "sha256"])
    if scheme in _WHOLE:
        options: dict[str, Any] = {"mode": "overwrite" if overwrite else "create"}
        if scheme in ("s3", "s3a"):
            # An upload in parts has no MD5 to verify a later download by.
            options["Metadata"] = {"sha256": hashes["sha256"]}
        try:
            store.upload(path, name, progress, **options)
        except OutputError as error:
            if not overwrite and was_taken(error):
                raise OutputError(f"{shown} exists since a moment ago; {_CHOOSE}") from error
            raise
    else:
        staged = _staged(name)
        try:
            store.upload(path, staged, progress)
            _verify(store, path, staged, shown, hashes)
            if not overwrite and store.info(store.url(name)) is not None:
                raise OutputError(f"{shown} exists since a moment ago; {_CHOOSE}")
            with in_words(f"{shown} cannot be written", scheme, OutputError):
                store.fs.mv(store.url(staged), store.url(name))
        finally:
            # After the move there is nothing left; after a failure, perhaps nothing was begun.
            with suppress(*store_errors()):
                if store.fs.exists(store.url(staged)):
                    store.fs.rm_file(store.url(staged))
    _verify(store, path, name, shown, hashes)


def _verify(store: StoreFolder, path: Path, name: str, shown: str, hashes: dict[str, str]) -> None:
    """Compare what the store holds with what was sent."""
    found, size = store.stat(name), path.stat().st_size
    if found is None:
        wrong: str | None = "nothing there"
    elif found.size != size:
        wrong = f"{size:,} bytes instead of {found.size:,}"
    else:
        wrong = found.compare(hashes)
    if wrong:
        raise OutputError(
            f"{shown} differs from what was uploaded ({wrong}); remove it and try again"
        )


def _staged(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}.{last}.{secrets.token_hex(4)}.staged"


def _visible_files(folder: Path) -> Sequence[str]:
    """The files of a folder, those first that others refer to."""
    found = [
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    ]
    if not found:
        raise OutputError(f"{folder} holds no files; expected a finished checkpoint to upload")
    return [path.as_posix() for path in sorted(found, key=lambda p: (p.suffix == ".json", p))]
