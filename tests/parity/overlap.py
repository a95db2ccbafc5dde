"""Two threads inside one switch at once, where the first to enter is the first to leave."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

_GIVE_UP = 60
"""Seconds after which a thread that waits for another fails the test."""


def overlapping(work: Callable[[Callable[[], None]], object], look: Callable[[], object]) -> None:
    """Run ``work(meet)`` in two threads, and ``look`` when one of them alone is inside.

    Args:
        work: what enters a switch and calls ``meet`` once inside.
        look: called by the thread that stays inside when the other has left.
    """
    first_inside, second_inside, first_left = Event(), Event(), Event()

    def first_meets() -> None:
        first_inside.set()
        assert second_inside.wait(_GIVE_UP)

    def second_meets() -> None:
        second_inside.set()
        assert first_left.wait(_GIVE_UP)
        look()

    def second() -> None:
        assert first_inside.wait(_GIVE_UP)
        work(second_meets)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(work, first_meets)
        first.add_done_callback(lambda _: first_left.set())
        last = pool.submit(second)
        first.result()
        last.result()
