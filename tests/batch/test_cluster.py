"""Batches on a real Ray cluster of this machine: the same bytes, and nothing lost with a worker."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from inflate.batch import cluster as cluster_module
from inflate.batch.batch import open_batch, run
from inflate.batch.cluster import RayExecutor
from inflate.batch.files import key_of_source
from inflate.batch.ledger import Ledger
from inflate.batch.run import Run, Watch
from inflate.batch.survey import survey
from inflate.batch.task import Event
from inflate.errors import InflateError

from ..conversions import print_of, sha256
from .conftest import Sources, inflate_batch, write_manifest

pytestmark = pytest.mark.slow

MANIFEST: dict[str, Any] = {
    "defaults": {"device": "cpu", "output": "out/{stem}.{time_mode}.{dtype}.safetensors"},
    "jobs": [
        {
            "source": "ckpts/*.safetensors",
            "matrix": {"time_mode": ["all", "conv-only"], "dtype": [None, "float16"]},
        }
    ],
}


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of each output."""
    return {path.name: sha256(path) for path in folder.glob("*.safetensors")}


def test_the_same_bytes_here_and_on_ray(tmp_path: Path, sources: Sources, cluster: str) -> None:
    sources(2, broken=(1,))
    write_manifest(tmp_path / "m.yaml", MANIFEST)
    local = inflate_batch(tmp_path, "m.yaml", "--json", "--jobs", "1")
    assert local.returncode == 2, local.stderr
    shutil.move(tmp_path / "out", tmp_path / "local")
    ray = inflate_batch(tmp_path, "m.yaml", "--json", "--executor", "ray", "--ray-address", cluster)
    assert ray.returncode == 2, ray.stderr
    assert len(hashes(tmp_path / "local")) == 4
    assert hashes(tmp_path / "out") == hashes(tmp_path / "local")
    documents = [json.loads(ran.stdout) for ran in (local, ray)]
    assert [document["executor"] for document in documents] == ["local", "ray"]
    for document in documents:
        for job in document["jobs"]:
            job["seconds"] = None
    assert documents[0]["jobs"] == documents[1]["jobs"]


class DeadlyExecutor(RayExecutor):
    """Kills the worker of the first task when it asks to publish."""

    def answer(self, event: Event, go: bool) -> None:
        """Continue, or kill."""
        if event.number == 0:
            (doomed,) = (task for task, number in self._tasks.items() if number == 0)
            self._ray.cancel(doomed, force=True)
        else:
            super().answer(event, go)


def test_a_worker_killed_in_the_middle_loses_nothing(
    tmp_path: Path, sources: Sources, joined: str
) -> None:
    sources(2)
    content = {"defaults": {"device": "cpu", "output": "out/"}, "jobs": ["ckpts/*.safetensors"]}
    batch = open_batch([str(write_manifest(tmp_path / "m.yaml", content))], None, {})
    with closing(DeadlyExecutor(2, joined)) as executor, Ledger(batch.ledger) as ledger:
        seen = survey(batch.jobs, ledger, retry_failed=False)
        outcomes = Run(seen, ledger, executor, Watch()).outcomes()
    assert [outcome.row.state for outcome in outcomes] == ["held", "held"]
    assert [outcome.row.attempts for outcome in outcomes] == [2, 1]
    assert outcomes[0].row.made[0][1] == print_of(tmp_path / "out/m00.video.safetensors")
    assert list((tmp_path / "out").glob(".*")) == []


def test_remote_sources_and_outputs(
    tmp_path: Path, sources: Sources, joined: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By way of fsspec: a web server here stands for a store that all machines reach."""
    pytest.importorskip("aiohttp", reason="the extra remote is not installed")
    from tests.io.remote.web import serve

    (path,) = sources(1)
    monkeypatch.setenv("INFLATE_CACHE", str(tmp_path / "cache"))
    with serve() as web:
        url = web.put("/m.safetensors", path.read_bytes())
        content = {"jobs": [{"source": url, "device": "cpu", "output": "out/{stem}.safetensors"}]}
        batch = open_batch([str(write_manifest(tmp_path / "m.yaml", content))], None, {})
        outcomes, _ = run(batch, Watch(), executor="ray", ray_address=joined)
        assert [outcome.row.state for outcome in outcomes] == ["held"], outcomes
        assert outcomes[0].row.source_key == key_of_source(str(path), {})
        again, _ = run(batch, Watch(), executor="ray", ray_address=joined)
        assert [outcome.reused for outcome in again] == [True]


def test_sigterm_has_its_handler_after_ray_replaced_it(
    joined: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cluster_module, "_connect", lambda *_: signal.signal(signal.SIGTERM, print))
    with closing(RayExecutor(1, joined)):
        assert signal.getsignal(signal.SIGTERM) is before


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InflateError, match=r"pip install '\.\[ray\]'"):
        RayExecutor(1, None)
