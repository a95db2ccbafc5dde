"""Fetching from the Hub: its library against a server on the loopback that answers as it does."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

import inflate
from inflate.errors import CheckpointError
from inflate.io.faults import _REASONS
from inflate.io.remote import fetch, version

from ...checkpoints import autoencoder, write_safetensors
from .conftest import ProgressRecord
from .web import Page, Web

BODY = bytes(range(256)) * 1024
MAIN, OTHER = "a" * 40, "b" * 40
URL = "hf://owner/repo/vae.ckpt"


class Hub:
    """The part of the Hub's interface that is used: a repository's listing, and its files."""

    def __init__(self, web: Web) -> None:
        self.web = web

    def put(self, files: dict[str, bytes], revision: str = "main", commit: str = MAIN) -> None:
        """Hold a repository ``owner/repo`` at a commit."""
        listed: list[dict[str, Any]] = []
        for name, body in files.items():
            sha256 = hashlib.sha256(body).hexdigest()
            entry: dict[str, Any] = {"rfilename": name, "size": len(body), "blobId": sha256[:40]}
            if not name.endswith(".json"):
                entry["lfs"] = {"sha256": sha256, "size": len(body), "pointerSize": 130}
            listed.append(entry)
            self.web.put(
                f"/owner/repo/resolve/{commit}/{name}",
                body,
                etag=sha256,
                headers={"X-Repo-Commit": commit},
            )
        listing = json.dumps({"id": "owner/repo", "sha": commit, "siblings": listed}).encode()
        for at in ("", "/revision/main") if revision == "main" else (f"/revision/{revision}",):
            self.web.put(f"/api/models/owner/repo{at}", listing)
        self.web.put(f"/api/models/owner/repo/revision/{commit}", listing)

    def page(self, name: str) -> Page:
        """The page of a file."""
        return self.web.pages[f"/owner/repo/resolve/{MAIN}/{name}"]

    def downloads(self, name: str) -> int:
        """How often a file was downloaded."""
        return self.web.count("GET", f"/owner/repo/resolve/{MAIN}/{name}")


@pytest.fixture
def hub(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub on the loopback, and an empty cache of its library."""
    constants = pytest.importorskip("huggingface_hub.constants")
    # As HF_ENDPOINT sets them when the library is loaded.
    template = web.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", web.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    return Hub(web)


@pytest.mark.parametrize(
    ("revision", "location"),
    [
        ("main", "hf://owner/repo/vae/a@b.ckpt"),
        ("main", "HF://owner/repo/vae/a@b.ckpt"),
        ("v1.0", "hf://owner/repo@v1.0/vae/a@b.ckpt"),
        ("refs/pr/12", "hf://owner/repo@refs/pr/12/vae/a@b.ckpt"),
        ("my/branch", "hf://owner/repo@my%2Fbranch/vae/a@b.ckpt"),
        (MAIN, f"hf://owner/repo@{MAIN}/vae/a@b.ckpt"),
    ],
)
def test_a_revision_is_fetched(hub: Hub, revision: str, location: str) -> None:
    hub.put({"vae/a@b.ckpt": b"another"}, commit=OTHER)
    hub.put({"vae/a@b.ckpt": BODY}, revision=revision)
    assert fetch(location).read_bytes() == BODY


@pytest.mark.parametrize(
    "location",
    [
        *("hf://", "hf://gpt2", "hf://datasets/o/r/a.ckpt", "hf://o/../a.ckpt", "hf://o//a.ckpt"),
        *("hf://owner/repo/../a.ckpt", "hf://owner/repo/x//a.ckpt", "hf://owner/repo/.."),
    ],
)
def test_what_is_not_a_location_is_refused(hub: Hub, location: str) -> None:
    hub.put({"a.ckpt": BODY})
    with pytest.raises(CheckpointError):
        fetch(location)


