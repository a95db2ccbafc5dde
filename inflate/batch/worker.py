"""A worker process: ``python -m inflate.batch.worker NUMBER FD`` runs one task after another.

Tasks and answers come through the connection of the file descriptor, events go back through it. The
worker stops when the batch that started it is gone.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection

from inflate.signals import end_on_signals

_GRACE = 5.0
"""Seconds for a task to remove what it has staged after the batch is gone."""


def main(number: int, descriptor: int) -> None:
    """Serve until the connection ends."""
    connection = Connection(descriptor)
    received: queue.Queue[object] = queue.Queue()
    end_on_signals()
    # Imported before the thread starts, which ends the process with the connection.
    import inflate.report.documents
    import inflate.workflow.conversion  # noqa: F401
    from inflate.batch.task import Event, Task, run_task

    threading.Thread(target=_receive, args=(connection, received), daemon=True).start()

    def ask(event: Event) -> bool:
        connection.send(event)
        return bool(received.get())

    while True:
        task = received.get()
        assert isinstance(task, Task), task
        run_task(task, f"worker {number + 1}", connection.send, ask, gpu=number)


def _receive(connection: Connection, received: queue.Queue[object]) -> None:
    with suppress(EOFError, OSError):
        while True:
            received.put(connection.recv())
    # The batch has ended or was killed: no answer will come and nothing more is published.
    os.kill(os.getpid(), signal.SIGTERM)  # A real signal, since it wakes whatever waits.
    time.sleep(_GRACE)
    os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The batch handles Ctrl-C.
    main(int(sys.argv[1]), int(sys.argv[2]))
