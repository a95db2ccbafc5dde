"""Partial downloads of remote safetensors files: only the blocks that are read.

A sparse file in the cache has a record next to it with one byte per block, 1 for a downloaded
block. When all blocks are downloaded, the file is verified and the record removed.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from inflate.errors import CheckpointError
from inflate.io import caching
from inflate.io.contents import RemoteFile
from inflate.io.file_signatures import header_length
from inflate.io.stores import StoreFolder
from inflate.progress import Progress, silent

BLOCK = 1 << 17
"""Bytes of a block."""

REQUEST = 1 << 7
"""The largest number of blocks per request; they are held in memory."""

_OPEN: dict[Path, PartialFile] = {}


class PartialFile:
    """A cached file whose blocks are downloaded before they are read."""

    def __init__(self, folder: StoreFolder, file: RemoteFile, place: Path) -> None:
        self.folder, self.file, self.place = folder, file, place
        self.path = place / file.name
        self._record = caching.record_of(self.path)
        self._count = -(-file.size // BLOCK)
        self._present = b""
        self._mutex = threading.Lock()

    def open(self) -> bool:
        """Create or find the file in a locked folder; False if it must be downloaded whole."""
        try:
            self._load()
        except CheckpointError:
            if not self._create():
                return False
        self._found = self.path.stat()
        self._finish()
        if self._record.exists():
            _OPEN[self.path] = self
        return True

    def fetch(self, wanted: Iterable[tuple[int, int]], progress: Progress = silent) -> None:
        """Download the missing blocks of some parts."""
        wanted = list(wanted)
        with self._mutex:
            with caching.local_errors():
                same = os.path.samestat(self.path.stat(), self._found)
            if not same:
                raise CheckpointError(
                    f"{self.path} was removed while in use; run the command again"
                )
            if not self._missing(wanted):
                return
            with caching.locked(self.place, self.folder.shown(self.file.name), progress):
                self._load()
                self._download(self._missing(wanted), progress)
                self._finish()

    def check_unchanged(self) -> None:
        """Raise CheckpointError if the remote file has changed."""
        caching.check_version(self.folder, self.file)

    @property
    def sha256(self) -> str | None:
        """The SHA-256 from the store; None once the file is complete; empty if unknown."""
        return None if all(self._present) else self.file.digests.get("sha256", "")

    def _create(self) -> bool:
        if not self.folder.ranged(self.file):
            return False
        first = self.folder.read_range(self.file, 0, min(BLOCK, self.file.size))
        if header_length(first, self.file.size) is None:
            return False
        self.check_unchanged()
        with caching.local_errors():
            self.path.unlink(missing_ok=True)
            # Write the record first: a file without one counts as complete.
            self._record.write_bytes(bytes(self._count))
            with self.path.open("xb") as file:
                file.truncate(self.file.size)
            self._write(first, 0)
        self._load()
        return True

    def _missing(self, wanted: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """The requests for the missing blocks of some parts."""
        there = bytearray(b"\1" * self._count)
        for start, end in wanted:
            blocks = slice(start // BLOCK, -(-end // BLOCK) if end > start else 0)
            there[blocks] = self._present[blocks]
        runs = re.finditer(rb"\0{1,%d}" % REQUEST, there)
        return [(run.start() * BLOCK, min(run.end() * BLOCK, self.file.size)) for run in runs]

    def _download(self, spans: Sequence[tuple[int, int]], progress: Progress) -> None:
        total, done = sum(end - start for start, end in spans), 0
        progress("downloading", done, total)
        for start, end in spans:
            content = self.folder.read_range(self.file, start, end)
            # Check before they count as downloaded: they may be from another version.
            self.check_unchanged()
            with caching.local_errors():
                self._write(content, start)
            done += end - start
            progress("downloading", done, total)
        self._load()

    def _write(self, content: bytes, start: int) -> None:
        with self.path.open("r+b") as file:
            file.seek(start)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with self._record.open("r+b") as record:
            record.seek(start // BLOCK)
            record.write(b"\1" * -(-len(content) // BLOCK))

    def _finish(self) -> None:
        """Verify a completely downloaded file, and remove its record."""
        if all(self._present) and self._record.exists():
            try:
                caching.check_arrived(self.folder, self.file, self.path)
            except CheckpointError:
                self.path.unlink()
                raise
            self._record.unlink()

    def _load(self) -> None:
        """Read the record; a file without one is complete."""
        with caching.local_errors():
            size = self.path.stat().st_size
            try:
                self._present = self._record.read_bytes()
            except FileNotFoundError:
                self._present = b"\1" * self._count
        if size != self.file.size or len(self._present) != self._count:
            raise CheckpointError(f"{self.path} is damaged; remove it and run the command again")


def partial_of(path: Path) -> PartialFile | None:
    """The downloader for the parts of a file; None for a complete file.

    Raises:
        CheckpointError: it is an incomplete file of the cache whose URL is not open.
    """
    found = _OPEN.get(path)
    if found is None:
        with suppress(OSError, ValueError):  # No working directory; a name with a NUL.
            if path.name and caching.record_of(path.absolute()).exists():
                raise CheckpointError(f"{path} is only partly downloaded; give its URL instead")
    return found


def fetch_files(folder: StoreFolder, files: Sequence[RemoteFile], progress: Progress) -> Path:
    """A local folder with these files; safetensors files may be partial."""
    place = caching.place_for(folder, files)
    candidates = [file for file in files if file.name.endswith(".safetensors") and file.version]
    opened: list[RemoteFile] = []
    if candidates:
        with caching.locked(place, folder.shown(), progress):
            opened = [file for file in candidates if PartialFile(folder, file, place).open()]
    if not opened and (kept := folder.kept(files, progress)):
        return kept
    others = [file for file in files if file not in opened]
    if not all(caching.is_whole(place, file) for file in others):
        with caching.locked(place, folder.shown(), progress):
            caching.download(folder, others, place, progress)
    return place
