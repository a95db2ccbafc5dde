"""What the tests of safety share."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from ..checkpoints import autoencoder, write_safetensors
from .ground import Ground
from .serving import Server

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A warm process that runs jobs in children."""
    if sys.platform != "linux":
        pytest.skip("needs fork and /proc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), *sys.path)))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("COLUMNS", "200")
        server = Server(tmp_path_factory.mktemp("server"))
        assert server.command("--version").code == 0
    return server


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """A folder with a valid file of every kind."""
    return Ground(tmp_path_factory.mktemp("ground") / "root")


@pytest.fixture(scope="session")
def weights() -> dict[str, Any]:
    """The weights of the smallest image autoencoder that diffusers can hold, too."""
    return autoencoder(ch_mult=[1], num_res_blocks=2)


@pytest.fixture
def single(tmp_path: Path, weights: dict[str, Any]) -> Path:
    """A file of these weights, in a folder of its own."""
    (tmp_path / "source").mkdir()
    return write_safetensors(tmp_path / "source" / "img.safetensors", weights)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A destination for a file or a folder, in a folder of its own."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "video"


@pytest.fixture
def pair(tiny: Path, tiny_video: Path) -> tuple[Path, Path]:
    """An image checkpoint, and a video checkpoint made from it."""
    return tiny, tiny_video
