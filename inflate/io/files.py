"""Which files make up a checkpoint: one file, shards behind an index, or a diffusers folder."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from inflate.errors import CheckpointError, FamilyError, nearest
from inflate.io.file_signatures import DISTRIBUTED, FIRST_BYTES, known_as, known_folder
from inflate.io.protected import ReadFiles
from inflate.vocabulary import FOLDER_FILES, without_index_ending

Format = Literal["safetensors", "torch"]

_PICKLE, _ZIP = b"\x80", b"PK\x03\x04"
_LARGEST_JSON = 100_000_000
_NO_FOLDER = "a directory without config.json; expected a checkpoint file, or a folder of diffusers"
LONGEST_NAME = 1000
"""Characters that the name of a tensor may have."""

VIDEO_CLASS = "AutoencoderKLTemporalDecoder"
CLASSES = (
    "AutoencoderKL", VIDEO_CLASS, "VQModel", "AutoencoderKLFlux2", "AsymmetricAutoencoderKL"
)  # fmt: skip
"""The classes of diffusers whose autoencoders are of this family."""


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of a checkpoint: those that hold weights, and what a folder's config says.

    ``shards`` says which of the files holds a tensor, where an index stood beside them.
    ``config_nearby`` is a ``config.json`` in the folder of a file that is given directly, if it is
    one of these classes. ``read`` is every file that is read, the config too.
    """

    path: Path
    format: Format
    weights: tuple[Path, ...]
    folder_config: Mapping[str, Any] = field(default_factory=dict)
    shards: Mapping[str, Path] = field(default_factory=dict)
    config_nearby: Mapping[str, Any] = field(default_factory=dict)
    read: ReadFiles = field(default_factory=ReadFiles)

    @property
    def config_path(self) -> Path | None:
        """The ``config.json`` that is read, if one is."""
        if self.config_nearby:
            return self.weights[0].parent / "config.json"
        return self.path / "config.json" if self.folder_config else None

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file that is hashed: the weights, and the index that was given."""
        index = (self.path,) if self.path.is_file() and self.path not in self.weights else ()
        return (*index, *self.weights)


def find_files(path: Path) -> CheckpointFiles:
    """Find out what a path is: a file of weights, an index of shards, or a diffusers folder.

    Raises:
        CheckpointError: it is missing, empty, damaged or of another format.
        FamilyError: a diffusers folder of another class.
    """
    return _find(path, ReadFiles())


def read_files(path: Path) -> tuple[Path, ...]:
    """Every file that reading a checkpoint opens, of a broken one those that are there.

    A path that names one file is not opened to find out.
    """
    read = ReadFiles()
    if os.path.isdir(path) or without_index_ending(path.name) is not None:
        with suppress(CheckpointError):
            _find(path, read)
    return (path, *read.marks)


def _find(path: Path, read: ReadFiles) -> CheckpointFiles:
    if os.path.isdir(path):
        return _folder(path, read)
    return replace(_weights(path, read), config_nearby=_beside(path, read))


def _weights(path: Path, read: ReadFiles) -> CheckpointFiles:
    if without_index_ending(path.name) is not None:
        return _sharded(path, read)
    return CheckpointFiles(path, detect_format(path, read), (path,), read=read)


def detect_format(path: Path, read: ReadFiles | None = None) -> Format:
    """``safetensors`` or ``torch``, by the first bytes of the file and not by its name.

    Args:
        path: the file.
        read: where to note that it is read.

    Raises:
        CheckpointError: the file is missing, a directory, empty, unreadable or of another format.
    """
    try:
        kind = (read or ReadFiles()).look(path).st_mode
        if stat.S_ISDIR(kind):
            raise CheckpointError(f"{path} is a directory; expected a checkpoint file")
        if not stat.S_ISREG(kind):  # To open a pipe is to wait for who writes into it.
            raise CheckpointError(f"{path} is not a regular file; expected a checkpoint file")
        with path.open("rb") as file:
            head = file.read(FIRST_BYTES)
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} does not exist{like(path)}; expected a checkpoint file"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # A name with a NUL.
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if size == 0:
        raise CheckpointError(f"{path} is empty; copy or download it again")
    # Safetensors first: the length that it begins with may look like the start of a pickle.
    length = struct.unpack("<Q", head[:8])[0] if head[8:9] == b"{" else 0
    if 0 < length <= size - 8:
        return "safetensors"
    other = DISTRIBUTED if path.suffix == ".distcp" else known_as(head)
    if other is not None:
        raise CheckpointError(f"{path} is {other[0]}: {other[1]}")
    if head.startswith((_PICKLE, _ZIP)) or zipfile.is_zipfile(path):
        return "torch"
    if length:
        raise CheckpointError(
            f"{path} is cut short: its header claims {length} bytes, the file has {size}. "
            "Copy or download it again"
        )
    raise CheckpointError(
        f"{path} is neither a torch checkpoint nor a safetensors file (it begins with "
        f"{head[:8]!r}); expected .ckpt, .pt, .pth, .bin or .safetensors"
    )


def like(path: Path) -> str:
    """`` (did you mean 'x'?)`` for the name in the same folder that is most like a missing one."""
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in islice(entries, 1000)]
    except (OSError, ValueError):
        return ""
    return "" if path.name in names else nearest(path.name, names)


def shown(name: str) -> str:
    """A name from a file, as it may be printed: quoted and cut where it would garble a terminal."""
    return name if name.isprintable() and len(name) <= LONGEST_NAME else repr(name[:100])


def hash_file(path: Path, at_once: int = 1 << 20, stopped: Callable[[], bool] = bool) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits.

    Args:
        path: the file.
        at_once: bytes read at a time.
        stopped: asked after each of them; once it is true, the rest is left out.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(at_once))
    with path.open("rb", buffering=0) as file:
        while (count := file.readinto(buffer)) and not stopped():
            digest.update(buffer[:count])
    return digest.hexdigest()


def hash_files(files: CheckpointFiles, hash_one: Callable[[Path], str] = hash_file) -> str:
    """The SHA-256 of a checkpoint: of its file, or of the names and hashes of its files."""
    if files.all == (files.path,):
        return hash_one(files.path)
    listing = "".join(f"{hash_one(path)}  {path.name}\n" for path in sorted(files.all))
    return hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()


def _folder(path: Path, read: ReadFiles) -> CheckpointFiles:
    if not os.path.isfile(path / "config.json") and os.path.isfile(path / "vae" / "config.json"):
        path = path / "vae"  # The folder of a whole pipeline.
    config_path = path / "config.json"
    if not os.path.isfile(config_path):
        raise CheckpointError(f"{path} is {known_folder(path) or _NO_FOLDER}")
    config = _json(config_path, read)
    kind = config.get("_class_name")
    if kind not in CLASSES:
        held = "a config.json without _class_name" if kind is None else f"a {kind!r} of diffusers"
        raise FamilyError(f"{path} holds {held}; expected one of {', '.join(CLASSES)}")
    weights = next((path / name for name in FOLDER_FILES if os.path.isfile(path / name)), None)
    if weights is None:
        raise CheckpointError(
            f"{path} has none of the files {', '.join(FOLDER_FILES)}; name the file of weights"
        )
    inner = _weights(weights, read)
    return CheckpointFiles(path, inner.format, inner.weights, config, inner.shards, read=read)


def _beside(path: Path, read: ReadFiles) -> Mapping[str, Any]:
    """The ``config.json`` in the folder of a file, if it is one of the classes; else nothing."""
    config_path = path.parent / "config.json"
    if not os.path.isfile(config_path):
        return {}
    try:
        config = _json(config_path, read)
    except CheckpointError:
        if path.name in FOLDER_FILES:  # As diffusers names it: the file is of this folder.
            raise
        return {}
    return config if config.get("_class_name") in CLASSES else {}


def _sharded(path: Path, read: ReadFiles) -> CheckpointFiles:
    weight_map = _json(path, read).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no 'weight_map'; expected an index of shards")
    problems = []
    shards = {}
    for name, shard in weight_map.items():
        # An index may name files in its own folder, and nothing else.
        if not isinstance(shard, str) or shard != Path(shard).name or shard in ("", ".", ".."):
            raise CheckpointError(
                f"{path} places {shown(name)} in {shard!r}; expected the name of a file next to it"
            )
        shards[name] = path.parent / shard
    for shard_path in sorted(set(shards.values())):
        if os.path.isfile(shard_path):
            with suppress(OSError):  # It has just gone: opening it says so.
                read.look(shard_path)
        else:
            problems.append(shown(shard_path.name))
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"{path} names shards that are missing: {', '.join(problems[:5])}{more}"
        )
    files = tuple(sorted(set(shards.values())))
    formats = {file: detect_format(file, read) for file in files}
    for file in files:
        if formats[file] != formats[files[0]]:
            raise CheckpointError(
                f"{path} names shards of two formats: {files[0].name} is one of "
                f"{formats[files[0]]}, {file.name} of {formats[file]}; expected one format"
            )
    return CheckpointFiles(path, formats[files[0]], files, {}, shards, read=read)


def _json(path: Path, read: ReadFiles) -> dict[str, Any]:
    try:
        found = read.look(path)
        if not stat.S_ISREG(found.st_mode):
            raise CheckpointError(f"{path} is not a regular file; expected JSON")
        if found.st_size > _LARGEST_JSON:
            raise CheckpointError(
                f"{path} has {found.st_size} bytes; expected {_LARGEST_JSON} of JSON at most"
            )
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object; expected keys and values")
    return content
