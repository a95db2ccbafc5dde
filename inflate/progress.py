"""How long work tells whoever waits for it where it stands."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a phase, the steps of it that are done, and how many there are."""


def silent(phase: str, done: int, total: int) -> None:
    """Tell nobody."""
