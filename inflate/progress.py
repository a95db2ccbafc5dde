"""Progress callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

Progress = Callable[[str, int, int], None]
"""Called with a phase, its steps done, and their number; 0 where the number is not known."""


def silent(phase: str, done: int, total: int) -> None:
    """No-op callback."""


def summed(phase: str, sizes: Sequence[int], progress: Progress) -> Iterator[Progress]:
    """A callback for each of several files, moved one after another, that reports on all of them.

    ``phase`` is what is reported, such as ``downloading``; ``sizes`` are the bytes of each file.
    """
    total, done = sum(sizes), 0
    for size in sizes:

        def moved(phase: str, count: int, _: int, before: int = done) -> None:
            progress(phase, before + count, total)

        moved(phase, 0, size)
        yield moved
        done += size
        progress(phase, done, total)
