"""What to say where a library is missing that only remote locations need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from inflate.errors import InflateError

COMMAND = "pip install 'inflate-video[remote]'"
_OURS = frozenset({"gcs", "gs", "hf", "http", "https", "memory", "s3", "s3a"})
"""The schemes whose drivers the extra brings along."""


@contextmanager
def needed(what: str, scheme: str, kind: type[InflateError]) -> Iterator[None]:
    """Raise a failed import as ``kind``, with the command that mends it."""
    try:
        yield
    except ImportError as error:
        if scheme in _OURS:
            missing = error.name or (error.__cause__ and getattr(error.__cause__, "name", None))
            detail = f" ({missing} is missing)" if missing else f" ({error})"
            raise kind(f"{what}: {scheme}:// needs the extra remote{detail}; {COMMAND}") from error
        raise kind(f"{what}: {scheme}:// needs another package. fsspec says: {error}") from error
