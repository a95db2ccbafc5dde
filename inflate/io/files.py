"""The local files of a checkpoint: their formats, found from the first bytes, and their hash."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from inflate.errors import CheckpointError, nearest
from inflate.io import file_signatures
from inflate.io.contents import hashes_of
from inflate.io.folder import (
    CONFIG,
    LARGEST_JSON,
    members_of_file,
    members_of_folder,
    without_index_ending,
)
from inflate.io.protected import ReadFiles
from inflate.io.ranges import partial_of
from inflate.io.writer import Container


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of a checkpoint: the weights, and the content of ``config.json``.

    ``path`` is the given folder, file or index. ``config`` comes from the folder, or from next to a
    file if its class is a supported one. ``shards`` maps tensors to files.
    """

    path: Path
    format: Container
    weights: tuple[Path, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    shards: Mapping[str, Path] = field(default_factory=dict)
    read: ReadFiles = field(default_factory=ReadFiles)

    @property
    def folder(self) -> Path:
        """The folder that contains the files."""
        return self.weights[0].parent

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file that is hashed: the weights, and the index that was given."""
        given = () if self.path in (self.folder, *self.weights) else (self.path,)
        return (*given, *self.weights)


@dataclass(frozen=True)
class LocalFolder:
    """A local folder; ``seen`` records every file that is found or read in it."""

    path: Path
    seen: ReadFiles

    listed = True

    def shown(self, name: str = "") -> str:
        """The path of a file, or of the folder."""
        return str(self.path / name)

    def inside(self, name: str) -> LocalFolder:
        """A subfolder."""
        return LocalFolder(self.path / name, self.seen)

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        if not os.path.isfile(self.path / name):
            return False
        with suppress(OSError):  # It was just removed: reading it reports that.
            self.seen.look(self.path / name)
        return True

    def read(self, name: str) -> bytes:
        """The content of a small file."""
        path = self.path / name
        try:
            found = self.seen.look(path)
            if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST_JSON:
                raise CheckpointError(
                    f"{path} is not a file of JSON, {LARGEST_JSON:,} bytes at most"
                )
            return path.read_bytes()
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} is not readable as JSON: {error}") from error


def find_files(path: Path, read: ReadFiles | None = None) -> CheckpointFiles:
    """Identify a path: a weights file, an index of shards, or a diffusers folder.

    ``read`` records every file that is read, even if identification fails.

    Raises:
        CheckpointError: it is missing, empty, damaged or in an unknown format.
        FamilyError: it is a diffusers folder of an unsupported class.
    """
    read = ReadFiles() if read is None else read
    if os.path.isdir(path):
        known = file_signatures.known_folder(path)
        if known is not None and not (path / CONFIG).is_file():
            raise CheckpointError(f"{path} is {known}")
        found = members_of_folder(LocalFolder(path, read))
        path = found.folder.path  # Use the vae of a whole pipeline.
    else:
        found = members_of_file(LocalFolder(path.parent, read), path.name)
    folder = found.folder.path
    weights = tuple(folder / name for name in found.weights)
    formats = [_format_of(file, read) for file in weights]
    for file, kind in zip(weights, formats, strict=True):
        if kind != formats[0]:
            raise CheckpointError(
                f"{path} names shards of two formats ({file.name} is of {kind}); expected one"
            )
    shards = {tensor: folder / name for tensor, name in found.shards.items()}
    return CheckpointFiles(path, formats[0], weights, found.config, shards, read)


def read_files(path: Path) -> tuple[Path, ...]:
    """Every file that reading a checkpoint opens; for a broken checkpoint, those that exist."""
    read = ReadFiles()
    if os.path.isdir(path) or without_index_ending(path.name) is not None:
        with suppress(CheckpointError):
            find_files(path, read)
    return (path, *read.marks)


def _format_of(path: Path, read: ReadFiles) -> Container:
    """``safetensors`` or ``torch``, by the file's first bytes rather than its name."""
    try:
        found = read.look(path)
        if not stat.S_ISREG(found.st_mode):  # Opening a pipe would wait for its writer.
            raise CheckpointError(f"{path} is not a regular file; expected a checkpoint file")
        with path.open("rb") as file:
            head = file.read(file_signatures.FIRST_BYTES)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} does not exist{like(path)}; expected a checkpoint file"
        ) from error
    except (OSError, ValueError) as error:  # A ValueError: a name with a NUL.
        why = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path} cannot be read: {why}") from error
    if found.st_size == 0:
        raise CheckpointError(f"{path} is empty; copy or download it again")
    # Check for safetensors first: its leading length may look like the start of a pickle.
    if file_signatures.header_length(head, found.st_size) is not None:
        return "safetensors"
    other = (
        file_signatures.DISTRIBUTED if path.suffix == ".distcp" else file_signatures.known_as(head)
    )
    if other is not None:
        raise CheckpointError(f"{path} is {other[0]}: {other[1]}")
    if head.startswith((b"\x80", b"PK\3\4")) or zipfile.is_zipfile(path):
        return "torch"
    if head[8:9] == b"{":
        raise CheckpointError(
            f"{path} is cut short ({found.st_size} bytes). Copy or download it again"
        )
    raise CheckpointError(
        f"{path} is neither a torch checkpoint nor a safetensors file (it begins with "
        f"{str(head[:8])[1:]}); expected .ckpt, .pt, .pth, .bin or .safetensors"
    )


def like(path: Path) -> str:
    """`` (did you mean 'x'?)`` with the most similar name in the folder of a missing file."""
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in islice(entries, 1000)]
    except (OSError, ValueError):
        return ""
    # Compare stems: names that share only a suffix are not similar.
    stems = {Path(name).stem: name for name in names}
    return "" if path.name in names else nearest(path.stem, stems, stems)


def hash_file(path: Path) -> str:
    """The SHA-256 of a file; for a partial remote file, the one that its store gives, or empty."""
    partial = partial_of(path)
    if partial is not None and partial.sha256 is not None:
        return partial.sha256
    return hashes_of(path, ["sha256"])["sha256"]


def hash_files(files: CheckpointFiles) -> str:
    """The SHA-256 of a checkpoint's file, or of the names and hashes of its files; or empty."""
    if files.all == (files.path,):
        return hash_file(files.path)
    hashes = {path: hash_file(path) for path in sorted(files.all)}
    if not all(hashes.values()):
        return ""
    listing = "".join(f"{sha256}  {path.name}\n" for path, sha256 in hashes.items())
    return hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()
