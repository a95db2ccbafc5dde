"""The hash of a source, begun before it is asked for: while torch is being loaded."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from threading import Event

from inflate.io.files import CheckpointFiles, find_files, hash_file, hash_files
from inflate.io.remote import is_remote, local_path

_LARGE = 1 << 22
"""Bytes hashed at a time. While modules are loaded, every return to Python waits for its turn."""

_Found = tuple[CheckpointFiles, str]
_BEGUN: ContextVar[Future[_Found | None] | None] = ContextVar("begun", default=None)


@contextmanager
def hashing_ahead(location: str) -> Iterator[None]:
    """Hash a local source on another thread, for the conversion that is about to begin.

    Raises:
        InflateError: there is no such source, which is told before anything is loaded.
    """
    if is_remote(location):
        yield
        return
    files = find_files(local_path(location))
    stop = Event()
    with ThreadPoolExecutor(1) as pool:
        token = _BEGUN.set(pool.submit(_hash, files, stop))
        try:
            yield
        finally:
            _BEGUN.reset(token)
            stop.set()


def hash_source(files: CheckpointFiles) -> str:
    """The SHA-256 of a source: the one that was begun, if it was of these files."""
    begun = _BEGUN.get()
    found = begun and begun.result()
    return found[1] if found and found[0] == files else hash_files(files)


def _hash(files: CheckpointFiles, stop: Event) -> _Found | None:
    try:
        hashed = hash_files(files, partial(hash_file, at_once=_LARGE, stopped=stop.is_set))
    except OSError:
        return None  # Left for the conversion to tell.
    return None if stop.is_set() else (files, hashed)
