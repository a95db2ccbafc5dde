"""Settings of the whole process, switched for a while without harm to other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

_LOCK = threading.Lock()


class ProcessWide:
    """A switch of the whole process that stays on while any thread needs it.

    The first thread that enters saves the settings and switches them; the last that leaves puts
    them back. Threads that each saved and restored would save what another had switched.

    Args:
        switch: saves and switches when it is entered, restores when it is left.
    """

    def __init__(self, switch: Callable[[], AbstractContextManager[object]]) -> None:
        self._switch = switch
        self._inside = 0
        self._switched = ExitStack()

    @contextmanager
    def on(self) -> Iterator[None]:
        """Have it switched on inside."""
        with _LOCK:
            if not self._inside:
                self._switched.enter_context(self._switch())
            self._inside += 1
        try:
            yield
        finally:
            with _LOCK:
                self._inside -= 1
                if not self._inside:
                    self._switched.close()
