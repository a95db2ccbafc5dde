"""Progress callbacks."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a phase, its steps done, and their number; 0 where the number is not known."""


def silent(phase: str, done: int, total: int) -> None:
    """No-op callback."""
