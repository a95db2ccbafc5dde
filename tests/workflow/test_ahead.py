"""The hash of a source that is begun before it is asked for, and that of an output behind it."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

import inflate
from inflate.errors import CheckpointError, OutputError
from inflate.io.files import find_files, hash_files
from inflate.workflow import ahead, checking
from inflate.workflow.ahead import hash_source, hashing_ahead

from ..checkpoints import autoencoder, write_torch
from ..conversions import CPU, sha256, snapshot


def test_what_was_begun_is_what_is_used(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = find_files(image)
    with hashing_ahead(str(image)):
        begun = ahead._BEGUN.get()
        assert begun is not None
        assert begun.result(10) == (files, sha256(image))
        monkeypatch.setattr(ahead, "hash_files", lambda _: "hashed anew")
        assert hash_source(files) == sha256(image)
    assert hash_source(files) == "hashed anew"


def test_what_was_begun_of_another_file_is_not_used(image: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.ckpt"
    other.write_bytes(image.read_bytes() + b"more")
    with hashing_ahead(str(other)):
        assert hash_source(find_files(image)) == sha256(image)


def test_a_source_that_is_not_there_is_told_at_once() -> None:
    with pytest.raises(CheckpointError, match=r"no/such/file\.ckpt does not exist"):
        hashing_ahead("no/such/file.ckpt").__enter__()


def test_what_lies_elsewhere_is_hashed_when_it_is_here(image: Path) -> None:
    with hashing_ahead("https://127.0.0.1:1/a.ckpt"):
        assert ahead._BEGUN.get() is None
        assert hash_source(find_files(image)) == sha256(image)


def test_what_cannot_be_read_is_left_for_the_conversion_to_tell(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(ahead, "hash_file", fail)
        with hashing_ahead(str(image)):
            begun = ahead._BEGUN.get()
            assert begun is not None
            assert begun.result(10) is None
    assert hash_source(find_files(image)) == sha256(image)


def test_nobody_waits_for_a_hash_that_is_not_needed_any_more(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "_LARGE", 1)
    with hashing_ahead(str(image)):
        begun = ahead._BEGUN.get()
    assert begun is not None
    assert begun.result(0) is None


@pytest.mark.parametrize("skipped", [False, True])
@pytest.mark.parametrize("layout", ["autoencoder", "decoder"])
def test_the_hash_told_is_that_of_the_file(
    image: Path, tmp_path: Path, layout: str, skipped: bool
) -> None:
    output = tmp_path / "out"
    result = inflate.convert(image, output, layout=layout, skip_parity=skipped, **CPU)
    assert result.sha256 == sha256(output)


def test_the_hash_of_a_folder_is_that_of_its_list(tmp_path: Path) -> None:
    image = write_torch(tmp_path / "img.pt", autoencoder(num_res_blocks=2))
    output = tmp_path / "out"
    options: dict[str, Any] = {"layout": "diffusers", "video_kernel_size": (3, 1, 1)}
    result = inflate.convert(
        image, output, post_quant="fold", allow_inexact=True, skip_parity=True, **options
    )
    (weights,) = output.glob("*.safetensors")
    listing = f"{sha256(weights)}  {weights.name}\n"
    assert result.sha256 == hashlib.sha256(listing.encode()).hexdigest()
    assert result.sha256 == hash_files(find_files(output))


def test_another_verdict_than_expected_gives_the_right_hash(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = checking.check

    def rounding(*args: Any, **options: Any) -> Any:
        report = check(*args, **options)
        object.__setattr__(report, "verdict", "within-tolerance")
        return report

    monkeypatch.setattr(checking, "check", rounding)
    result = inflate.convert(image, tmp_path / "out", **CPU)
    assert result.sha256 == sha256(tmp_path / "out")
    with safe_open(tmp_path / "out", framework="pt") as file:
        assert file.metadata()["inflate.parity.verdict"] == "within-tolerance"


@pytest.mark.skipif(not hasattr(os, "fdatasync"), reason="os.fsync stands in for it")
def test_a_disk_that_fails_while_it_is_written_is_told(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(OutputError, match="cannot be written: Input/output error"):
        inflate.convert(image, tmp_path / "out", skip_parity=True)
    assert snapshot(tmp_path) == {}
