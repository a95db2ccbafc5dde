"""What all tests share.

Session fixtures for every directory, to be read and never changed: ``image`` (two levels) and
``videos`` (by time mode); ``tiny`` (one level, the fastest) and ``tiny_video``.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from .checkpoints import autoencoder, write_lightning, write_safetensors


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """The tensors here are tiny: threads waiting for one another on a busy machine cost tenfold."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def _signals_of_a_terminal() -> Iterator[None]:
    """Processes of the tests get the signals that nohup or a background shell has them ignore."""
    own = {signal.SIGINT: signal.default_int_handler}
    for name in ("SIGHUP", "SIGQUIT", "SIGXCPU"):
        if hasattr(signal, name):
            own[getattr(signal, name)] = signal.SIG_DFL
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny image autoencoder as Lightning writes it."""
    return write_lightning(tmp_path_factory.mktemp("image") / "img.ckpt", autoencoder())


@pytest.fixture(scope="session")
def videos(image: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What ``image`` becomes in each time mode, with a blend in which both branches count."""
    from inflate import convert
    from inflate.vocabulary import TIME_MODES

    folder = tmp_path_factory.mktemp("videos")
    paths = {mode: folder / f"{mode}.safetensors" for mode in TIME_MODES}
    for mode, path in paths.items():
        convert(image, path, time_mode=mode, alpha=0.3, device="cpu")
    return paths


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest image autoencoder, of one level, as a safetensors file."""
    folder = tmp_path_factory.mktemp("tiny")
    return write_safetensors(folder / "img.safetensors", autoencoder(ch_mult=[1]))


@pytest.fixture(scope="session")
def tiny_video(tiny: Path) -> Path:
    """The checked conversion of ``tiny`` with default options."""
    from inflate import convert

    path = tiny.with_name("video.safetensors")
    convert(tiny, path, device="cpu")
    return path


@pytest.fixture
def memory() -> Iterator[Any]:
    """The file system that fsspec keeps in memory, empty."""
    fsspec = pytest.importorskip("fsspec", reason="the extra remote is not installed")
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
