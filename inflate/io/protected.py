"""The files that a run reads: nothing that it writes may be one of them, and none may change."""

from __future__ import annotations

import errno
import os
import posixpath
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from inflate.errors import CheckpointError, OutputError
from inflate.io.location import is_remote, local_path, shown, store_of
from inflate.io.ranges import partial_of

_LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{8}\.staged")
"""Staged files; the file that they belong to in the middle."""


@dataclass
class ReadFiles:
    """Every file that a reader opens, as it looked before its first byte was read."""

    marks: dict[Path, tuple[int, ...]] = field(default_factory=dict)
    _all_read: bool = field(default=False, compare=False, repr=False)

    def look(self, path: Path) -> os.stat_result:
        """Describe a file that is about to be read, and remember what it looks like."""
        found = path.stat()
        partial_of(path)  # Refuses a file of the cache that is not whole.
        self.marks.setdefault(path, _mark(found))
        return found

    def joined(self, other: ReadFiles) -> ReadFiles:
        """The files of both, as each was first seen."""
        return ReadFiles({**other.marks, **self.marks})

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file has changed; called after the last byte was read.

        The first success counts: later changes do not matter, since nothing is read any more.
        """
        if self._all_read:
            return
        for path, before in self.marks.items():
            partial = partial_of(path)
            if partial is not None:  # The times of its copy change with what is downloaded.
                partial.check_unchanged()
                continue
            now: tuple[int, ...] = ()
            with suppress(OSError):
                now = _mark(path.stat())
            if now != before:
                raise CheckpointError(
                    f"{path} changed while it was read; try again when it no longer changes"
                )
        self._all_read = True


def check_written(written: Iterable[str | Path], read: Iterable[str | Path]) -> None:
    """Raise OutputError with everything that :func:`conflicts` finds fault with."""
    found = conflicts(written, read)
    if len(found) == 1:
        raise OutputError(found[0])
    if found:
        raise OutputError("these files cannot be written:", found)


def conflicts(written: Iterable[str | Path], read: Iterable[str | Path]) -> list[str]:
    """Why paths and URLs cannot be written: each message names one.

    They are read too, written twice, not regular files or folders, or have an impossible name.
    """
    protected = {}
    for path in read:
        protected[place_of(path)] = path
        local = _local(path)
        if local is None:
            continue
        with suppress(OSError, ValueError):
            # Writing the file that it passes for a leftover of would remove it.
            real = Path(os.path.realpath(local))
            if owner := leftover_of(real.name):
                protected[place_of(real.with_name(owner))] = path
    taken: dict[tuple[object, ...], str | Path] = {}
    found = []
    for path in written:
        place, name = place_of(path), shown(str(path))
        if fault := _fault(path):
            found.append(f"{name} {fault}")
        elif place in protected:
            found.append(
                f"{name} cannot be written: this run reads {shown(str(protected[place]))}, which "
                "would be lost; choose another name"
            )
        elif place in taken:
            found.append(
                f"{name} would be written twice, also as {shown(str(taken[place]))}; give each "
                "file its own name"
            )
        taken.setdefault(place, path)
    return found


def place_of(location: str | Path) -> tuple[object, ...]:
    """What a path or URL refers to: equal for two locations of one file, existing or to be.

    Of the nearest file or folder that exists, device and inode after links; and the names below it.
    """
    local = _local(location)
    if local is None:
        store, rest = store_of(str(location))
        return (store, posixpath.normpath("/" + rest.lstrip("/")))
    below: list[str] = []
    try:
        path = os.path.realpath(local)
        while True:
            try:
                found = os.stat(path)
            except OSError:
                above, name = os.path.split(path)
                if above == path:
                    raise
                path, below = above, [name, *below]
            else:
                return (found.st_dev, found.st_ino, *below)
    except (OSError, ValueError):  # Not a path at all, which its reader or writer will report.
        return (str(location),)


def leftover_of(name: str) -> str | None:
    """The name of the file whose leftover a file of this name would be."""
    found = _LEFTOVER.fullmatch(name)
    return found and found[1]


def _fault(location: str | Path) -> str | None:
    """Why no file can be written at a path, as far as its name and what has it now show."""
    local = _local(location)
    if local is None:
        return None
    try:
        mode = os.stat(local).st_mode
    except OSError as error:
        too_long = error.errno == errno.ENAMETOOLONG
        return f"cannot be written: {error.strerror}; choose a shorter name" if too_long else None
    except ValueError as error:
        return f"cannot be written: {error}; choose another name"
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    return "is a device, pipe or socket; expected a regular file"


def _local(location: str | Path) -> Path | None:
    """The path of a location; None for a URL of a store."""
    return None if is_remote(location) else local_path(location)


def _mark(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_size, found.st_mtime_ns, found.st_dev, found.st_ino)
