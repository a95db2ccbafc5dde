"""Remote safetensors files of which only the parts that are read are downloaded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save

import inflate
from inflate.batch.files import key_of_source
from inflate.errors import CheckpointError
from inflate.io import ranges
from inflate.io.files import find_files, hash_file
from inflate.io.ranges import BLOCK
from inflate.io.reader import open_checkpoint
from inflate.io.remote import fetch
from inflate.workflow.inspection import inspect

from ...checkpoints import autoencoder, prefixed, write_safetensors, write_torch
from ...conversions import CPU, metadata_of, sha256
from .conftest import ProgressRecord
from .web import Web

FOREIGN = {"model.diffusion_model.weight": torch.arange(1_500_000.0)}
URL = "memory://m/whole.safetensors"


class Counted:
    """The bytes that were requested of a file system, and the largest request."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []
        self.then: Callable[[], object] | None = None

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(end - start for start, end in self.spans)


@pytest.fixture
def counted(memory: Any, monkeypatch: pytest.MonkeyPatch) -> Counted:
    """What is requested of the memory; a whole download fails the test."""
    found, original = Counted(), type(memory).cat_file

    def cat_file(self: Any, path: str, start: int, end: int) -> bytes:
        content: bytes = original(self, path, start=start, end=end)
        found.spans.append((start, end))
        if found.then is not None:
            found.then()
        return content

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    whole = type(memory).get_file

    def get_file(self: Any, path: str, to: str, **options: Any) -> None:
        assert not path.endswith(".safetensors"), f"{path} was downloaded whole"
        whole(self, path, to, **options)

    monkeypatch.setattr(type(memory), "get_file", get_file)
    return found


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """No URL is open, as in a new process."""
    ranges._OPEN.clear()
    yield
    ranges._OPEN.clear()


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A checkpoint of a whole model: an autoencoder, and much else."""
    return write_safetensors(tmp_path / "whole.safetensors", prefixed(autoencoder()) | FOREIGN)


@pytest.fixture
def url(local: Path, memory: Any) -> str:
    memory.pipe("/m/whole.safetensors", local.read_bytes())
    return URL


def header_size(path: Path) -> int:
    """The bytes before the first tensor."""
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def test_inspect_and_a_dry_run_download_the_header_alone(
    url: str, local: Path, counted: Counted
) -> None:
    found = inspect(url)
    assert found.obstacles == ()
    assert found.architecture == inspect(local).architecture
    assert counted.total <= header_size(local) + BLOCK
    counted.spans.clear()
    inflate.convert(url, dry_run=True)
    assert counted.total == 0


def test_a_conversion_downloads_the_autoencoder_alone(
    url: str, local: Path, counted: Counted, tmp_path: Path, progress: ProgressRecord
) -> None:
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    result = inflate.convert(url, theirs, progress=progress, skip_parity=True)
    inflate.convert(local, ours, skip_parity=True)
    assert counted.total < local.stat().st_size / 2
    downloaded = [call for call in progress.calls if call[0] == "downloading"]
    assert downloaded[-1][1] == downloaded[-1][2] > 0
    expected, found = load_file(ours), load_file(theirs)
    assert {k: v.tobytes() for k, v in found.items()} == {
        k: v.tobytes() for k, v in expected.items()
    }
    assert metadata_of(theirs) == metadata_of(ours)
    assert result.source_sha256 is None
    counted.spans.clear()
    inflate.convert(url, theirs, overwrite=True, skip_parity=True)
    assert counted.spans == []
    source = inflate.verify(url, theirs, **CPU).recorded_source
    assert source is not None
    assert source.given


def test_a_file_that_is_read_whole_is_verified_and_becomes_whole(
    memory: Any, counted: Counted, tmp_path: Path, cache: Path
) -> None:
    local = write_safetensors(tmp_path / "vae.safetensors", autoencoder())
    memory.pipe("/m/vae.safetensors", local.read_bytes())
    options: dict[str, Any] = {"skip_parity": True, "source_sha256": True}
    result = inflate.convert("memory://m/vae.safetensors", tmp_path / "a", **options)
    inflate.convert(local, tmp_path / "b", **options)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert result.source_sha256 == sha256(local)
    assert not list(cache.glob("*/.*.parts"))
    ranges._OPEN.clear()
    assert sha256(fetch("memory://m/vae.safetensors")) == sha256(local)


def test_shards_are_partial_too(memory: Any, counted: Counted, tmp_path: Path) -> None:
    weights = {"a.safetensors": prefixed(autoencoder()), "b.safetensors": FOREIGN}
    index = {"weight_map": {k: name for name, part in weights.items() for k in part}}
    memory.pipe("/m/m.safetensors.index.json", json.dumps(index).encode())
    for name, part in weights.items():
        memory.pipe(f"/m/{name}", save(part))
    result = inflate.convert(
        "memory://m/m.safetensors.index.json", tmp_path / "out", skip_parity=True
    )
    assert result.output is not None
    assert counted.total < memory.size("/m/a.safetensors") + 4 * BLOCK


@pytest.mark.parametrize("phase", ["downloading", "writing"])
def test_a_file_that_changes_meanwhile_is_not_used(
    phase: str, url: str, local: Path, memory: Any, tmp_path: Path
) -> None:
    other = prefixed(autoencoder(seed=7)) | FOREIGN
    changed = [save(other)]

    def change(now: str, done: int, total: int) -> None:
        if now == phase and changed:
            memory.pipe("/m/whole.safetensors", changed.pop())

    with pytest.raises(CheckpointError):
        inflate.convert(url, tmp_path / "out", progress=change, skip_parity=True)
    assert not (tmp_path / "out").exists()
    inflate.convert(url, tmp_path / "out", skip_parity=True)
    found = load_file(tmp_path / "out")["encoder.conv_in.weight"]
    assert found.tobytes() == other["first_stage_model.encoder.conv_in.weight"].numpy().tobytes()


def test_bytes_of_another_version_never_count_as_downloaded(
    url: str, local: Path, memory: Any, counted: Counted
) -> None:
    path, (key,) = fetch(url), FOREIGN
    before = path.read_bytes()
    counted.then = lambda: memory.pipe("/m/whole.safetensors", local.read_bytes()[::-1])
    with pytest.raises(CheckpointError), open_checkpoint(path) as checkpoint:
        checkpoint.read(key)
    assert path.read_bytes() == before


def test_an_interrupted_download_continues_where_it_stopped(
    url: str, counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "REQUEST", 1)

    def interrupt(phase: str, done: int, total: int) -> None:
        if phase == "downloading" and done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inflate.convert(url, tmp_path / "out", progress=interrupt, skip_parity=True)
    ranges._OPEN.clear()
    inflate.convert(url, tmp_path / "out", skip_parity=True)
    assert len(counted.spans) == len(set(counted.spans))


def test_a_partial_file_is_read_through_its_url_alone(url: str, counted: Counted) -> None:
    path = fetch(url)
    ranges._OPEN.clear()
    for read in (find_files, hash_file):
        with pytest.raises(CheckpointError):
            read(path)


@pytest.mark.parametrize("harm", ["record", "size", "gone"])
def test_a_damaged_partial_file_is_made_again(
    harm: str, url: str, local: Path, counted: Counted, cache: Path
) -> None:
    path = fetch(url)
    (record,) = cache.glob("*/.*.parts")
    if harm == "size":
        os.truncate(path, 1000)
    elif harm == "gone":
        path.unlink()
    else:
        record.write_bytes(b"1")
    ranges._OPEN.clear()
    with open_checkpoint(fetch(url)) as checkpoint:
        for key in ("first_stage_model.encoder.conv_in.weight", next(iter(FOREIGN))):
            assert checkpoint.read(key).tobytes() == load_file(local)[key].tobytes()


def test_batches_know_remote_sources_by_their_weights(url: str, local: Path, memory: Any) -> None:
    memory.pipe("/m/other.safetensors", local.read_bytes())
    assert key_of_source(url, {}) == key_of_source("memory://m/other.safetensors", {})


def test_a_cache_that_is_removed_while_it_is_in_use_is_noticed(url: str) -> None:
    with open_checkpoint(fetch(url)) as checkpoint:
        size = checkpoint.path.stat().st_size
        checkpoint.path.unlink()
        checkpoint.path.write_bytes(bytes(size))  # As another run makes it again.
        with pytest.raises(CheckpointError):
            checkpoint.read(next(iter(FOREIGN)))


def test_a_torch_file_of_this_name_is_downloaded_whole(memory: Any, tmp_path: Path) -> None:
    local = write_torch(tmp_path / "a.ckpt", autoencoder())
    memory.pipe("/m/a.safetensors", local.read_bytes())
    assert fetch("memory://m/a.safetensors").read_bytes() == local.read_bytes()


def test_a_server_that_does_not_answer_ranges_is_asked_for_the_whole(web: Web, local: Path) -> None:
    url = web.put("/whole.safetensors", local.read_bytes(), ranges=False)
    assert sha256(fetch(url)) == sha256(local)
    count = web.count("GET")
    assert sha256(fetch(url)) == sha256(local)
    assert web.count("GET") == count


def test_requests_are_small_and_made_once(
    url: str, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "REQUEST", 2)
    with open_checkpoint(fetch(url)) as checkpoint:
        counted.spans.clear()
        for _ in range(2):
            checkpoint.read(next(iter(FOREIGN)))
    assert all(end - start <= 2 * BLOCK for start, end in counted.spans)
    assert counted.total <= FOREIGN[next(iter(FOREIGN))].nbytes + 2 * BLOCK


def test_a_tensor_of_zeros_takes_one_request(memory: Any, tmp_path: Path, counted: Counted) -> None:
    path = write_safetensors(tmp_path / "zeros.safetensors", {"x": torch.zeros(2_000_000)})
    memory.pipe("/m/zeros.safetensors", path.read_bytes())
    with open_checkpoint(fetch("memory://m/zeros.safetensors")) as checkpoint:
        counted.spans.clear()
        assert not checkpoint.read("x").any()
    assert len(counted.spans) == 1
