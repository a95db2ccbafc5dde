"""Files and folders written under a hidden name next to their destination, and then renamed.

They are locked while they are written; the next run with that destination removes unlocked ones.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from inflate.errors import OutputError
from inflate.io.folder import CONFIG, FOLDER_FILES
from inflate.io.protected import ReadFiles, check_written, leftover_of

CHOOSE = "pass --overwrite (overwrite=True) to replace it, or choose another name"
"""The advice about a destination that exists."""

_FOLDER_NAMES = (FOLDER_FILES[0], CONFIG)
"""The files of a diffusers folder that we write."""


@dataclass
class Staged:
    """The output being written: a weights file, alone or in a folder with its ``config.json``."""

    path: Path
    destination: Path
    overwrite: bool
    file: BinaryIO
    read: ReadFiles
    published: bool = False
    _aside: list[Path] = field(default_factory=list)

    def publish(self) -> None:
        """Rename it atomically to its final name, after its bytes are on the disk.

        Raises:
            CheckpointError: one of its source files has changed.
            OutputError: the name was taken meanwhile, or the disk refuses.
        """
        self.read.check_unchanged()
        with saying_why(self.destination):
            os.fsync(self.file.fileno())
            if self.path.is_dir():
                self._publish_folder()
            elif self.overwrite:
                os.replace(self.path, self.destination)
            else:
                self._rename_new()
            self.published = True
            _sync_folder(self.destination.parent)

    def _rename_new(self) -> None:
        """Rename, and fail if the name is taken, even if it was taken a moment ago."""
        try:
            os.link(self.path, self.destination)
        except FileExistsError:
            raise
        except OSError:  # A file system without hard links: check, then rename.
            if self.destination.exists():
                raise FileExistsError(self.destination) from None
            os.rename(self.path, self.destination)
        else:
            self.path.unlink()

    def _publish_folder(self) -> None:
        _sync_folder(self.path)
        while True:
            try:
                os.rename(self.path, self.destination)
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                if not self.overwrite:
                    raise FileExistsError(self.destination) from error
            # No system call replaces a folder with content: move the old one away first.
            self._aside.append(_hidden(self.destination))
            with suppress(FileNotFoundError):  # Another run moved it away.
                os.rename(self.destination, self._aside[-1])
        for path in self._aside:
            _remove(path)

    def discard(self) -> None:
        """Remove it if it was not published, and restore the folder that was moved away for it."""
        if self.published:
            return
        _remove(self.path)
        for path in reversed(self._aside):
            try:
                os.rename(path, self.destination)
            except OSError:
                if self.destination.exists():  # Published, by this run or another.
                    _remove(path)
        with suppress(OSError):  # A full disk leaves bytes in the buffer that cannot be written.
            self.file.close()


@contextmanager
def stage(
    destination: Path,
    read: ReadFiles,
    *,
    overwrite: bool,
    folder_config: Mapping[str, Any] | None = None,
) -> Iterator[Staged]:
    """Open a hidden file next to ``destination``; it is removed if it was not published.

    The files in ``read`` are not replaced, and must not change meanwhile. With ``folder_config``
    the output is a diffusers folder with this ``config.json`` next to the weights.

    Raises:
        OutputError: the destination exists and ``overwrite`` is off, or it cannot be written.
        KeyboardInterrupt: raised again, with a message about what was left behind.
    """
    folder = folder_config is not None
    check_written(outputs_of(destination, folder=folder), read.marks)
    check_destination(destination, overwrite=overwrite, folder=folder)
    _remove_abandoned(destination, folder=folder)
    with ExitStack() as held:
        with saying_why(destination):
            path, file = _open_new(destination, folder_config, held)
        staged = Staged(path, destination, overwrite, file, read)
        try:
            yield staged
        except KeyboardInterrupt as stop:
            published = staged.published or not os.path.lexists(path)
            left = f"{destination} was published" if published else "nothing was left behind"
            raise KeyboardInterrupt(left) from stop
        finally:
            staged.discard()


def outputs_of(destination: str | Path, *, folder: bool) -> list[str | Path]:
    """Every path or URL that publishing replaces, including the files of a folder."""
    base = str(destination).rstrip("/")
    return [destination, *(f"{base}/{name}" for name in _FOLDER_NAMES if folder)]


def check_destination(destination: Path, *, overwrite: bool, folder: bool = False) -> None:
    """Raise OutputError if a file or diffusers folder cannot have this name, with the reason."""
    parent = destination.parent
    if not parent.is_dir():
        raise OutputError(f"the folder {parent} does not exist; make it, or choose another with -o")
    if destination.is_dir() and not folder:
        raise OutputError(f"{destination} is a folder; expected the name of a file in it")
    if destination.is_file() and folder:
        raise OutputError(f"{destination} is a file; expected the name of a folder")
    if destination.exists() and not overwrite:
        # A run that was killed while publishing left a second link to the published file.
        _remove_abandoned(destination, folder=folder)
        raise OutputError(_exists(destination))
    if destination.is_dir():
        others = {
            p.name for p in destination.iterdir() if p.name not in _FOLDER_NAMES or p.is_dir()
        }
        if others:
            raise OutputError(
                f"{destination} holds more than an exported model ({min(others)}), and --overwrite "
                "would remove it; choose another name with -o"
            )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"the folder {parent} cannot be written; choose another with -o")


def make_folder(folder: Path) -> None:
    """Create a folder and its parents.

    Raises:
        OutputError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"{folder} is a file; expected a folder") from error
    except OSError as error:
        raise OutputError(f"{folder} cannot be created: {error.strerror}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file atomically: readers see the new or the old content.

    Raises:
        OutputError: it cannot be written.
    """
    hidden = path.with_name(f".{secrets.token_hex(8)}.staged")  # The name may be too long.
    try:
        with hidden.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(hidden, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}", path=path) from error
    finally:
        with suppress(OSError):  # Renamed, or never created.
            hidden.unlink()


@contextmanager
def saying_why(destination: Path, nbytes: int = 0) -> Iterator[None]:
    """Convert system errors to an OutputError that says what to do."""
    try:
        yield
    except FileExistsError as error:
        raise OutputError(_exists(destination)) from error
    except OSError as error:
        size = f" ({nbytes:,} bytes to write)" if nbytes else ""
        free = "free some space or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise OutputError(
            f"{destination} cannot be written{size}: {error.strerror}. Nothing was left behind; "
            f"{free}choose another place with -o"
        ) from error


def _exists(destination: Path) -> str:
    return f"{destination} exists; {CHOOSE}"


def _hidden(destination: Path) -> Path:
    return destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.staged")


def _open_new(
    destination: Path, folder_config: Mapping[str, Any] | None, held: ExitStack
) -> tuple[Path, BinaryIO]:
    """A hidden file, alone or in a hidden folder; open, and locked until ``held`` closes."""
    folder = folder_config is not None
    while True:
        path = _hidden(destination)
        path.mkdir() if folder else path.touch(exist_ok=False)
        try:
            handle = _handle(path, held, folder=folder)
            with suppress(OSError):  # Without locks, no run considers it abandoned.
                fcntl.flock(handle, fcntl.LOCK_EX)
            if not folder:
                return path, held.enter_context(path.open("r+b"))
            with (path / CONFIG).open("x", encoding="utf-8") as config:
                config.write(json.dumps(folder_config, indent=2) + "\n")
                config.flush()
                os.fsync(config.fileno())
            return path, held.enter_context((path / _FOLDER_NAMES[0]).open("x+b"))
        except FileNotFoundError:
            continue  # Another run considered it abandoned before it was locked: try again.
        except BaseException:
            _remove(path)
            raise


def _handle(path: str | Path, held: ExitStack, *, folder: bool) -> int:
    """A handle to lock or to sync; closed when ``held`` closes."""
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    held.callback(os.close, handle)
    return handle


def _remove_abandoned(destination: Path, *, folder: bool) -> None:
    """Remove staged files that a killed run left for this destination."""
    try:
        entries = list(os.scandir(destination.parent))
    except OSError:  # A folder that is writable but cannot be listed: nothing is found in it.
        return
    for entry in entries:
        if leftover_of(entry.name) != destination.name or not entry.name.endswith(".staged"):
            continue
        ours = entry.is_dir if folder else entry.is_file
        if not ours(follow_symlinks=False):
            continue
        with suppress(OSError), ExitStack() as held:
            # Fails if a running process holds the lock.
            fcntl.flock(_handle(entry.path, held, folder=folder), fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(Path(entry.path))


def _remove(path: Path) -> None:
    """Remove a file, a link or a whole folder as far as possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError), ExitStack() as held:  # If this fails, the rename is still valid.
        os.fsync(_handle(folder, held, folder=True))
