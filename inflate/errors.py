"""The exceptions of this package.

InflateError                 the user can cause and fix it; commands exit with code 2
├── ConfigError              wrong configuration, preset or option; lists every problem
├── CheckpointError          a file cannot be read as a checkpoint
│   └── FamilyError          a valid file holds no image autoencoder of this family
├── PlanError                tensors do not fit the architecture; lists every problem
├── DeviceError              a device is missing or cannot compute
└── OutputError              a destination cannot be written

Bugs are not in this tree: they keep their own exceptions and their traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager


class InflateError(Exception):
    """Base of every error that a user can cause and fix; its message is one line.

    ``path`` is the file that causes the error, if any.
    """

    def __init__(self, message: str = "", *, path: object = None) -> None:
        super().__init__(_one_line(message))
        self.path = None if path is None else str(path)


class _ListError(InflateError):
    """An error that lists every problem found, so that all can be fixed at once."""

    def __init__(self, summary: str, problems: Sequence[str] = (), *, path: object = None) -> None:
        super().__init__(path=path)
        self.problems = tuple(map(_one_line, problems))
        self.args = ("\n  - ".join((_one_line(summary), *self.problems)),)


class ConfigError(_ListError):
    """A configuration, preset or option is not valid."""


class CheckpointError(InflateError):
    """A file cannot be read as a checkpoint."""


class FamilyError(CheckpointError):
    """A valid file holds no image autoencoder of this family."""


class PlanError(_ListError):
    """The tensors of a checkpoint do not fit the architecture."""


class DeviceError(InflateError):
    """A device is missing or cannot compute."""


class OutputError(_ListError):
    """A destination cannot be written."""


@contextmanager
def about(path: object) -> Iterator[None]:
    """Set the path of errors raised inside, unless they have one."""
    try:
        yield
    except InflateError as error:
        error.path = error.path or str(path)
        raise


def _one_line(message: str) -> str:
    """Escape line ends: messages may quote file names and file contents."""
    return "\\n".join(message.splitlines())


def printable(text: str) -> str:
    """Escape all but line ends that moves a terminal's cursor: files may have any text."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def quoted(value: object) -> str:
    """The ``repr`` of an untrusted value for a message, cut to 100 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Thousands of digits, or recursive lists.
        return f"too large to print ({type(value).__name__})"
    return text if len(text) <= 100 else f"{text[:100]}..."


_ALIASES = {
    "fp16": "float16", "half": "float16", "f16": "float16",
    "fp32": "float32", "float": "float32", "single": "float32", "f32": "float32",
    "bf16": "bfloat16", "fp64": "float64", "double": "float64",
    "gpu": "cuda", "nvidia": "cuda", "metal": "mps",
    "conv": "conv-only", "attn": "attn-only", "attention": "attn-only", "both": "all",
    "xformers": "vanilla-xformers", "comfy": "comfyui", "markdown": "md", "junit": "xml",
    "--preset": "--config",
}  # fmt: skip
"""Common alternative words, and the words that we use."""


def nearest(word: str, known: Iterable[str], forms: Mapping[str, str] | None = None) -> str:
    """`` (did you mean 'x'?)`` with the known word most similar to ``word``, or empty.

    ``forms`` maps known words to their form in messages, if that differs.
    """
    words = list(known)
    alias = _ALIASES.get(word.lower())
    close = [alias] if alias in words else difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return "".join(f" (did you mean {(forms or {}).get(one, one)!r}?)" for one in close)


@contextmanager
def needs_extra(extra: str, what: str, kind: type[InflateError]) -> Iterator[None]:
    """Convert a failed import to ``kind``: ``what`` needs an extra, and how to install it."""
    try:
        yield
    except ImportError as error:
        missing = error.name or getattr(error.__cause__, "name", None) or error
        raise kind(
            f"{what} needs the extra {extra} ({missing} is missing); {install_command(extra)}"
        ) from error


def install_command(extra: str) -> str:
    """The command that installs an extra."""
    return f"run pip install '.[{extra}]' in the checkout of inflate"
