"""Fetching from the Hub: its library against a server on the loopback that answers as it does."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import inflate
from inflate.errors import CheckpointError, OutputError
from inflate.io.faults import _REASONS
from inflate.io.hub import parse_hub
from inflate.io.remote import check_destination, fetch

from ...checkpoints import autoencoder, prefixed, write_safetensors
from .conftest import ProgressRecord
from .web import Page, Web

BODY = bytes(range(256)) * 1024
MAIN, OTHER = "a" * 40, "b" * 40


class Hub:
    """The part of the Hub's interface that is used: a repository's listing, and its files."""

    def __init__(self, web: Web) -> None:
        self.web = web

    def put(self, files: dict[str, bytes], revision: str | None = None, commit: str = MAIN) -> None:
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
        listing = {"id": "owner/repo", "sha": commit, "siblings": listed}
        at = "" if revision is None else f"/revision/{revision}"
        self.web.put(f"/api/models/owner/repo{at}", json.dumps(listing).encode())

    def fail(self, code: str, status: int, revision: str | None = None) -> None:
        """Answer every question for the listing with an error of the Hub's."""
        at = "" if revision is None else f"/revision/{revision}"
        self.web.put(
            f"/api/models/owner/repo{at}", b"{}", status=status, headers={"X-Error-Code": code}
        )

    def page(self, name: str, commit: str = MAIN) -> Page:
        """The page of a file."""
        return self.web.pages[f"/owner/repo/resolve/{commit}/{name}"]

    def downloads(self, name: str, commit: str = MAIN) -> int:
        """How often a file was downloaded."""
        return self.web.count("GET", f"/owner/repo/resolve/{commit}/{name}")


