"""Sharded checkpoints and folders of diffusers, local and remote alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inflate.errors import CheckpointError, FamilyError
from inflate.io.files import find_files
from inflate.io.folder import FOLDER_FILES
from inflate.io.remote import fetch

from .conftest import ProgressRecord
from .web import Web

CONFIG = json.dumps({"_class_name": "AutoencoderKL"}).encode()
SHARD = len(b"{}").to_bytes(8, "little") + b"{}"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


def index_of(*shards: object) -> bytes:
    """The index of a checkpoint with a tensor in each of these."""
    return json.dumps({"weight_map": {f"t{i}": shard for i, shard in enumerate(shards)}}).encode()


class Place:
    """A folder that is local, or in the memory of fsspec."""

    def __init__(self, memory: Any, local: Path | None) -> None:
        self.memory, self.local = memory, local

    def put(self, name: str, content: bytes) -> None:
        """Write a file."""
        if self.local is None:
            self.memory.pipe(f"/m/{name}", content)
        else:
            (self.local / name).parent.mkdir(parents=True, exist_ok=True)
            (self.local / name).write_bytes(content)

    def put_sharded(self, name: str) -> None:
        """Write an index and its shards next to it."""
        self.put(name, index_of(*SHARDS, SHARDS[0]))
        for shard in SHARDS:
            self.put(f"{name.rpartition('/')[0]}/{shard}".lstrip("/"), SHARD)

    def put_weights(self, folder: str, name: str) -> None:
        """Write weights of the kind that their name says."""
        if name.endswith(".json"):
            self.put_sharded(f"{folder}{name}")
        else:
            self.put(f"{folder}{name}", SHARD if name.endswith("s") else b"\x80pickle")

    def path(self, name: str) -> Path:
        """The local path of a file or folder, fetched if it is remote."""
        return fetch(f"memory://m/{name}") if self.local is None else self.local / name


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, memory: Any, tmp_path: Path) -> Place:
    return Place(memory, tmp_path / "m" if request.param == "local" else None)


def test_an_index_brings_its_shards_along(place: Place) -> None:
    place.put_sharded(INDEX)
    index = place.path(INDEX)
    found = find_files(index)
    assert [p.name for p in found.weights] == sorted(SHARDS)
    assert all((index.parent / shard).read_bytes() == SHARD for shard in SHARDS)
    assert found.all == (index, *found.weights)


def test_an_index_of_absurd_size_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put_sharded(INDEX)
    for module in ("files", "stores"):
        monkeypatch.setattr(f"inflate.io.{module}.LARGEST_JSON", 10)
    with pytest.raises(CheckpointError):
        find_files(place.path(INDEX))


def test_a_missing_shard_is_named(place: Place) -> None:
    place.put(INDEX, index_of(*SHARDS))
    place.put(SHARDS[0], SHARD)
    with pytest.raises(CheckpointError, match=SHARDS[1]):
        find_files(place.path(INDEX))


@pytest.mark.parametrize("weights", FOLDER_FILES)
@pytest.mark.parametrize("name", ["pipe/vae", "pipe/vae/", "pipe"])
def test_a_folder_of_diffusers(place: Place, weights: str, name: str) -> None:
    place.put("pipe/model_index.json", b"{}")
    place.put("pipe/vae/config.json", CONFIG)
    place.put("pipe/vae/unrelated.safetensors", SHARD)
    place.put_weights("pipe/vae/", weights)
    path = place.path(name)
    found = find_files(path)
    assert found.config == json.loads(CONFIG)
    wanted = set(SHARDS) if weights.endswith(".json") else {weights}
    assert {file.name for file in found.weights} == wanted
    if place.local is None:
        assert not (path / "unrelated.safetensors").exists()


@pytest.mark.parametrize("weights", FOLDER_FILES)
def test_a_file_of_a_folder_is_read_with_its_configuration(place: Place, weights: str) -> None:
    place.put("config.json", CONFIG)
    place.put_weights("", weights)
    assert find_files(place.path(weights)).config == json.loads(CONFIG)


def test_the_best_weights_of_a_folder_are_taken(place: Place) -> None:
    place.put("vae/config.json", CONFIG)
    for name in reversed(FOLDER_FILES):
        place.put_weights("vae/", name)
    assert [p.name for p in find_files(place.path("vae")).weights] == [FOLDER_FILES[0]]


@pytest.mark.parametrize("config", [None, b"{}", b'{"_class_name": "Other"}', CONFIG])
def test_a_folder_of_something_else_is_refused(place: Place, config: bytes | None) -> None:
    place.put("vae2/x.txt", b"")
    if config is not None:
        place.put("vae2/config.json", config)
    family = config not in (None, CONFIG)
    with pytest.raises(FamilyError if family else CheckpointError) as caught:
        find_files(place.path("vae2"))
    assert isinstance(caught.value, FamilyError) is family


def test_a_changed_shard_is_fetched_into_another_folder(memory: Any) -> None:
    place = Place(memory, None)
    place.put_sharded(INDEX)
    old = place.path(INDEX).parent
    place.put(SHARDS[1], SHARD + b" ")
    new = place.path(INDEX).parent
    assert [(f / s).read_bytes() for f in (old, new) for s in SHARDS] == [
        SHARD, SHARD, SHARD, SHARD + b" "
    ]  # fmt: skip


def test_shards_that_arrived_are_kept_when_the_next_breaks_off(
    web: Web, progress: ProgressRecord
) -> None:
    web.put("/model.bin.index.json", index_of("a", "b"))
    web.put("/a", SHARD)
    web.put("/b", SHARD, breaks_at=3)
    with pytest.raises(CheckpointError):
        fetch(f"{web.url}/model.bin.index.json")
    web.put("/b", SHARD)
    index = fetch(f"{web.url}/model.bin.index.json", progress)
    assert (index.parent / "b").read_bytes() == SHARD
    assert web.count("GET", "/a") == 1
    assert progress.last == ("downloading", len(SHARD), len(SHARD))
    progress.calls.clear()
    assert fetch(f"{web.url}/model.bin.index.json", progress) == index
    assert progress.calls == []
