"""Model repositories on the Hugging Face Hub, read through ``huggingface_hub`` and its cache."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from inflate.errors import CheckpointError
from inflate.io.contents import RemoteFile
from inflate.io.faults import in_words
from inflate.io.stores import StoreFolder
from inflate.progress import Progress, summed


@dataclass(frozen=True, kw_only=True)
class HubFolder(StoreFolder):
    """A folder of a repository at one commit, so that its files match each other.

    ``root`` is the URL of the repository as given; ``files`` has every file of the repository
    by its path.
    """

    repo: str
    commit: str
    root: str
    files: Mapping[str, RemoteFile] = field(repr=False)

    listed = True

    def url(self, name: str) -> str:
        """The URL of a file at its commit."""
        return f"hf://{self.repo}@{self.commit}/{self._path(name)}"

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of this name."""
        path = self._path(name)
        return path in self.files or any(file.startswith(f"{path}/") for file in self.files)

    def stat(self, name: str) -> RemoteFile | None:
        """Describe a file; None if there is none of this name."""
        found = self.files.get(self._path(name))
        return None if found is None else replace(found, name=name)

    def ranged(self, file: RemoteFile) -> bool:
        """Whether to read parts of a file: not if the Hub's cache has the whole file."""
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(self.repo, self._path(file.name), revision=self.commit)
        return file.size > 0 and not isinstance(cached, str)

    def kept(self, files: Sequence[RemoteFile], progress: Progress) -> Path:
        """The folder of the Hub's cache that holds whole copies."""
        callbacks = summed("downloading", [file.size for file in files], progress)
        paths = [self._verified(file, moved) for moved, file in zip(callbacks, files, strict=True)]
        return paths[-1].parent

    def download(self, file: RemoteFile, to: Path, progress: Progress) -> None:
        """Copy a file to a path, through the Hub's cache."""
        shutil.copyfile(self._verified(file, progress), to)

    def _path(self, name: str) -> str:
        return self.folder.removeprefix(self.root) + name

    def _verified(self, file: RemoteFile, progress: Progress) -> Path:
        """The path of a file in the Hub's cache; downloads a damaged file again."""
        from huggingface_hub import hf_hub_download

        for again in (False, True):
            with self._in_words("downloaded", file.name):
                path = Path(
                    hf_hub_download(
                        self.repo,
                        self._path(file.name),
                        force_download=again,
                        tqdm_class=_bar(file.size, progress),
                        revision=self.commit,
                        library_name="inflate",
                    )
                )
                wrong = file.check(path)
            if not wrong:
                return path
        path.resolve().unlink(missing_ok=True)
        raise self.damaged(file, wrong)


def open_repository(location: str) -> HubFolder:
    """The folder that contains ``hf://owner/repo[@revision]/path``, at the current commit."""
    rest = location.partition("://")[2].rstrip("/")
    with in_words(f"{location} cannot be looked up", "hf", CheckpointError):
        from huggingface_hub import HfApi, HfFileSystem

        fs = HfFileSystem(skip_instance_cache=True)
        found: Any = fs.resolve_path(f"hf://{rest}")
        if getattr(found, "repo_type", None) != "model":
            raise ValueError("expected hf://OWNER/REPO[@REVISION]/PATH/TO/FILE of a model")
        api = HfApi(library_name="inflate")
        info = api.model_info(found.repo_id, revision=found.revision, files_metadata=True)
    commit = info.sha or found.revision
    files = {}
    for entry in info.siblings or ():
        if entry.size is not None:
            digests = {"sha256": entry.lfs.sha256} if entry.lfs else {}
            version = entry.blob_id or commit
            files[entry.rfilename] = RemoteFile(entry.rfilename, entry.size, version, digests)
    above, slash, name = found.path_in_repo.rpartition("/")
    root = f"hf://{rest.removesuffix(found.path_in_repo).rstrip('/')}/"
    return HubFolder(
        store="hf",
        folder=root + above + slash,
        name=name,
        tail=name,
        fs=fs,
        repo=found.repo_id,
        commit=commit,
        root=root,
        files=files,
    )


def _bar(size: int, progress: Progress) -> type:
    """A progress bar for ``huggingface_hub`` that draws nothing and reports to a callback."""
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
            """Ignore bytes on the wire; only bytes written to the file count."""

    return Bar
