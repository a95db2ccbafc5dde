"""The files that a run reads: it must not overwrite them, and they must not change meanwhile."""

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
from inflate.io.location import is_remote, shown, store_of
from inflate.io.ranges import partial_of

_LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{8}\.staged")
"""Names of staged files; the group is the name of the final file."""


@dataclass
class ReadFiles:
    """Every file that a reader opens, with its state before the first byte was read."""

    marks: dict[Path, tuple[int, ...]] = field(default_factory=dict)
    _all_read: bool = field(default=False, compare=False, repr=False)

    def look(self, path: Path) -> os.stat_result:
        """Describe a file that is about to be read, and record its state."""
        found = path.stat()
        partial_of(path)  # Raises for an incomplete file of the cache.
        self.marks.setdefault(path, _mark(found))
        return found

    def joined(self, other: ReadFiles) -> ReadFiles:
        """The files of both, each with the state that was recorded first."""
        return ReadFiles({**other.marks, **self.marks})

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file has changed; called after the last byte was read.

        Later calls do nothing after a success: no more bytes are read, so changes do not matter.
        """
        if self._all_read:
            return
        for path, before in self.marks.items():
            partial = partial_of(path)
            if partial is not None:  # Downloads change the times of the local copy.
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
    """Raise OutputError with every problem that :func:`conflicts` finds."""
    found = conflicts(written, read)
    if len(found) == 1:
        raise OutputError(found[0])
    if found:
        raise OutputError("these files cannot be written:", found)


def conflicts(written: Iterable[str | Path], read: Iterable[str | Path]) -> list[str]:
    """Why paths and URLs cannot be written, one message per location.

    They are also read, written twice, not regular files or folders, or have an invalid name.
    """
    protected = {}
    for path in read:
        protected[place_of(path)] = path
        local = _local(path)
        if local is None:
            continue
        with suppress(OSError, ValueError):
            # It looks like a leftover of another output, and writing that output would remove it.
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
    """A key of the file that a path or URL refers to: equal for two locations of one file.

    The device and inode of the nearest existing file or folder, and the names below it.
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
    except (OSError, ValueError):  # Not a valid path; its reader or writer reports that.
        return (str(location),)


def leftover_of(name: str) -> str | None:
    """The final name if this is the name of a staged file, that is, a leftover of a run."""
    found = _LEFTOVER.fullmatch(name)
    return found and found[1]


def _fault(location: str | Path) -> str | None:
    """Why no file can be written at a path, judged by its name and the file that has it now."""
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
    """The local path of a location; None for the URL of a store."""
    return None if is_remote(location) else Path(location)


def _mark(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_size, found.st_mtime_ns, found.st_dev, found.st_ino)
