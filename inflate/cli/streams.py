"""Standard output and error that may be closed, full, or of few characters."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from inflate.errors import OutputError


class _Guarded:
    """A stream whose reader may leave without an effect on the work or on its exit code."""

    def __init__(self, stream: TextIO | None, *, results: bool) -> None:
        """Guard a stream.

        Args:
            stream: None where Python found it closed.
            results: whether a result that cannot be written is an error.
        """
        self._stream, self._results = stream, results
        self._failure: OutputError | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "buffer" or self._stream is None:  # Bytes would go around this guard.
            raise AttributeError(name)
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        """Whether a person sees what is written."""
        return self._stream is not None and self._stream.isatty()

    def write(self, text: str) -> int:
        """Write a text; nothing happens where nobody reads it.

        Raises:
            OutputError: a result cannot be written, since a disk is full, for example.
        """
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        """Pass on what is written so far.

        Raises:
            OutputError: as :meth:`write`, or an earlier result could not be written.
        """
        self._try("flush")
        if self._failure is not None:
            raise self._failure

    def _try(self, method: str, *arguments: str) -> None:
        if self._stream is None:
            return
        try:
            getattr(self._stream, method)(*arguments)
        except BrokenPipeError:
            self._give_up()
        except OSError as error:
            self._give_up()
            if self._results:
                self._failure = OutputError(
                    f"the result cannot be written to standard output: {error.strerror}"
                )
                raise self._failure from error

    def _give_up(self) -> None:
        assert self._stream is not None
        with suppress(OSError, ValueError):
            # Python flushes what is left once more at its end.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
        self._stream = None


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Guard ``sys.stdout`` and ``sys.stderr``; characters that they cannot encode are escaped."""
    streams = sys.stdout, sys.stderr
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout = _Guarded(streams[0], results=True)
    sys.stderr = _Guarded(streams[1], results=False)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
