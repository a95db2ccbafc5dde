"""Exceptions of stores and the Hub, converted by one table of reasons and advice."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from inflate.errors import InflateError, install_command

# fmt: off
_REASONS = (
    ("GatedRepoError", "its repository is gated; accept its terms on its page, then {sign_in}"),
    ("RepositoryNotFoundError",
     "there is no such repository, or it is private; check the name, or {sign_in}"),
    ("RevisionNotFoundError",
     "there is no such revision; expected a branch, a tag or a commit after the @"),
    ("OfflineModeIsEnabled", "HF_HUB_OFFLINE is set; unset it, or give the path of a local file"),
    ("ClientAuthenticationError CredentialRetrievalError DefaultCredentialsError "
     "NoCredentialsError PartialCredentialsError RefreshError",
     "there are no credentials; {sign_in}"),
    ("PermissionError 401 403", "access is denied; check the name and your account: {sign_in}"),
    ("gaierror ClientConnectorDNSError",
     "there is no such host, or no network; check the name and the connection"),
    ("SSLError", "the certificate of the server is not accepted; check the address"),
    ("ENOSPC EDQUOT",
     "the disk of the cache is full; free some space, or set INFLATE_CACHE to a folder"),
    ("TimeoutError FSTimeoutError ReadTimeoutError ConnectTimeoutError TimeoutException",
     "the server did not answer in time; try again later"),
    ("ConnectionRefusedError ClientConnectorError ConnectError EndpointConnectionError",
     "the server cannot be reached; check the address and the connection"),
    ("ConnectionError ClientPayloadError IncompleteReadError RemoteProtocolError "
     "ResponseStreamingError ReadError ServerDisconnectedError",
     "the connection broke off; try again"),
    ("ImportError",
     "{error}. What s3, gs, https and hf need comes with the extra remote: {install}"),
    ("5xx", "the server failed ({status}); try again later"),
    ("FileNotFoundError 404 410", "there is no such file, folder or bucket; check the name"),
)
# fmt: on
"""Names of exceptions, statuses and error numbers, and what to report; the first match wins."""

_SIGN_IN = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket, "
    "FSSPEC_S3_ANON=true",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run gcloud auth application-default login; for a "
    "public bucket, FSSPEC_GS_TOKEN=anon",
    "abfs": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "https": "a private address needs a user and password before its host, or a signed URL",
    "hf": "run hf auth login, or set HF_TOKEN",
}


@contextmanager
def in_words(what: str, store: str, kind: type[InflateError]) -> Iterator[None]:
    """Convert exceptions of a store to ``kind``; the message is ``what``, then the reason."""
    try:
        yield
    except Exception as error:
        # Libraries define their own exceptions; any other built-in exception is a bug.
        foreign = type(error).__module__.partition(".")[0] not in ("builtins", "inflate")
        if foreign or isinstance(error, OSError | ValueError | ImportError | NotImplementedError):
            raise kind(f"{what}: {reason(error, store)}") from error
        raise


def was_taken(error: BaseException) -> bool:
    """Whether an upload failed because its name was taken."""
    return bool(_keys(error) & {"FileExistsError", "409", "412"})


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an exception, if there is one."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    elif response is not None:  # httpx's and requests'
        status = getattr(response, "status_code", None)
    else:  # aiohttp's, whose code is deprecated, and gcsfs's
        status = getattr(error, "status" if hasattr(error, "status") else "code", None)
    return status if isinstance(status, int) else None


def reason(error: BaseException, store: str) -> str:
    """Why a store failed, and what to do about it."""
    keys = _keys(error)
    fields = {
        "error": " ".join(str(error).split()) or type(error).__name__,
        "install": install_command("remote"),
        "sign_in": _SIGN_IN.get(store, "see what fsspec says on credentials for this store"),
        "status": next((key for key in keys if key.isdigit()), ""),
    }
    row = (text for names, text in _REASONS if keys & set(names.split()))
    return next(row, "{error}").format(**fields)


def _keys(error: BaseException) -> set[str]:
    """Keys of an exception and its causes for the table: classes, statuses, error numbers."""
    keys: set[str] = set()
    cause: BaseException | None = error
    for _ in range(8):  # Chains are short, but may be circular.
        if cause is None:
            break
        keys.update(kind.__name__ for kind in type(cause).__mro__)
        number = getattr(cause, "errno", None)
        keys.add(errno.errorcode.get(number, "") if isinstance(number, int) else "")
        status = status_of(cause)
        if status is not None:
            keys |= {str(status), f"{status // 100}xx"}
        if str(cause).startswith("Forbidden"):  # gcsfs: a plain OSError, known by its text
            keys.add("403")
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return keys
