"""Progress over several files, in bytes."""

from __future__ import annotations

from inflate.progress import Progress


class Counter:
    """Adds up the bytes of files that are moved one after another."""

    def __init__(self, phase: str, total: int, progress: Progress) -> None:
        self._phase, self._total, self._progress = phase, total, progress
        self._finished = 0
        progress(phase, 0, total)

    def at(self, done: int, size: int) -> None:
        """Tell that so many bytes of the present file are done, never more than it has."""
        self._progress(self._phase, self._finished + min(done, size), self._total)

    def finish(self, size: int) -> None:
        """Tell that the present file is done."""
        self._finished += size
        self._progress(self._phase, self._finished, self._total)
