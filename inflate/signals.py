"""Turn the signals that end a process into exceptions, so that staged files are removed."""

from __future__ import annotations

import signal
from types import FrameType

ENDING = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU")
    if hasattr(signal, name)  # Windows has only SIGTERM.
]


def end_on_signals() -> None:
    """Exit with code 128 + N on signal N; signals ignored by the parent stay ignored."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP.
            signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    # Later signals must not interrupt the cleanup: a closing terminal sends SIGHUP twice, a batch
    # that stops sends SIGTERM twice, the kernel SIGXCPU every second.
    ignore(*ENDING)
    raise SystemExit(128 + number)


def ignore(*numbers: signal.Signals) -> None:
    """Do nothing on these signals from now on."""
    for number in numbers:  # Not SIG_IGN: for one that has arrived, Python would print a traceback.
        signal.signal(number, lambda *_: None)
