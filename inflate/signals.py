"""Signals that end a process, as exceptions: what is staged is removed on the way out."""

from __future__ import annotations

import signal
from types import FrameType

ENDING = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU")
    if hasattr(signal, name)  # Windows has the first alone.
]


def end_on_signals() -> None:
    """Exit with code 128 + N on signal N; signals that the parent ignores stay ignored."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # As nohup does with SIGHUP.
            signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    # A terminal that closes sends SIGHUP twice, the kernel SIGXCPU every second, a batch that stops
    # its workers SIGTERM twice: none of them may interrupt the removal that the first one began.
    # Not SIG_IGN: of a signal that has already arrived, Python would print a traceback.
    for other in ENDING:
        signal.signal(other, _do_nothing)
    raise SystemExit(128 + number)


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    pass
