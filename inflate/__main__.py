"""The command ``inflate``, also as ``python -m inflate``."""

import atexit
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

from inflate.signals import ENDING, ignore


def run() -> NoReturn:
    """Run the command; Ctrl-C while modules load exits with 130 too."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # If closed, the next opened file would receive the printed text.
            os.open(os.devnull, os.O_RDWR)
    try:
        from inflate.cli.app import main

        code = main()
    except KeyboardInterrupt:
        os.write(2, b"interrupted\n")
        code = 130
    _end(code)


def _end(code: int) -> NoReturn:
    """End the process now: to free every object of torch first would take a quarter of a second."""
    ignore(signal.SIGINT, *ENDING)  # The work is done: nothing is left to interrupt.
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError):  # Its reader is gone; the command has reported what matters.
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
