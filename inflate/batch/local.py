"""Worker processes on this machine; each runs as long as the batch and loads torch once.

``python -m inflate.batch.local NUMBER FD`` is a worker: it receives tasks and answers, and sends
events, through the connection of the file descriptor.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for

from inflate.batch.task import Event, Task, run_task
from inflate.signals import end_on_signals

_GRACE, _GRACE_OF_ORPHAN = 8.0, 5.0
"""Seconds for workers to remove their staged files; less if their batch is gone."""


class LocalExecutor:
    """Worker processes, started on first use; a process that dies is replaced."""

    def __init__(self, slots: int, lock: int) -> None:
        """Prepare for ``slots`` tasks at once; every worker inherits the handle of the lock."""
        self.slots, self._lock = slots, lock
        self._workers: dict[int, _Worker] = {}

    def submit(self, task: Task) -> None:
        """Give a task to a free or new worker; the caller keeps to the number of slots."""
        worker = next((w for w in self._workers.values() if w.task is None), None)
        if worker is None:
            number = next(n for n in range(self.slots) if n not in self._workers)
            worker = self._workers[number] = _Worker(number, self._lock, self.slots)
        worker.task = task.number
        worker.send(task)

    def wait(self, seconds: float) -> list[Event]:
        """The events since the last call."""
        events = []
        by_connection = {worker.connection: worker for worker in self._workers.values()}
        for ready in wait_for(list(by_connection), seconds):
            worker = by_connection[ready]  # type: ignore[index]
            try:
                event: Event = worker.connection.recv()
            except (EOFError, OSError):
                del self._workers[worker.number]
                why = worker.end(1.0)
                if worker.task is None:
                    continue
                event = Event("lost", worker.task, {"error": why})
            if event.kind == "end":
                worker.task = None
            events.append(event)
        return events

    def answer(self, event: Event, go: bool) -> None:
        """Allow or forbid a worker to publish."""
        for worker in self._workers.values():
            if worker.task == event.number:
                worker.send(go)
                if not go:
                    worker.task = None

    def close(self) -> None:
        """Stop the workers; they remove their staged files."""
        for worker in self._workers.values():
            worker.process.terminate()
        deadline = time.monotonic() + _GRACE
        for worker in self._workers.values():
            worker.end(max(0.0, deadline - time.monotonic()))
        self._workers.clear()


class _Worker:
    """A process, and the connection to it."""

    def __init__(self, number: int, lock: int, slots: int) -> None:
        self.number = number
        self.task: int | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by ``end``.
        self.connection, theirs = Pipe()
        # Workers that all use every core would slow each other down.
        threads = str(max(1, (os.cpu_count() or 1) // slots))
        self.process = subprocess.Popen(  # noqa: S603 - this program.
            [sys.executable, "-m", "inflate.batch.local", str(number), str(theirs.fileno())],
            pass_fds=[theirs.fileno(), lock],
            stdin=subprocess.DEVNULL,
            stdout=self._errors,  # What libraries print may explain an error.
            stderr=self._errors,
            env={"OMP_NUM_THREADS": threads, **os.environ},
            start_new_session=True,  # Ctrl-C goes to the batch, which then stops its workers.
        )
        theirs.close()

    def send(self, message: Task | bool) -> None:
        with suppress(OSError):  # ``wait`` reports a dead worker.
            self.connection.send(message)

    def end(self, seconds: float) -> str:
        """Wait up to ``seconds``, then kill; returns how the process ended and its last errors."""
        self.connection.close()
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()[-15:]
        self._errors.close()
        how = f"ended with code {code}"
        if code < 0:
            memory = " (possible cause: no memory left)" if -code == signal.SIGKILL else ""
            how = f"was killed by signal {-code}{memory}"
        return "\n".join([f"worker {self.number + 1} {how}", *lines])


def serve(number: int, descriptor: int) -> None:
    """Run tasks in turn until the connection closes."""
    connection = Connection(descriptor)
    received: queue.Queue[object] = queue.Queue()
    end_on_signals()
    # Import before the thread starts that ends the process with the connection.
    import inflate.report.documents
    import inflate.workflow.conversion  # noqa: F401

    threading.Thread(target=_receive, args=(connection, received), daemon=True).start()

    def ask(event: Event) -> bool:
        connection.send(event)
        return bool(received.get())

    while True:
        task = received.get()
        assert isinstance(task, Task), task
        run_task(task, connection.send, ask, gpu=number)


def _receive(connection: Connection, received: queue.Queue[object]) -> None:
    with suppress(EOFError, OSError):
        while True:
            received.put(connection.recv())
    # The batch has ended or was killed: no answer will come, and nothing more is published.
    os.kill(os.getpid(), signal.SIGTERM)  # A real signal, since it interrupts waiting calls.
    time.sleep(_GRACE_OF_ORPHAN)
    os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The batch handles Ctrl-C.
    serve(int(sys.argv[1]), int(sys.argv[2]))
