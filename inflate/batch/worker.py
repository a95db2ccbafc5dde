"""A worker process: ``python -m inflate.batch.worker NUMBER LOCK`` does tasks one after another.

It reads tasks and answers as lines of JSON from its standard input, and tells of them on its
standard output. Torch is imported once. When the batch that started it is gone, it stops too.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from inflate.signals import end_on_signals

_GRACE = 5.0
"""Seconds that a task gets to remove what it has staged, after the batch is gone."""


def main(number: int, lock: Path) -> None:
    """Serve until the standard input ends."""
    from inflate.batch.owners import hold

    # What a library prints goes with the errors: the standard output is for lines of JSON.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        hold(lock)
    except FileNotFoundError:
        return  # The batch ended while this process was starting.
    received: queue.Queue[Mapping[str, Any]] = queue.Queue()
    end_on_signals()
    threading.Thread(target=_receive, args=(received,), daemon=True).start()

    def tell(kind: str, content: Mapping[str, Any], of: int = -1) -> None:
        out.write(json.dumps({"kind": kind, "number": of, "content": content}) + "\n")
        out.flush()

    # Imported before the first task is asked for, while the batch is still looking at its jobs.
    import inflate.report.documents
    import inflate.workflow.conversion  # noqa: F401
    from inflate.batch.executor import Task
    from inflate.batch.task import run_task

    while True:
        task = Task(**received.get())

        def tell_of(kind: str, content: Mapping[str, Any], task: Task = task) -> None:
            tell(kind, content, task.number)

        def ask(kind: str, content: Mapping[str, Any], task: Task = task) -> Mapping[str, Any]:
            tell(kind, content, task.number)
            return received.get()

        run_task(task, tell_of, ask, gpu=number)
        tell_of("idle", {})


def _receive(received: queue.Queue[Mapping[str, Any]]) -> None:
    with suppress(ValueError):  # A batch that is killed may leave a part of a line.
        for line in sys.stdin:
            received.put(json.loads(line))
    # The batch has ended, or was killed: nothing will be answered and nothing published any more.
    os.kill(os.getpid(), signal.SIGTERM)  # A real one, since it wakes whatever waits.
    time.sleep(_GRACE)
    os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the batch's to handle.
    main(int(sys.argv[1]), Path(sys.argv[2]))
