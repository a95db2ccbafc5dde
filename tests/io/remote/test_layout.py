"""Sharded checkpoints and the folders of diffusers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inflate.errors import CheckpointError
from inflate.io.files import find_files
from inflate.io.remote import fetch
from inflate.io.folder import FOLDER_FILES

from .conftest import Told
from .web import Web

CONFIG = json.dumps({"_class_name": "AutoencoderKL"}).encode()
SHARD = len(b"{}").to_bytes(8, "little") + b"{}"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def index_of(*shards: object) -> bytes:
    """The index of a checkpoint with a tensor in each of these."""
    return json.dumps({"weight_map": {f"t{i}": shard for i, shard in enumerate(shards)}}).encode()


def put_sharded(memory: Any, folder: str, name: str) -> None:
    memory.pipe(f"{folder}/{name}", index_of(*SHARDS, SHARDS[0]))
    for shard in SHARDS:
        memory.pipe(f"{folder}/{shard}", SHARD)


def test_an_index_brings_its_shards_along(memory: Any, told: Told) -> None:
    put_sharded(memory, "/m", "model.safetensors.index.json")
    index = fetch("memory://m/model.safetensors.index.json", told)
    assert sorted(p.name for p in find_files(index).weights) == sorted(SHARDS)
    assert all((index.parent / shard).read_bytes() == SHARD for shard in SHARDS)
    size = len(index_of(*SHARDS, SHARDS[0]))
    assert told.last == ("downloading", size + 20, size + 20)
    told.calls.clear()
    assert fetch("memory://m/model.safetensors.index.json", told) == index
    assert told.calls == []


def test_a_changed_shard_is_fetched_into_another_folder(memory: Any) -> None:
    put_sharded(memory, "/m", "model.safetensors.index.json")
    old = fetch("memory://m/model.safetensors.index.json").parent
    changed = SHARD + b" "
    memory.pipe(f"/m/{SHARDS[1]}", changed)
    new = fetch("memory://m/model.safetensors.index.json").parent
    assert [(f / s).read_bytes() for f in (old, new) for s in SHARDS] == [
        SHARD, SHARD, SHARD, changed
    ]  # fmt: skip


def test_shards_that_arrived_are_kept_when_the_next_breaks_off(web: Web) -> None:
    web.put("/model.safetensors.index.json", index_of("a", "b"))
    web.put("/a", SHARD)
    web.put("/b", SHARD, breaks_at=3)
    with pytest.raises(CheckpointError, match="/b cannot be downloaded"):
        fetch(f"{web.url}/model.safetensors.index.json")
    web.put("/b", SHARD)
    index = fetch(f"{web.url}/model.safetensors.index.json")
    assert (index.parent / "b").read_bytes() == SHARD
    assert web.count("GET", "/a") == 1


def test_a_missing_shard_is_named(memory: Any) -> None:
    put_sharded(memory, "/m", "model.safetensors.index.json")
    memory.rm(f"/m/{SHARDS[1]}")
    with pytest.raises(CheckpointError, match=f"not beside it: {SHARDS[1]}"):
        fetch("memory://m/model.safetensors.index.json")


@pytest.mark.parametrize(
    "shard", ["../a", "..", ".", "", "a/b", "a\\b", "/etc/x", "C:a", ".hidden", "b.json", 3, None]
)
def test_a_shard_outside_of_the_folder_is_refused(memory: Any, shard: object) -> None:
    memory.pipe("/m/model.safetensors.index.json", index_of("fine", shard))
    with pytest.raises(CheckpointError, match="expected the name of a file beside it"):
        fetch("memory://m/model.safetensors.index.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"half {", "is no JSON"),
        (b"\xff", "is no JSON"),
        (b"[]", "has no 'weight_map'"),
        (b"{}", "has no 'weight_map'"),
        (b'{"weight_map": {}}', "has no 'weight_map'"),
        (b"[" * 100_000, "is no JSON"),
    ],
)
def test_what_is_no_index_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        shard_names(content, "x")


@pytest.mark.parametrize("weights", FOLDER_FILES)
@pytest.mark.parametrize("location", ["memory://pipe/vae", "memory://pipe/vae/", "memory://pipe"])
def test_a_folder_is_fetched_as_the_reader_wants_it(
    memory: Any, weights: str, location: str
) -> None:
    memory.pipe("/pipe/model_index.json", b"{}")
    memory.pipe("/pipe/vae/config.json", CONFIG)
    memory.pipe("/pipe/vae/unrelated.safetensors", SHARD)
    if weights.endswith(".json"):
        put_sharded(memory, "/pipe/vae", weights)
    else:
        memory.pipe(f"/pipe/vae/{weights}", SHARD if weights.endswith("s") else b"\x80pickle")
    found = find_files(fetch(location))
    assert found.folder_config == json.loads(CONFIG)
    wanted = set(SHARDS) if weights.endswith(".json") else {weights}
    assert wanted <= {path.name for path in found.weights}
    assert not (found.path / "unrelated.safetensors").exists()


@pytest.mark.parametrize("weights", FOLDER_FILES)
def test_a_file_of_a_folder_brings_its_configuration_along(memory: Any, weights: str) -> None:
    memory.pipe("/vae/config.json", CONFIG)
    if weights.endswith(".json"):
        put_sharded(memory, "/vae", weights)
    else:
        memory.pipe(f"/vae/{weights}", SHARD if weights.endswith("s") else b"\x80pickle")
    path = fetch(f"memory://vae/{weights}")
    assert path.name == weights
    assert find_files(path).config_nearby == json.loads(CONFIG)


def test_the_best_weights_of_a_folder_are_taken(memory: Any) -> None:
    memory.pipe("/vae/config.json", CONFIG)
    for name in FOLDER_FILES[:1] + FOLDER_FILES[2:3]:
        memory.pipe(f"/vae/{name}", SHARD)
    assert sorted(p.name for p in fetch("memory://vae").glob("[!.]*")) == [
        "config.json",
        FOLDER_FILES[0],
    ]


def test_a_folder_without_weights_is_refused(memory: Any) -> None:
    memory.pipe("/vae/config.json", CONFIG)
    with pytest.raises(CheckpointError, match="vae/ has none of the files diffusion_pytorch_model"):
        fetch("memory://vae")


def test_an_index_of_absurd_size_is_refused(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inflate.io.remote.layout._LARGEST_INDEX", 10)
    put_sharded(memory, "/m", "model.safetensors.index.json")
    with pytest.raises(CheckpointError, match="too many for the index of a sharded checkpoint"):
        fetch("memory://m/model.safetensors.index.json")
