"""Model repositories of the Hugging Face Hub, through its own library and its own cache."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from inflate.errors import CheckpointError, nearest
from inflate.io.caching import summed
from inflate.io.contents import RemoteFile
from inflate.io.faults import in_words, needs_driver
from inflate.progress import Progress, silent

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
class HubFolder:
    """A folder of a repository at one commit, so that its files belong together.

    ``files`` are those of the whole repository, by their paths in it.
    """

    location: HubLocation
    commit: str
    api: Any = field(repr=False)
    files: Mapping[str, RemoteFile] = field(repr=False)

    listed = True

    def shown(self, name: str | None = None) -> str:
        """The URL of a file, or of the location itself, for messages."""
        where = self.location
        at = f"@{where.revision}" if where.revision else ""
        return f"hf://{where.repo}{at}/{where.folder}{name or where.name}"

    def url(self, name: str) -> str:
        """The URL of a file at its commit."""
        return f"hf://{self.location.repo}@{self.commit}/{self.location.folder}{name}"

    def inside(self, name: str) -> HubFolder:
        """A folder in this one."""
        where = self.location
        return replace(self, location=replace(where, folder=f"{where.folder}{name}/", name=""))

    def near(self, name: str) -> str:
        """A hint at a file of the repository with a similar name."""
        return nearest(self.location.folder + name, self.files)

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return self.location.folder + name in self.files

    def stat(self, name: str) -> RemoteFile | None:
        """Describe a file; None where there is none of this name."""
        found = self.files.get(self.location.folder + name)
        return None if found is None else replace(found, name=name)

    look = stat

    def read(self, name: str) -> bytes:
        """The content of a small file, by way of the Hub's cache.

        Raises:
            CheckpointError: it cannot be downloaded.
        """
        file = self.files[self.location.folder + name]
        return self._verified(replace(file, name=name), silent).read_bytes()

    def ranged(self, file: RemoteFile) -> bool:
        """Whether parts of a file are to be read: not where the Hub's cache has the whole."""
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(
            self.location.repo, self.location.folder + file.name, revision=self.commit
        )
        return not isinstance(cached, str)

    def read_range(self, file: RemoteFile, start: int, end: int) -> bytes:
        """Some bytes of a file.

        Raises:
            CheckpointError: the Hub does not give them, or not all.
        """
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            hf_raise_for_status,
            http_backoff,
        )

        with in_words(f"{self.shown(file.name)} cannot be downloaded", "hf", CheckpointError):
            url = hf_hub_url(
                self.location.repo, self.location.folder + file.name, revision=self.commit
            )
            headers = {**build_hf_headers(library_name="inflate"), "Accept-Encoding": "identity"}
            headers["Range"] = f"bytes={start}-{end - 1}"
            timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
            answer = http_backoff("GET", url, headers=headers, timeout=timeout)
            hf_raise_for_status(answer)
            found = bytes(answer.content)
        if answer.status_code != 206 or len(found) != end - start:
            raise CheckpointError(
                f"{self.shown(file.name)}: {len(found):,} bytes arrived instead of "
                f"{end - start:,}; try again"
            )
        return found

    def fetch(self, files: Sequence[RemoteFile], progress: Progress) -> Path:
        """The local folder of these files in the Hub's own cache.

        Raises:
            CheckpointError: a file cannot be downloaded, or is not what the Hub lists.
        """
        callbacks = summed("downloading", [file.size for file in files], progress)
        paths = [self._verified(file, moved) for moved, file in zip(callbacks, files, strict=True)]
        return paths[-1].parent

    def download(self, file: RemoteFile, to: Path, progress: Progress) -> None:
        """Copy a file to a path.

        Raises:
            CheckpointError: as :meth:`fetch`.
        """
        shutil.copyfile(self._verified(file, progress), to)

    def _verified(self, file: RemoteFile, progress: Progress) -> Path:
        """The path of a file in the Hub's cache, downloaded again if it is damaged there."""
        for again in (False, True):
            with in_words(f"{self.shown(file.name)} cannot be downloaded", "hf", CheckpointError):
                path = Path(
                    self.api.hf_hub_download(
                        self.location.repo,
                        self.location.folder + file.name,
                        revision=self.commit,
                        force_download=again,
                        tqdm_class=_bar(file.size, progress),
                    )
                )
                wrong = file.check(path)
            if not wrong:
                return path
        path.resolve().unlink(missing_ok=True)
        raise CheckpointError(
            f"{self.shown(file.name)} arrived with {wrong}; it is not used. Try again"
        )


def parse_hub(location: str) -> HubLocation:
    """The parts of ``hf://owner/repo[@revision]/path``.

    A revision is a branch, a tag or a commit; slashes in it are written ``%2F``, other than in
    ``refs/pr/1`` and similar.

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
        raise CheckpointError(f"{location} does not name a model repository; {expected}")
    folder, slash, name = path.rpartition("/")
    if any(part in ("", ".", "..") for part in folder.split("/") if folder) or name in (".", ".."):
        raise CheckpointError(f"{location} has an empty part, '.' or '..' in its path; {expected}")
    return HubLocation(f"{owner}/{repo}", revision, folder + slash, name)


def open_repository(location: str) -> tuple[HubFolder, str]:
    """The folder that a location lies in, at the present commit, and the name of the file.

    Raises:
        CheckpointError: there is no such repository or revision, or the Hub does not answer.
    """
    where = parse_hub(location)
    with needs_driver(location, "hf", CheckpointError):
        from huggingface_hub import HfApi, errors  # noqa: F401  # Its errors are caught below.
    api = HfApi(library_name="inflate")
    with in_words(f"{location} cannot be looked up", "hf", CheckpointError):
        info = api.model_info(where.repo, revision=where.revision, files_metadata=True)
    if info.sha is None:
        raise CheckpointError(f"{location} has no commit yet; upload the checkpoint first")
    files = {}
    for entry in info.siblings or ():
        if entry.size is not None:
            digests = {"sha256": entry.lfs.sha256} if entry.lfs else {}
            version = entry.blob_id or info.sha
            files[entry.rfilename] = RemoteFile(entry.rfilename, entry.size, version, digests)
    return HubFolder(where, info.sha, api, files), where.name


def _bar(size: int, progress: Progress) -> type:
    """A bar of the class that the Hub's library wants; it draws nothing and reports progress."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = True
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
            self.n = kwargs.get("initial") or 0

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            progress("downloading", min(int(self.n), size), size)

        def update_transfer(self, n: float) -> None:
            """Ignore bytes on the wire; those that arrived in the file are counted."""

    return Bar
