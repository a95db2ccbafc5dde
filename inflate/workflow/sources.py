"""Locations of sources: their local paths, their files, and the names of outputs."""

from __future__ import annotations

import os
from pathlib import Path

from inflate.errors import ConfigError
from inflate.formats.targets import LAYOUTS
from inflate.io.files import CheckpointFiles
from inflate.io.folder import without_index_ending
from inflate.io.location import is_remote
from inflate.io.remote import fetch
from inflate.progress import Progress
from inflate.vocabulary import Target


def check_working_directory() -> None:
    """Refuse to work in a deleted directory: there, MKL (loaded by torch) ends the process."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise ConfigError("the working directory was deleted; change to another") from error


def local_source(location: str | Path, progress: Progress) -> Path:
    """The local path of a source; a remote one is downloaded first."""
    return fetch(str(location), progress) if is_remote(location) else Path(location)


def files_of(location: str | Path, files: CheckpointFiles) -> list[str | Path]:
    """Every file of a source: local files that are read, and the URLs of remote ones."""
    if not is_remote(location):
        return [files.path, *files.read.marks]
    # Copies in the cache have the same names as the remote files.
    text = str(location).rstrip("/")
    folders = (text.rpartition("/")[0], text, f"{text}/vae")
    urls = [f"{folder}/{path.name}" for folder in folders for path in files.read.marks]
    return [text, *urls, *files.read.marks]


def name_of(location: str | Path) -> str:
    """The last part of a path or URL: the name of a source without its folder."""
    return Path(str(location).rstrip("/")).name.partition("?")[0]


def stem_of(location: str | Path) -> str:
    """The stem for output names: the source's name without its ending."""
    name = name_of(location)
    index_of = without_index_ending(name)
    return Path(name).stem if index_of is None else index_of


def default_output(source: str | Path, target: Target, *, inflated: bool) -> Path:
    """The default output: next to a local source, in the working directory for a remote one.

    It is ``STEM.video.safetensors``. For a copy of a video checkpoint, and for temporal layers
    alone, it is ``STEM.LAYOUT.safetensors``, or the name that the reader of the layout expects.
    A diffusers folder has no ending.
    """
    folder = Path() if is_remote(source) else Path(source).parent
    stem, kind, layout = stem_of(source), "video", LAYOUTS[target]
    if layout.file_name is not None:
        return folder / layout.file_name
    if inflated or layout.temporal_only:
        stem, kind = stem.removesuffix(".video"), target
    return folder / (f"{stem}.{kind}" + "".join(layout.endings[:1]))
