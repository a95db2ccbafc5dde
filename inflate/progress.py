"""Progress callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

Progress = Callable[[str, int, int], None]
"""Called with a phase, the steps done, and the total number of steps, or 0 if unknown."""


def silent(phase: str, done: int, total: int) -> None:
    """No-op callback."""


def summed(phase: str, sizes: Sequence[int], progress: Progress) -> Iterator[Progress]:
    """Callbacks for several files that are transferred in turn; each reports the progress of all.

    ``phase`` is the reported phase, such as ``downloading``; ``sizes`` are the file sizes in bytes.
    """
    total, done = sum(sizes), 0
    for size in sizes:

        def moved(phase: str, count: int, _: int, before: int = done) -> None:
            progress(phase, before + count, total)

        moved(phase, 0, size)
        yield moved
        done += size
        progress(phase, done, total)
