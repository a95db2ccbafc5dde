"""Model repositories of the Hugging Face Hub, by way of its own library and its own cache."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from inflate.errors import CheckpointError, nearest
from inflate.io.remote.contents import Digest, RemoteFile, difference, hashes_of
from inflate.io.remote.counting import Counter
from inflate.io.remote.extras import needed
from inflate.io.remote.faults import reason
from inflate.progress import Progress

_PART = re.compile(r"[\w-](?:[\w.-]*[\w-])?")
_SPECIAL = re.compile(r"(refs/(?:pr|convert)/[^/]+)(?:/|$)")
_OTHER_KINDS = frozenset({"buckets", "datasets", "kernels", "spaces"})


@dataclass(frozen=True)
class HubLocation:
    """``hf://owner/repo[@revision]/folder/name``; an empty name stands for the folder."""

    repo: str
    revision: str | None
    folder: str
    name: str


@dataclass(frozen=True)
class Repository:
    """A folder of a repository at one commit, so that files of it belong together.

    ``files`` are those of the whole repository, by their paths in it.
    """

    location: HubLocation
    commit: str
    api: Any = field(repr=False)
    files: Mapping[str, RemoteFile] = field(repr=False)

    def shown(self, name: str | None = None) -> str:
        """The URL of a file, or of the location itself, for messages."""
        where = self.location
        at = f"@{where.revision}" if where.revision else ""
        return f"hf://{where.repo}{at}/{where.folder}{where.name if name is None else name}"

    def inside(self, name: str) -> Repository:
        """A folder in this one."""
        where = self.location
        return replace(self, location=replace(where, folder=f"{where.folder}{name}/", name=""))

    def near(self, name: str) -> str:
        """A hint at a file of the repository that is called much alike."""
        return nearest(self.location.folder + name, self.files)

    def stat(self, name: str) -> RemoteFile | None:
        """Describe a file of the folder; None where there is none of this name."""
        found = self.files.get(self.location.folder + name)
        return None if found is None else replace(found, name=name)

    def fetch(self, files: Sequence[RemoteFile], progress: Progress) -> Path:
        """The local folder of these files in the Hub's own cache.

        Raises:
            CheckpointError: a file cannot be downloaded, or is not what the Hub lists.
        """
        counter = Counter("downloading", sum(file.size for file in files), progress)
        for file in files:
            path, wrong = self._download(file, counter, again=False)
            if wrong:  # Harmed in the cache, or on its way into it.
                path, wrong = self._download(file, counter, again=True)
            if wrong:
                path.resolve().unlink(missing_ok=True)
                shown = self.shown(file.name)
                raise CheckpointError(
                    f"{shown} arrived with {wrong}; nothing of it is used. Try again"
                )
            counter.finish(file.size)
        return path.parent

    def _download(
        self, file: RemoteFile, counter: Counter, *, again: bool
    ) -> tuple[Path, str | None]:
        """The path of a file in the Hub's cache, and what is wrong with it."""
        with _in_words(f"{self.shown(file.name)} cannot be downloaded"):
            path = Path(
                self.api.hf_hub_download(
                    self.location.repo,
                    self.location.folder + file.name,
                    revision=self.commit,
                    force_download=again,
                    tqdm_class=_bar(counter, file.size),
                )
            )
            hashes = hashes_of(path, [digest.algorithm for digest in file.digests])
            return path, difference(path.stat().st_size, hashes, file)


def parse_hub(location: str) -> HubLocation:
    """The parts of ``hf://owner/repo[@revision]/path``.

    A revision is a branch, a tag or a commit; slashes in it are written ``%2F``, other than in
    ``refs/pr/1`` and its like.

    Raises:
        CheckpointError: it is not of this form.
    """
    expected = "expected hf://OWNER/REPO[@REVISION]/PATH/TO/FILE of a model repository"
    owner, _, rest = location.partition("://")[2].partition("/")
    repo, slash, path = rest.partition("/")
    revision: str | None = None
    if "@" in repo:
        repo, _, start = repo.partition("@")
        special = _SPECIAL.match(f"{start}{slash}{path}")
        if special:
            revision, path = special[1], f"{start}/{path}"[special.end() :]
        else:
            revision = unquote(start)
        if not revision:
            raise CheckpointError(f"{location} has an empty revision; {expected}")
    if owner in _OTHER_KINDS or not _PART.fullmatch(owner) or not _PART.fullmatch(repo):
        raise CheckpointError(f"{location} names no model repository; {expected}")
    folder, slash, name = path.rpartition("/")
    if any(part in ("", ".", "..") for part in folder.split("/") if folder) or name in (".", ".."):
        raise CheckpointError(f"{location} has an empty part, '.' or '..' in its path; {expected}")
    return HubLocation(f"{owner}/{repo}", revision, folder + slash, name)


def open_repository(location: str) -> tuple[Repository, str]:
    """The repository that a location lies in, at its present commit, and the name of the file.

    Raises:
        CheckpointError: there is no such repository or revision, or the Hub cannot be asked.
    """
    where = parse_hub(location)
    with needed(location, "hf", CheckpointError):
        from huggingface_hub import HfApi
    api = HfApi(library_name="inflate")
    with _in_words(f"{location} cannot be looked up"):
        info = api.model_info(where.repo, revision=where.revision, files_metadata=True)
    files = {}
    for entry in info.siblings or ():
        if entry.size is not None:
            digests = (Digest("sha256", entry.lfs.sha256),) if entry.lfs else ()
            version = entry.blob_id or info.sha or ""
            files[entry.rfilename] = RemoteFile(entry.rfilename, entry.size, version, digests)
    if info.sha is None:
        raise CheckpointError(f"{location} has no commit yet; upload the checkpoint first")
    return Repository(where, info.sha, api, files), where.name


def _bar(counter: Counter, size: int) -> type:
    """A bar of the kind that the Hub's library wants, which draws nothing and tells the counter."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = True
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
            self.n = kwargs.get("initial") or 0

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            counter.at(int(self.n), size)

        def update_transfer(self, n: float) -> None:
            """Take no notice of bytes on the wire; those that arrived in the file are counted."""

    return Bar


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    from huggingface_hub import errors

    # Its first base is the base of every exception of the HTTP library beneath, whichever that is.
    http_error = errors.HfHubHTTPError.__bases__[0]
    assert issubclass(http_error, Exception)
    try:
        yield
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{what}: its repository is gated; accept its terms on its page, then run hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{what}: there is no such repository, or it is private; check the name, or run hf "
            "auth login"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"{what}: there is no such revision; expected a branch, a tag or a commit after the @"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise CheckpointError(
            f"{what}: HF_HUB_OFFLINE is set; unset it, or give the path of a local file"
        ) from error
    except (OSError, ValueError, http_error) as error:
        if "Consistency check failed" in str(error):  # An OSError like any other, but for its text.
            raise CheckpointError(
                f"{what}: another number of bytes arrived than the Hub lists; try again"
            ) from error
        raise CheckpointError(f"{what}: {reason(error, 'hf')}") from error
