"""What goes wrong between here and a store, in plain words.

Every store raises exceptions of its own libraries. Those are listed here by name, since a library
that is not loaded cannot have raised one.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from inflate.errors import InflateError

_LIBRARIES = (
    ("aiohttp", "ClientError"),
    ("azure.core.exceptions", "AzureError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("ftplib", "Error"),
    ("fsspec.exceptions", "FSTimeoutError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("gcsfs.retry", "ChecksumError"),
    ("gcsfs.retry", "HttpError"),
    ("paramiko", "SSHException"),
    ("smbprotocol.exceptions", "SMBException"),
)
_NO_CREDENTIALS = frozenset(
    {
        "ClientAuthenticationError",
        "CredentialRetrievalError",
        "DefaultCredentialsError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "RefreshError",
    }
)
_SIGN_IN = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket, "
    "FSSPEC_S3_ANON=true",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run gcloud auth application-default login; for a "
    "public bucket, FSSPEC_GS_TOKEN=anon",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "https": "a private address needs a user and password before its host, or a signed URL",
    "hf": "run hf auth login, or set HF_TOKEN",
}
_SAME = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "http": "https"}
_BROKEN = frozenset(
    {
        "ClientPayloadError",
        "IncompleteReadError",
        "RemoteProtocolError",
        "ResponseStreamingError",
        "ReadError",
        "ServerDisconnectedError",
    }
)
_UNREACHABLE = frozenset({"ClientConnectorError", "ConnectError", "EndpointConnectionError"})


def store_errors() -> tuple[type[BaseException], ...]:
    """Every exception by which a store says no, of the libraries that are loaded by now."""
    known: list[type[BaseException]] = [OSError, ValueError, NotImplementedError]
    known.append(asyncio.TimeoutError)  # Until Python 3.10 it is no OSError.
    for module, name in _LIBRARIES:
        found = getattr(sys.modules.get(module), name, None)
        if found is not None:
            known.append(found)
    return tuple(known)


@contextmanager
def in_words(what: str, scheme: str, kind: type[InflateError]) -> Iterator[None]:
    """Raise what a store raises as ``kind``, with the words ``what`` before the reason."""
    try:
        yield
    except store_errors() as error:
        raise kind(f"{what}: {reason(error, scheme)}") from error


def was_taken(error: BaseException) -> bool:
    """Whether an upload failed because its name was taken."""
    causes = list(_causes(error))
    taken = any(isinstance(cause, FileExistsError) for cause in causes)
    return taken or any(status_of(cause) in (409, 412) for cause in causes)


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an exception, where there is one."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    elif response is not None:  # httpx's and requests'
        status = getattr(response, "status_code", None)
    else:  # aiohttp's, whose code is deprecated, and gcsfs's
        status = getattr(error, "status" if hasattr(error, "status") else "code", None)
    return status if isinstance(status, int) else None


def reason(error: BaseException, scheme: str) -> str:
    """Why a store could not do it, and what to do about it."""
    causes = list(_causes(error))
    names = {name for cause in causes for name in _names(cause)}
    status = next((s for s in map(status_of, causes) if s is not None), None)
    if names & _NO_CREDENTIALS:
        return f"there are no credentials; {_sign_in(scheme)}"
    # gcsfs has no better sign of it than its text.
    forbidden = any(str(cause).startswith("Forbidden") for cause in causes)
    if forbidden or any(isinstance(c, PermissionError) for c in causes) or status in (401, 403):
        return f"access is denied; check the name, and who you are: {_sign_in(scheme)}"
    if any(isinstance(c, socket.gaierror) for c in causes) or "ClientConnectorDNSError" in names:
        return "there is no such host, or no network; check the name and the connection"
    if any(isinstance(c, ssl.SSLError) for c in causes):
        return "the certificate of the server is not accepted; check the address"
    if any(getattr(c, "errno", None) in (errno.ENOSPC, errno.EDQUOT) for c in causes):
        return "the disk of the cache is full; free some space, or set INFLATE_CACHE to a folder"
    if any(isinstance(c, (TimeoutError, asyncio.TimeoutError)) for c in causes) or (
        names & {"FSTimeoutError", "ReadTimeoutError", "ConnectTimeoutError", "TimeoutException"}
    ):
        return "the server did not answer in time; try again later"
    if any(isinstance(c, ConnectionRefusedError) for c in causes) or names & _UNREACHABLE:
        return "the server cannot be reached; check the address and the connection"
    if any(isinstance(c, ConnectionError) for c in causes) or names & _BROKEN:
        return "the connection broke off; try again"
    if status == 501 or any(isinstance(c, NotImplementedError) for c in causes):
        return "the store cannot do this; choose another one"
    if status is not None and status >= 500:
        return f"the server answered {status}, its own fault; try again later"
    if any(isinstance(c, FileNotFoundError) for c in causes) or status in (404, 410):
        return "there is no such file, folder or bucket; check the name"
    text = " ".join(str(causes[0]).split())
    return text or type(causes[0]).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    for _ in range(8):  # Chains are short, but may be circular.
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


def _names(error: BaseException) -> Iterator[str]:
    return (kind.__name__ for kind in type(error).__mro__)


def _sign_in(scheme: str) -> str:
    default = "see what fsspec says on credentials for this kind of store"
    return _SIGN_IN.get(_SAME.get(scheme, scheme), default)
