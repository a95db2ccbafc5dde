"""What runs jobs: one small interface, with an implementation for this machine and one for Ray.

A worker asks before it begins and before it publishes, and goes on when it is answered: nothing
gets its name before the ledger knows whose it is.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from inflate.errors import InflateError

Kind = Literal["begin", "progress", "publish", "end", "lost"]


@dataclass(frozen=True)
class Task:
    """A job as a worker gets it: plain values, all paths absolute.

    ``options`` are keyword arguments of ``inflate.convert``; ``memory`` is the estimate of its
    peak, in bytes.
    """

    number: int
    source: str
    output: str
    options: Mapping[str, Any]
    memory: int = 0


@dataclass(frozen=True)
class Event:
    """What a worker tells of a task.

    ``begin`` and ``publish`` want an answer. ``content`` has, of ``progress``, ``phase``, ``done``
    and ``total``; of ``publish`` and ``end``, the record that :mod:`inflate.batch.task` makes; of
    ``lost``, in ``error``, why its process is gone.
    """

    kind: Kind
    number: int
    worker: str
    content: Mapping[str, Any] = field(default_factory=dict)

    @property
    def wants_answer(self) -> bool:
        """Whether its worker waits."""
        return self.kind in ("begin", "publish")


def failure(error: Exception) -> dict[str, Any]:
    """What ends a job, as its document: a message, and for a bug its traceback too."""
    if isinstance(error, InflateError):
        return {"error": str(error)}
    trace = "".join(traceback.format_exception(error))
    return {"error": f"a bug: {type(error).__name__}: {error}", "traceback": trace}


class Executor(Protocol):
    """Runs tasks, at most ``slots`` at once."""

    slots: int

    def submit(self, task: Task) -> None:
        """Start a task, now or when there is room for it."""

    def wait(self, seconds: float) -> list[Event]:
        """What happened since the last call; waits this long for a first event at most."""

    def answer(self, event: Event, answer: Mapping[str, Any]) -> None:
        """Let the worker of an event that wants an answer go on."""

    def close(self) -> None:
        """Stop everything that still runs, and let go of it."""
