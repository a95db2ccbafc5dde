"""Unknown schemes, missing packages, and what else stores raise."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys

import pytest

from inflate.errors import CheckpointError, InflateError, OutputError
from inflate.io.faults import _REASONS, in_words, reason
from inflate.io.remote import check_destination, fetch

from .web import Web


@pytest.mark.parametrize(
    ("scheme", "near"), [("s4", None), ("htpps", "'https'"), ("memroy", "'memory'"), ("zip", None)]
)
def test_an_unknown_scheme_is_refused(scheme: str, near: str | None) -> None:
    with pytest.raises(CheckpointError, match=near):
        fetch(f"{scheme}://b/a.ckpt")
    with pytest.raises(OutputError, match=near):
        check_destination(f"{scheme}://b/a.ckpt", overwrite=False)


MISSING = {
    "s3fs": "s3://b/a.ckpt",
    "gcsfs": "gs://b/a.ckpt",
    "aiohttp": "https://h/a.ckpt",
    "huggingface_hub": "hf://o/r/a.ckpt",
    "filelock": "memory://a.ckpt",
    "fsspec": "memory://a.ckpt",
}
WITHOUT = f"""
import sys
import fsspec
from inflate.errors import CheckpointError
from inflate.io.remote import fetch

fsspec.filesystem("memory").pipe("/a.ckpt", b"1234")
for package, location in {MISSING}.items():
    sys.modules[package] = None
    try:
        fetch(location)
    except CheckpointError as error:
        print(error)
"""


def test_a_missing_extra_is_named_in_one_line() -> None:
    # In a process of its own, since the libraries may be loaded here already.
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert done.stderr == ""
    for (package, location), line in zip(MISSING.items(), done.stdout.splitlines(), strict=True):
        assert line.startswith(location)
        assert package in line
        assert "pip install '.[remote]'" in line


class NoCredentialsError(Exception):
    """An exception that is known by its name, as those of libraries that are not loaded."""


def caused(error: BaseException, cause: BaseException) -> BaseException:
    """An exception with a cause."""
    error.__cause__ = cause
    return error


class AnsweredError(Exception):
    """An answer with a status, as aiohttp has them."""

    def __init__(self, status: int) -> None:
        self.status = status


@pytest.mark.parametrize(
    ("error", "row"),
    [
        (NoCredentialsError(), "NoCredentialsError"),
        (AnsweredError(403), "403"),
        (OSError("Forbidden: no"), "403"),
        (caused(OSError(), socket.gaierror()), "gaierror"),
        (OSError(errno.ENOSPC, "No space"), "ENOSPC"),
        (ConnectionResetError(), "ConnectionError"),
        (AnsweredError(502), "5xx"),
    ],
)
def test_each_error_has_its_row(error: BaseException, row: str) -> None:
    (text,) = [text for names, text in _REASONS if row in names.split()]
    assert reason(error, "s3").startswith(text.partition("{")[0])


def test_an_error_that_is_not_in_the_table_is_quoted() -> None:
    assert "GOOGLE_APPLICATION_CREDENTIALS" in reason(AnsweredError(401), "gs")
    assert reason(ValueError("a\nlong  story"), "s3") == "a long story"
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert reason(one, "s3") == "one"


def test_exceptions_of_libraries_are_reported_and_bugs_keep_their_traceback() -> None:
    for error in (AnsweredError(404), ValueError("x")):
        with pytest.raises(InflateError), in_words("x", "s3", InflateError):
            raise error
    with pytest.raises(ZeroDivisionError), in_words("x", "s3", InflateError):
        1 / 0  # noqa: B018


def test_passwords_are_not_in_messages(web: Web) -> None:
    url = web.url.replace("//", "//user:secret@")
    with pytest.raises(CheckpointError) as raised:
        fetch(f"{url}/a.ckpt?signature=secret")
    assert "secret" not in str(raised.value)