@pytest.fixture
def hub(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub on the loopback, and an empty cache of its library."""
    pytest.importorskip("huggingface_hub", reason="the extra remote is not installed")
    # As HF_ENDPOINT sets them when the library is loaded.
    template = web.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", web.url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    return Hub(web)


@pytest.mark.parametrize(
    ("location", "repo", "revision", "folder", "name"),
    [
        ("hf://o/r/a.ckpt", "o/r", None, "", "a.ckpt"),
        ("hf://o/r/vae/a.ckpt", "o/r", None, "vae/", "a.ckpt"),
        ("hf://o/r/vae/", "o/r", None, "vae/", ""),
        ("hf://o/r", "o/r", None, "", ""),
        ("hf://o/r/", "o/r", None, "", ""),
        ("HF://o/r@v1.0/a@b.ckpt", "o/r", "v1.0", "", "a@b.ckpt"),
        ("hf://o/r/a@b.ckpt", "o/r", None, "", "a@b.ckpt"),
        ("hf://o/r@refs/pr/12/vae/a.ckpt", "o/r", "refs/pr/12", "vae/", "a.ckpt"),
        ("hf://o/r@refs/pr/12", "o/r", "refs/pr/12", "", ""),
        ("hf://o/r@my%2Fbranch/a.ckpt", "o/r", "my/branch", "", "a.ckpt"),
        (f"hf://o/r@{MAIN}/a.ckpt", "o/r", MAIN, "", "a.ckpt"),
    ],
)
def test_the_parts_of_a_location(
    location: str, repo: str, revision: str | None, folder: str, name: str
) -> None:
    found = parse_hub(location)
    assert (found.repo, found.revision, found.folder, found.name) == (repo, revision, folder, name)


@pytest.mark.parametrize(
    "location",
    [
        *("hf://", "hf://gpt2", "hf://datasets/o/r/a.ckpt", "hf://o/../a.ckpt", "hf://o//a.ckpt"),
        *("hf://o/r@/a.ckpt", "hf://o/r/../a.ckpt", "hf://o/r/x//a.ckpt", "hf://o/r/.."),
    ],
)
def test_what_is_not_a_location_is_refused(location: str) -> None:
    with pytest.raises(CheckpointError):
        fetch(location)


def test_a_file_is_fetched_once(hub: Hub, progress: ProgressRecord, tmp_path: Path) -> None:
    hub.put({"vae/vae.ckpt": BODY, "more.ckpt": b"x"})
    copy = fetch("hf://owner/repo/vae/vae.ckpt", progress)
    assert (copy.name, copy.read_bytes()) == ("vae.ckpt", BODY)
    assert copy.is_relative_to(tmp_path / "hub"), "other programs find it there too"
    assert progress.calls[0] == ("downloading", 0, len(BODY))
    assert progress.last == ("downloading", len(BODY), len(BODY))
    assert fetch("hf://owner/repo/vae/vae.ckpt") == copy
    assert hub.downloads("vae/vae.ckpt") == 1
    assert hub.downloads("more.ckpt") == 0


def test_nothing_is_drawn(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    hub.put({"vae.ckpt": BODY})
    fetch("hf://owner/repo/vae.ckpt")
    assert capfd.readouterr() == ("", "")


def test_a_new_commit_is_fetched_again(hub: Hub) -> None:
    hub.put({"vae.ckpt": BODY})
    fetch("hf://owner/repo/vae.ckpt")
    hub.put({"vae.ckpt": BODY[::-1]}, commit=OTHER)
    assert fetch("hf://owner/repo/vae.ckpt").read_bytes() == BODY[::-1]


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/1", MAIN])
def test_a_revision_is_asked_for(hub: Hub, revision: str) -> None:
    hub.put({"vae.ckpt": b"main"}, commit=OTHER)
    hub.put({"vae.ckpt": BODY}, revision=revision)
    assert fetch(f"hf://owner/repo@{revision}/vae.ckpt").read_bytes() == BODY


def test_shards_and_folders(hub: Hub) -> None:
    index = json.dumps({"weight_map": {"x": "a.bin", "y": "b.bin"}}).encode()
    name = "diffusion_pytorch_model.bin.index.json"
    config = b'{"_class_name": "AutoencoderKL"}'
    shards = {"vae/a.bin": b"aa", "vae/b.bin": b"bb"}
    hub.put({"vae/config.json": config, f"vae/{name}": index, "unet/z.bin": b"", **shards})
    for location in ("hf://owner/repo/vae", "hf://owner/repo/vae/", "hf://owner/repo"):
        folder = fetch(location)
        assert sorted(path.name for path in folder.iterdir()) == [
            "a.bin",
            "b.bin",
            "config.json",
            name,
        ]
    assert fetch(f"hf://owner/repo/vae/{name}") == folder / name
    with pytest.raises(CheckpointError):
        fetch("hf://owner/repo/unet")


def test_of_a_safetensors_file_the_autoencoder_alone_is_downloaded(
    hub: Hub, tmp_path: Path, cache: Path
) -> None:
    foreign = {"model.diffusion_model.weight": torch.zeros(1_500_000)}
    local = write_safetensors(tmp_path / "m.safetensors", prefixed(autoencoder()) | foreign)
    hub.put({"m.safetensors": local.read_bytes()}, revision=MAIN)
    hub.put({"m.safetensors": local.read_bytes()})
    result = inflate.convert(
        "hf://owner/repo/m.safetensors", tmp_path / "a", skip_parity=True, source_sha256=True
    )
    inflate.convert(local, tmp_path / "b", skip_parity=True, source_sha256=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert result.source_sha256 == hashlib.sha256(local.read_bytes()).hexdigest()
    assert hub.web.sent < local.stat().st_size / 2


def test_what_the_hubs_cache_has_is_not_downloaded_in_parts(hub: Hub, tmp_path: Path) -> None:
    local = write_safetensors(tmp_path / "m.safetensors", autoencoder())
    hub.put({"m.safetensors": local.read_bytes()})
    import huggingface_hub

    kept = huggingface_hub.hf_hub_download("owner/repo", "m.safetensors", revision=MAIN)
    assert fetch("hf://owner/repo/m.safetensors") == Path(kept)


def test_a_copy_of_another_size_is_downloaded_again(hub: Hub) -> None:
    hub.put({"vae.ckpt": BODY})
    copy = fetch("hf://owner/repo/vae.ckpt")
    copy.resolve().write_bytes(BODY[:-1])
    assert fetch("hf://owner/repo/vae.ckpt").read_bytes() == BODY
    copy.resolve().write_bytes(BODY[::-1])
    assert fetch("hf://owner/repo/vae.ckpt").read_bytes() == BODY


def test_a_file_with_a_wrong_hash_is_not_used(hub: Hub, tmp_path: Path) -> None:
    hub.put({"vae.ckpt": BODY})
    hub.page("vae.ckpt").body = BODY[::-1]
    with pytest.raises(CheckpointError):
        fetch("hf://owner/repo/vae.ckpt")
    assert not [p for p in (tmp_path / "hub").rglob("*") if p.is_file() and p.stat().st_size > 999]
    hub.page("vae.ckpt").body = BODY
    assert fetch("hf://owner/repo/vae.ckpt").read_bytes() == BODY


def test_a_file_of_a_wrong_size_is_not_used(hub: Hub) -> None:
    hub.put({"vae.ckpt": BODY})
    hub.page("vae.ckpt").on_get = Page(BODY[:-5], etag="x")
    with pytest.raises(CheckpointError):
        fetch("hf://owner/repo/vae.ckpt")
    hub.page("vae.ckpt").on_get = None
    assert fetch("hf://owner/repo/vae.ckpt").read_bytes() == BODY


def test_a_missing_file_is_reported_with_the_nearest(hub: Hub) -> None:
    hub.put({"vae/model.ckpt": BODY})
    with pytest.raises(CheckpointError, match=r"vae/model\.ckpt"):
        fetch("hf://owner/repo/vae/modle.ckpt")


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
    hub.fail(code, status)
    hub.fail(code, status, revision="v1")
    reason = re.escape(dict(_REASONS)[row].partition("{")[0])
    for location in ("hf://owner/repo/a.ckpt", "hf://owner/repo@v1/a.ckpt"):
        with pytest.raises(CheckpointError, match=f"^{location} .*{reason}"):
            fetch(location)


def test_no_network_is_reported(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(CheckpointError):
        fetch("hf://owner/repo/a.ckpt")


def test_the_librarys_offline_mode_is_reported(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    try:
        with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
            fetch("hf://owner/repo/a.ckpt")
    finally:
        huggingface_hub.close_session()


def test_the_environment_is_heeded(hub: Hub, tmp_path: Path) -> None:
    hub.put({"vae.ckpt": BODY})
    code = "from inflate.io.remote import fetch; print(fetch('hf://owner/repo/vae.ckpt'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HF_ENDPOINT": hub.web.url, "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "home")


def test_the_hub_is_not_a_destination() -> None:
    with pytest.raises(OutputError):
        check_destination("hf://owner/repo/a.safetensors", overwrite=False)
