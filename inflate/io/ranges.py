"""Remote safetensors files of which only the parts that are read are downloaded.

Such a file is a sparse file in the cache. Before a part is read, it is downloaded; a record next to
the folder of the cache lists the parts that have arrived. When all have, the file is verified and
becomes a whole one. A path of this kind can be read only in a process that has opened its URL.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from inflate.errors import CheckpointError
from inflate.io.caching import (
    check_version,
    download,
    is_whole,
    local_errors,
    locked,
    place_for,
    work_folder,
)
from inflate.io.contents import RemoteFile
from inflate.io.file_signatures import header_length
from inflate.io.folder import RemoteFolder
from inflate.io.leftovers import write_atomically
from inflate.progress import Progress, silent

Span = tuple[int, int]
"""Where a run of bytes begins, and where it ends."""

STEP = 1 << 16
"""Requests begin and end at multiples of this many bytes."""

_GAP = 1 << 18
"""Neighbouring parts that are nearer than this are downloaded together."""

LARGEST = 1 << 24
"""Bytes of one request, which are held in memory."""

_OPEN: dict[Path, PartialFile] = {}


class PartialFile:
    """A file in the cache whose parts are downloaded before they are read."""

    def __init__(self, folder: RemoteFolder, file: RemoteFile, place: Path) -> None:
        self.folder, self.file, self.place = folder, file, place
        self.path = place / file.name
        self._record = work_folder(place) / f"{file.name}.json"
        self._mutex = threading.Lock()
        self._spans: list[Span] = []
        self._mark: tuple[int, int, int] | None = None

    def open(self) -> bool:
        """Make the file, in a locked folder, or find the parts that were downloaded before.

        Returns:
            Whether parts of it can be read; else it has to be downloaded whole.
        """
        if self.path.exists():
            try:
                self._load()
            except CheckpointError:
                self.path.unlink()
        if not self.path.exists() and not self._create():
            return False
        with local_errors():
            found = self.path.stat()
        self._mark = (found.st_dev, found.st_ino, found.st_mtime_ns)
        self._finish()
        if self._record.exists():
            _OPEN[self.path] = self
        return True

    def fetch(self, wanted: Iterable[Span], progress: Progress = silent) -> None:
        """Download what is missing of some parts.

        Raises:
            CheckpointError: they cannot be downloaded, or the remote file has changed.
        """
        wanted = list(wanted)
        with self._mutex:
            self._check_own()
            if not missing(wanted, self._spans, self.file.size):
                return
            with locked(self.place, self.folder.shown(self.file.name), progress):
                self._load()
                self._download(missing(wanted, self._spans, self.file.size), progress)
                self._finish()

    def check_unchanged(self) -> None:
        """Check that the remote file still is the version that was read.

        Raises:
            CheckpointError: it has changed, or is gone.
        """
        check_version(self.folder, self.file)

    @property
    def sha256(self) -> str | None:
        """The SHA-256 that its store gives; None once the file is whole; empty if unknown."""
        if self._spans == [(0, self.file.size)]:
            return None
        return self.file.digests.get("sha256", "")

    def _create(self) -> bool:
        if not self.folder.ranged(self.file):
            return False
        first = self.folder.read_range(self.file, 0, min(STEP, self.file.size))
        if header_length(first, self.file.size) is None:
            return False
        self.check_unchanged()
        part = self._record.with_suffix(".part")
        with local_errors():
            with part.open("wb") as file:
                file.write(first)
                file.truncate(self.file.size)
                file.flush()
                os.fsync(file.fileno())
            # The record comes first: a file without one passes for whole.
            self._save([(0, len(first))])
            os.replace(part, self.path)
        return True

    def _download(self, requests: Sequence[Span], progress: Progress) -> None:
        total, done = sum(end - start for start, end in requests), 0
        progress("downloading", done, total)
        for start, end in requests:
            content = self.folder.read_range(self.file, start, end)
            # Before they count as downloaded: they may be of another version.
            self.check_unchanged()
            with local_errors():
                with self.path.open("r+b") as file:
                    file.seek(start)
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                assert self._mark is not None
                os.utime(self.path, ns=(self._mark[2], self._mark[2]))
                self._save(merged([*self._spans, (start, end)]))
            done += end - start
            progress("downloading", done, total)

    def _finish(self) -> None:
        """Verify a file all of whose parts have arrived, and drop its record."""
        if self._spans != [(0, self.file.size)] or not self._record.exists():
            return
        with local_errors():
            wrong = self.file.check(self.path)
            if wrong:
                self.path.unlink()
                raise CheckpointError(
                    f"{self.folder.shown(self.file.name)} arrived with {wrong}; it is not used. "
                    "Try again"
                )
            self._record.unlink()

    def _check_own(self) -> None:
        """Check that the file is the one that was opened: it may be removed with the cache."""
        with local_errors():
            found = self.path.stat()
        if self._mark is None or (found.st_dev, found.st_ino) != self._mark[:2]:
            raise CheckpointError(
                f"{self.path} was removed while it was in use; run the command again"
            )

    def _load(self) -> None:
        """Read the record; without one the file is whole.

        Raises:
            CheckpointError: the record or the file is damaged.
        """
        try:
            spans = json.loads(self._record.read_bytes())
        except FileNotFoundError:
            spans = [(0, self.file.size)]
        except (OSError, ValueError):
            spans = None
        with local_errors():
            size = self.path.stat().st_size
        try:
            self._spans = [(int(start), int(end)) for start, end in spans]
        except (TypeError, ValueError):
            size = -1
        if size != self.file.size:
            raise CheckpointError(f"{self.path} is damaged; remove it and run the command again")

    def _save(self, spans: list[Span]) -> None:
        write_atomically(self._record, json.dumps(spans).encode())
        self._spans = spans


def partial_of(path: Path) -> PartialFile | None:
    """What downloads the parts of a file; None for a whole file.

    Raises:
        CheckpointError: the file is one of the cache that is not whole, and its URL is not open.
    """
    found = _OPEN.get(path)
    if found is None:
        with suppress(FileNotFoundError, ValueError):  # No working directory; a name with a NUL.
            place = Path(os.path.abspath(path.parent))
            if place.name and (work_folder(place) / f"{path.name}.json").exists():
                raise CheckpointError(f"{path} is downloaded in part; give its URL instead")
    return found


def fetch_parts(folder: RemoteFolder, files: Sequence[RemoteFile], progress: Progress) -> Path:
    """A local folder of these files, in which those of safetensors may be partial.

    Raises:
        CheckpointError: a file cannot be downloaded, or what arrives is not what was promised.
    """
    if not any(_is_candidate(file) for file in files):
        return folder.fetch(list(files), progress)
    place = place_for(folder, files)
    with locked(place, folder.shown(), progress):
        opened = [file for file in files if _is_candidate(file) and _opened(folder, file, place)]
        if opened:
            others = [file for file in files if file not in opened and not is_whole(place, file)]
            download(folder, others, place, progress)
            return place
    return folder.fetch(list(files), progress)


def missing(wanted: Iterable[Span], present: Sequence[Span], size: int) -> list[Span]:
    """The requests for what is missing of some parts, in order, none larger than ``LARGEST``."""
    holes: list[Span] = []
    for start, end in wanted:
        at = start
        for first, last in present:
            if last <= at or first >= end:
                continue
            if first > at:
                holes.append((at, first))
            at = last
        if at < min(end, size):
            holes.append((at, min(end, size)))
    spread = [(at // STEP * STEP, min(-(-end // STEP) * STEP, size)) for at, end in holes]
    return [
        (start, min(start + LARGEST, end))
        for first, end in merged(spread, _GAP)
        for start in range(first, end, LARGEST)
    ]


def merged(spans: Iterable[Span], gap: int = 0) -> list[Span]:
    """The same parts in order, neighbours joined."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1] + gap:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _is_candidate(file: RemoteFile) -> bool:
    return file.name.endswith(".safetensors") and bool(file.version)


def _opened(folder: RemoteFolder, file: RemoteFile, place: Path) -> bool:
    return PartialFile(folder, file, place).open()
