"""Jobs on this machine: worker processes that live as long as the batch, each with torch loaded."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inflate.batch.executor import Event, Task

_GRACE = 8.0
"""Seconds that workers get to remove what they have staged."""

_SAID_LAST = 15
"""Lines of a worker's errors that are told when it dies."""


class LocalExecutor:
    """Worker processes, started when they are first needed; one that dies is replaced."""

    def __init__(self, slots: int, lock: Path) -> None:
        """Get ready for so many tasks at once.

        Args:
            slots: how many workers there may be.
            lock: the file that every process of the batch holds.
        """
        self.slots = slots
        self._lock = lock
        self._happened: queue.Queue[tuple[_Worker, Mapping[str, Any] | None]] = queue.Queue()
        self._workers: dict[int, _Worker] = {}
        self._backlog: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        """Give a task to a worker that is free, or keep it until one is."""
        self._backlog.append(task)
        self._hand_out()

    def wait(self, seconds: float) -> list[Event]:
        """What happened since the last call."""
        events: list[Event] = []
        deadline = time.monotonic() + seconds
        while True:
            patience = 0.0 if events else max(0.0, deadline - time.monotonic())
            try:
                worker, said = self._happened.get(block=patience > 0, timeout=patience or None)
            except queue.Empty:
                return events
            if said is None:
                events += self._ended(worker)
            elif said["kind"] == "idle":
                worker.task = None
            else:
                events.append(Event(said["kind"], said["number"], worker.name, said["content"]))
            self._hand_out()

    def answer(self, event: Event, answer: Mapping[str, Any]) -> None:
        """Let a worker go on."""
        worker = self._workers.get(int(event.worker.partition(" ")[2]) - 1)
        if worker is not None and worker.task is not None and worker.task.number == event.number:
            worker.send(answer)

    def close(self) -> None:
        """Stop the workers; what they have staged is removed."""
        for worker in self._workers.values():
            worker.stop()
        deadline = time.monotonic() + _GRACE
        for worker in self._workers.values():
            worker.end(max(0.0, deadline - time.monotonic()))
        self._workers.clear()

    def _hand_out(self) -> None:
        while self._backlog:
            free = [worker for worker in self._workers.values() if worker.task is None]
            if not free:
                numbers = [n for n in range(self.slots) if n not in self._workers]
                if not numbers:
                    return
                number = numbers[0]
                free = [_Worker(number, self._lock, self.slots, self._happened)]
                self._workers[number] = free[0]
            free[0].begin(self._backlog.popleft())

    def _ended(self, worker: _Worker) -> list[Event]:
        """A worker's output has ended: it is gone, and perhaps a task with it."""
        if self._workers.get(worker.number) is not worker:
            return []
        del self._workers[worker.number]
        why = worker.why()
        if worker.task is None:
            return []
        return [Event("lost", worker.task.number, worker.name, {"error": why})]


class _Worker:
    """A process, and the threads that read what it says."""

    def __init__(
        self,
        number: int,
        lock: Path,
        slots: int,
        happened: queue.Queue[tuple[_Worker, Mapping[str, Any] | None]],
    ) -> None:
        self.number, self.name = number, f"worker {number + 1}"
        self.task: Task | None = None
        # Workers that all take every core wait for one another.
        threads = str(max(1, (os.cpu_count() or 1) // slots))
        self._process = subprocess.Popen(  # noqa: S603 - this program, with a number and a path.
            [sys.executable, "-m", "inflate.batch.worker", str(number), str(lock)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={"OMP_NUM_THREADS": threads, **os.environ},
            start_new_session=True,  # Ctrl-C is told to the batch, which then stops its workers.
        )
        self._said: deque[str] = deque(maxlen=_SAID_LAST)
        self._threads = [
            threading.Thread(target=self._listen, args=(happened,), daemon=True),
            threading.Thread(target=self._keep_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def begin(self, task: Task) -> None:
        self.task = task
        self.send(asdict(task))

    def send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # It is gone, which is told where its output ends.
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def why(self) -> str:
        code = self._process.wait()
        self._threads[1].join(1.0)
        self._let_go()
        how = f"ended with code {code}"
        if code < 0:
            how = f"was killed by signal {-code}" + (
                ", as the system does where memory runs out" if code == -9 else ""
            )
        return "\n".join([f"{self.name} {how}", *self._said])

    def stop(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.terminate()

    def end(self, seconds: float) -> None:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join(1.0)
        self._let_go()

    def _let_go(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()

    def _listen(self, happened: queue.Queue[tuple[_Worker, Mapping[str, Any] | None]]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                said = json.loads(line)
            except ValueError:  # It died in the middle of a line, or will not make sense again.
                self._process.kill()
                break
            happened.put((self, said))
        happened.put((self, None))

    def _keep_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line.rstrip())
