"""Worker processes on this machine: each lives as long as the batch and loads torch once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait as wait_for

from inflate.batch.task import Event, Task

_GRACE = 8.0
"""Seconds for workers to remove what they have staged."""

_LAST_LINES = 15
"""Lines of a worker's stderr that are reported when it dies."""


class LocalExecutor:
    """Worker processes, started when they are first needed; one that dies is replaced."""

    def __init__(self, slots: int, lock: int) -> None:
        """Prepare for ``slots`` tasks at once; every worker inherits the handle of the lock."""
        self.slots = slots
        self._lock = lock
        self._workers: dict[int, _Worker] = {}
        self._backlog: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        """Give a task to a free worker, or keep it until there is one."""
        self._backlog.append(task)
        self._hand_out()

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
                why = worker.end(0.0)
                if worker.task is None:
                    continue
                event = Event("lost", worker.task, worker.name, {"error": why})
            if event.kind == "end":
                worker.task = None
            events.append(event)
        self._hand_out()
        return events

    def answer(self, event: Event, go: bool) -> None:
        """Let a worker publish, or not."""
        for worker in self._workers.values():
            if worker.task == event.number:
                worker.send(go)
                if not go:
                    worker.task = None

    def close(self) -> None:
        """Stop the workers; they remove what they have staged."""
        for worker in self._workers.values():
            worker.process.terminate()
        deadline = time.monotonic() + _GRACE
        for worker in self._workers.values():
            worker.end(max(0.0, deadline - time.monotonic()))
        self._workers.clear()

    def _hand_out(self) -> None:
        while self._backlog:
            worker = next((w for w in self._workers.values() if w.task is None), None)
            if worker is None:
                number = next((n for n in range(self.slots) if n not in self._workers), None)
                if number is None:
                    return
                worker = self._workers[number] = _Worker(number, self._lock, self.slots)
            task = self._backlog.popleft()
            worker.task = task.number
            worker.send(task)


class _Worker:
    """A process, and the connection to it."""

    def __init__(self, number: int, lock: int, slots: int) -> None:
        self.number, self.name = number, f"worker {number + 1}"
        self.task: int | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by ``end``.
        self.connection, theirs = Pipe()
        # Workers that each use every core would wait for one another.
        threads = str(max(1, (os.cpu_count() or 1) // slots))
        self.process = subprocess.Popen(  # noqa: S603 - this program.
            [sys.executable, "-m", "inflate.batch.worker", str(number), str(theirs.fileno())],
            pass_fds=[theirs.fileno(), lock],
            stdin=subprocess.DEVNULL,
            stdout=self._errors,  # What a library prints goes with the errors.
            stderr=self._errors,
            env={"OMP_NUM_THREADS": threads, **os.environ},
            start_new_session=True,  # Ctrl-C goes to the batch, which then stops its workers.
        )
        theirs.close()

    def send(self, message: Task | bool) -> None:
        with suppress(OSError):  # A worker that is gone is reported by ``wait``.
            self.connection.send(message)

    def end(self, seconds: float) -> str:
        """Wait for the end, at most so long, then kill; how it ended, and its last errors."""
        self.connection.close()
        try:
            code = self.process.wait(seconds or 1.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 8000))
        lines = self._errors.read().decode(errors="replace").splitlines()[-_LAST_LINES:]
        self._errors.close()
        how = f"ended with code {code}"
        if code < 0:
            memory = " (the system kills where memory runs out)" if -code == signal.SIGKILL else ""
            how = f"was killed by signal {-code}{memory}"
        return "\n".join([f"{self.name} {how}", *lines])