def test_a_file_is_fetched_once_per_commit(
    hub: Hub, progress: ProgressRecord, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.put({"vae/vae.ckpt": BODY, "more.ckpt": b"x"})
    copy = fetch("hf://owner/repo/vae/vae.ckpt", progress)
    assert (copy.name, copy.read_bytes()) == ("vae.ckpt", BODY)
    assert copy.is_relative_to(tmp_path / "hub"), "other programs find it there too"
    assert progress.calls[0] == ("downloading", 0, len(BODY))
    assert progress.last == ("downloading", len(BODY), len(BODY))
    assert fetch("hf://owner/repo/vae/vae.ckpt") == copy
    assert hub.downloads("vae/vae.ckpt") == 1
    assert hub.downloads("more.ckpt") == 0
    assert capfd.readouterr() == ("", "")
    before = version("hf://owner/repo/vae/vae.ckpt")
    hub.put({"vae/vae.ckpt": BODY[::-1]}, commit=OTHER)
    assert fetch("hf://owner/repo/vae/vae.ckpt").read_bytes() == BODY[::-1]
    assert version("hf://owner/repo/vae/vae.ckpt") != before


def test_shards_and_folders(hub: Hub) -> None:
    index = json.dumps({"weight_map": {"x": "a.bin", "y": "b.bin"}}).encode()
    name = "diffusion_pytorch_model.bin.index.json"
    config = b'{"_class_name": "AutoencoderKL"}'
    shards = {"vae/a.bin": b"aa", "vae/b.bin": b"bb"}
    hub.put({"vae/config.json": config, f"vae/{name}": index, "unet/z.bin": b"", **shards})
    for location in ("hf://owner/repo/vae", "hf://owner/repo/vae/", "hf://owner/repo"):
        folder = fetch(location)
        found = sorted(path.name for path in folder.iterdir())
        assert found == ["a.bin", "b.bin", "config.json", name]
        assert version(location) == ""
    assert fetch(f"hf://owner/repo/vae/{name}") == folder / name
    with pytest.raises(CheckpointError):
        fetch("hf://owner/repo/unet")
    assert version("hf://owner/repo/nothing") is None


def test_a_file_whose_parts_have_a_wrong_hash_is_not_used(
    hub: Hub, tmp_path: Path, cache: Path
) -> None:
    content = write_safetensors(tmp_path / "vae.safetensors", autoencoder()).read_bytes()
    hub.put({"vae.safetensors": content})
    hub.page("vae.safetensors").body = content[:-1] + bytes([content[-1] ^ 1])
    options: dict[str, Any] = {"skip_parity": True, "source_sha256": True}
    with pytest.raises(CheckpointError):
        inflate.convert("hf://owner/repo/vae.safetensors", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    assert not list(cache.rglob("vae.safetensors"))
    hub.page("vae.safetensors").body = content
    result = inflate.convert("hf://owner/repo/vae.safetensors", tmp_path / "out", **options)
    assert result.source_sha256 == hashlib.sha256(content).hexdigest()


def test_what_the_hubs_cache_has_is_not_downloaded_in_parts(hub: Hub, tmp_path: Path) -> None:
    local = write_safetensors(tmp_path / "m.safetensors", autoencoder())
    hub.put({"m.safetensors": local.read_bytes()})
    import huggingface_hub

    kept = huggingface_hub.hf_hub_download("owner/repo", "m.safetensors", revision=MAIN)
    assert fetch("hf://owner/repo/m.safetensors") == Path(kept)


def test_a_damaged_copy_is_downloaded_again(hub: Hub) -> None:
    hub.put({"vae.ckpt": BODY})
    for damage in (BODY[:-1], BODY[::-1]):
        fetch(URL).resolve().write_bytes(damage)
        assert fetch(URL).read_bytes() == BODY


@pytest.mark.parametrize("sent", [Page(BODY[::-1], etag="x"), Page(BODY[:-5], etag="x")])
def test_a_file_with_a_wrong_hash_or_size_is_not_used(hub: Hub, sent: Page, tmp_path: Path) -> None:
    hub.put({"vae.ckpt": BODY})
    hub.page("vae.ckpt").on_get = sent
    with pytest.raises(CheckpointError):
        fetch(URL)
    assert not [p for p in (tmp_path / "hub/blobs").rglob("*") if p.is_file()]
    hub.page("vae.ckpt").on_get = None
    assert fetch(URL).read_bytes() == BODY


@pytest.mark.parametrize(
    ("code", "status", "row"),
    [
        ("RepoNotFound", 401, "RepositoryNotFoundError"),
        ("RevisionNotFound", 404, "RevisionNotFoundError"),
        ("GatedRepo", 403, "GatedRepoError"),
        ("", 500, "5xx"),
    ],
)
def test_what_the_hub_refuses_is_reported(hub: Hub, code: str, status: int, row: str) -> None:
    headers = {"X-Error-Code": code}
    hub.web.put("/api/models/owner/repo/revision/v1", b"{}", status=status, headers=headers)
    reason = re.escape(dict(_REASONS)[row].partition("{")[0])
    with pytest.raises(CheckpointError, match=f"^hf://owner/repo@v1/a.ckpt .*{reason}"):
        fetch("hf://owner/repo@v1/a.ckpt")


def test_no_network_and_the_librarys_offline_mode_are_reported(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(CheckpointError):
        fetch("hf://owner/repo/a.ckpt")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    try:
        with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
            fetch("hf://owner/repo/a.ckpt")
    finally:
        huggingface_hub.close_session()
