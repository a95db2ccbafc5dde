"""What the tests of batches share: small sources, manifests, processes, a Ray cluster."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import inflate

from ..checkpoints import autoencoder, write_safetensors

ROOT = Path(inflate.__file__).parents[1]


def environment() -> dict[str, str]:
    """The environment of a process that runs ``inflate``."""
    own = {"OMP_NUM_THREADS": "1", "COLUMNS": "250", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **own}


Sources = Callable[..., list[Path]]


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The smallest autoencoders, with different weights; no test may change the files."""
    folder = tmp_path_factory.mktemp("originals")
    return [
        write_safetensors(folder / f"m{i:02}.safetensors", autoencoder(ch_mult=[1], seed=i))
        for i in range(4)
    ]


@pytest.fixture
def sources(originals: list[Path], tmp_path: Path) -> Sources:
    """Writes this many sources into ``ckpts``, the numbers in ``broken`` cut short."""

    def put(count: int, broken: tuple[int, ...] = ()) -> list[Path]:
        folder = tmp_path / "ckpts"
        folder.mkdir(exist_ok=True)
        found = []
        for i in range(count):
            path = folder / f"m{i:02}.safetensors"
            shutil.copyfile(originals[i % len(originals)], path)
            if i in broken:
                path.write_bytes(path.read_bytes()[:5000])
            found.append(path)
        return found

    return put


def write_manifest(path: Path, content: Mapping[str, Any]) -> Path:
    """A manifest, as YAML."""
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def inflate_batch(
    folder: Path, *arguments: object, **more: Any
) -> subprocess.CompletedProcess[str]:
    """Run ``inflate batch`` in a process of its own."""
    command = [sys.executable, "-m", "inflate", "batch", *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, **more
    )


CLUSTER = """
import ray, sys
context = ray.init(
    num_cpus=1, include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False
)
print(context.address_info["address"], flush=True)
sys.stdin.read()
ray.shutdown()
"""


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of a small Ray cluster, started by a process of its own."""
    if importlib.util.find_spec("ray") is None:  # It reads the environment when it is imported.
        pytest.skip("the extra ray is not installed")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_AUTH_MODE": "token",  # A worker that joins has to know the token.
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "PYTHONPATH": str(ROOT),
        }.items():
            patch.setenv(name, value)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen([sys.executable, "-c", CLUSTER], text=True, **pipes) as head:
            assert head.stdout is not None
            address = head.stdout.readline().strip()
            assert address, "Ray did not start"
            yield address


@pytest.fixture(scope="session")
def joined(cluster: str) -> Iterator[str]:
    """The cluster, which this process has joined for all its tests: its workers stay warm."""
    from inflate.batch import cluster as module

    ray = module._import_ray()
    module._connect(ray, None, cluster)
    yield cluster
    ray.shutdown()
