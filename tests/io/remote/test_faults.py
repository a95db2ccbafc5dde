"""What is said of unknown schemes, missing packages, and whatever else stores raise."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from inflate.io.faults import in_words, reason, status_of

from inflate.errors import CheckpointError, InflateError, OutputError
from inflate.io.remote import check_destination, fetch


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("s4://b/a.ckpt", r"the scheme 's4' is unknown.*expected a path, or one of s3://"),
        ("htpps://h/a.ckpt", r"'htpps' is unknown \(did you mean 'https'\?\)"),
        ("memroy://a.ckpt", r"'memroy' is unknown \(did you mean 'memory'\?\)"),
        ("zip://b/a.ckpt", "'zip' is unknown"),
    ],
)
def test_an_unknown_scheme_is_refused(location: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        fetch(location)
    with pytest.raises(OutputError, match=message):
        check_destination(location, overwrite=False)


def test_a_missing_extra_is_said_in_one_line() -> None:
    # In a process of its own, since the libraries may be loaded here already.
    missing = {
        "s3fs": "s3://b/a.ckpt",
        "gcsfs": "gs://b/a.ckpt",
        "aiohttp": "https://h/a.ckpt",
        "huggingface_hub": "hf://o/r/a.ckpt",
        "filelock": "memory://a.ckpt",
        "fsspec": "memory://a.ckpt",
    }
    code = f"""
import sys
import fsspec
from inflate.errors import CheckpointError
from inflate.io.remote import fetch

fsspec.filesystem("memory").pipe("/a.ckpt", b"1234")
for package, location in {missing}.items():
    sys.modules[package] = None
    try:
        fetch(location)
    except CheckpointError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        f"{location}: {location.partition(':')[0]}:// needs the extra remote ({package} is "
        "missing); pip install 'inflate-video[remote]'"
        for package, location in missing.items()
    ]


def test_a_driver_that_the_extra_does_not_bring_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"needs another package\. fsspec says: .*ossfs"):
        fetch("oss://b/a.ckpt")


def caused(error: BaseException, cause: BaseException) -> BaseException:
    """An exception with a cause."""
    error.__cause__ = cause
    return error


class NoCredentialsError(Exception):
    """Named as botocore's."""


class ClientPayloadError(Exception):
    """Named as aiohttp's."""


class AnsweredError(Exception):
    """An answer with a status, as aiohttp has them."""

    def __init__(self, status: int) -> None:
        self.status = status


@pytest.mark.parametrize(
    ("error", "scheme", "words"),
    [
        (NoCredentialsError(), "s3", "no credentials; set AWS_ACCESS_KEY_ID"),
        (NoCredentialsError(), "gcs", "no credentials; set GOOGLE_APPLICATION_CREDENTIALS"),
        (NoCredentialsError(), "sftp", "no credentials; see what fsspec says"),
        (PermissionError(), "s3a", "access is denied"),
        (AnsweredError(403), "https", "access is denied"),
        (caused(OSError(), socket.gaierror()), "s3", "there is no such host, or no network"),
        (ssl.SSLError(), "https", "the certificate"),
        (OSError(errno.ENOSPC, "No space"), "s3", "the disk of the cache is full"),
        (TimeoutError(), "s3", "did not answer in time"),
        (asyncio.TimeoutError(), "s3", "did not answer in time"),
        (ConnectionRefusedError(), "s3", "cannot be reached"),
        (ConnectionResetError(), "s3", "the connection broke off"),
        (ClientPayloadError(), "https", "the connection broke off"),
        (NotImplementedError(), "git", "the store cannot do this"),
        (AnsweredError(501), "s3", "the store cannot do this"),
        (AnsweredError(502), "s3", "the server answered 502"),
        (FileNotFoundError(), "s3", "there is no such file"),
        (ValueError("a\nlong  story"), "s3", "a long story"),
        (ValueError(), "s3", "ValueError"),
    ],
)
def test_reasons_are_plain_words(error: BaseException, scheme: str, words: str) -> None:
    assert words in reason(error, scheme)


def test_a_circle_of_causes_ends() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert reason(one, "s3") == "one"


def test_statuses_of_all_kinds() -> None:
    class BotoError(Exception):
        response = {"ResponseMetadata": {"HTTPStatusCode": 412}}  # noqa: RUF012

    class Response:
        status_code = 404

    class HttpxError(Exception):
        response = Response()

    class GcsError(Exception):
        code = 409

    assert [status_of(e()) for e in (BotoError, HttpxError, GcsError, ValueError)] == [
        412,
        404,
        409,
        None,
    ]


def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError), in_words("x", "s3", InflateError):
        1 / 0  # noqa: B018


def test_a_disk_that_is_full_is_said(
    memory: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    memory.pipe("/a.ckpt", b"1234")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(memory), "get_file", full)
    with pytest.raises(CheckpointError, match="the disk of the cache is full; free some space, or"):
        fetch("memory://a.ckpt")
