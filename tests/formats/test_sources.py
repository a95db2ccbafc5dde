"""Layouts that are read: whole models, the LDM zoo, shards, old files, moving averages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from inflate import convert, inspect, verify
from inflate.errors import CheckpointError, FamilyError
from tests.io.opening import assert_same

from ..checkpoints import (
    FIRST_STAGE,
    KINDS,
    autoencoder,
    prefixed,
    under,
    write_lightning,
    write_safetensors,
    write_torch,
)
from ..conversions import CPU, converted, metadata_of
from .making import AROUND, SVD_IMAGE, moving_averages, svd_model, whole_model

Writer = Callable[..., Path]

SMALLEST = {"ch_mult": [1]}

LOSS = {
    "loss.logvar": torch.zeros(()),
    "loss.perceptual_loss.lin0.model.1.weight": torch.ones(1, 64, 1, 1),
    "loss.discriminator.main.0.weight": torch.ones(8, 3, 4, 4),
}
"""What trains an autoencoder of the LDM zoo, kept in its files."""


def kept(path: Path, expected: Mapping[str, Tensor], **options: Any) -> None:
    """Convert a file, and find all of its autoencoder in the result, bit for bit."""
    out = path.with_name("out.safetensors")
    result = converted(path, out, **options)
    written = load_file(out)
    assert_same({name: written[name] for name in expected}, expected)
    assert {t.key for t in result.plan.tensors if t.part != "temporal"} == set(expected)


@pytest.mark.parametrize(
    ("family", "writer"), [("sd1", write_lightning), ("sdxl", write_safetensors)]
)
def test_of_a_whole_model_the_autoencoder_alone_is_read(
    family: str, writer: Writer, tmp_path: Path, reads: dict[Path, set[str]]
) -> None:
    weights = whole_model(family)
    path = writer(tmp_path / "model.file", weights)
    kept(path, under(weights, FIRST_STAGE))
    assert reads[path] == {name for name in weights if name.startswith(FIRST_STAGE)}


@pytest.mark.skipif(sys.platform == "win32", reason="needs files with holes")
def test_planning_reads_nothing_of_seven_gigabytes(
    tmp_path: Path, reads: dict[Path, set[str]]
) -> None:
    path = write_safetensors(tmp_path / "whole.safetensors", whole_model("sdxl"))
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    # One tensor more, 7 GB long and all of it a hole.
    end = len(content) - 8 - length
    entry = f',"{AROUND["sdxl"][0]}.more":{{"dtype":"F16","shape":[3500000000],'
    entry += f'"data_offsets":[{end},{end + 7_000_000_000}]}}'
    header = content[8 : 8 + length].rstrip()[:-1] + entry.encode() + b"}"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header + content[8 + length :])
        file.truncate(8 + len(header) + end + 7_000_000_000)
    plan = convert(path, dry_run=True, **CPU).plan
    assert max(dropped.info.nbytes for dropped in plan.dropped) == 7_000_000_000
    assert not reads
    assert inspect(path).obstacles == ()
    assert all(name.startswith(FIRST_STAGE) for name in reads[path])


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_the_ldm_zoo(kind: str, tmp_path: Path) -> None:
    weights = autoencoder(kind, **SMALLEST)
    path = write_lightning(tmp_path / "model.ckpt", {**weights, **LOSS})
    kept(path, weights)
    assert metadata_of(tmp_path / "out.safetensors")["inflate.layout"] == "autoencoder"
    assert {d.info.name for d in convert(path, dry_run=True, **CPU).plan.dropped} == set(LOSS)


def test_a_vae_pt(tmp_path: Path) -> None:
    weights = autoencoder(**SMALLEST)
    stored = {**weights, **LOSS, **moving_averages(weights)}
    path = write_torch(tmp_path / "anime.vae.pt", stored)
    kept(path, weights)
    assert convert(path, skip_parity=True, **CPU).output == tmp_path / "anime.vae.video.safetensors"


def test_files_of_torch_before_1_6(tmp_path: Path) -> None:
    weights = autoencoder(**SMALLEST)
    path = write_lightning(
        tmp_path / "old.pth", prefixed(weights), _use_new_zipfile_serialization=False
    )
    assert path.read_bytes()[:2] != b"PK"
    kept(path, weights)


@pytest.mark.parametrize(
    ("writer", "dtype"), [(write_torch, torch.float16), (write_safetensors, torch.bfloat16)]
)
def test_narrow_types_are_kept(writer: Writer, dtype: torch.dtype, tmp_path: Path) -> None:
    weights = autoencoder(dtype=dtype, **SMALLEST)
    path = writer(tmp_path / "half.file", prefixed(weights))
    kept(path, weights)
    made = load_file(tmp_path / "out.safetensors")
    assert {tensor.dtype for tensor in made.values()} == {dtype}


@pytest.mark.parametrize(
    ("family", "stem", "ending"), [("sd3", "model", "safetensors"), ("sd1", "pytorch_model", "bin")]
)
def test_shards_behind_their_index(
    family: str, stem: str, ending: str, tmp_path: Path, reads: dict[Path, set[str]]
) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="it writes the shards")
    weights = whole_model(family)
    hub.save_torch_state_dict(
        weights, tmp_path, filename_pattern=f"{stem}{{suffix}}.{ending}", max_shard_size="200KB",
        safe_serialization=ending != "bin",
    )  # fmt: skip
    index = tmp_path / f"{stem}.{ending}.index.json"
    shards = sorted(tmp_path.glob(f"{stem}-*.{ending}"))
    assert len(shards) > 2
    kept(index, under(weights, FIRST_STAGE))
    assert reads[index] == {name for name in weights if name.startswith(FIRST_STAGE)}
    made = convert(index, skip_parity=True, **CPU)
    assert made.output == tmp_path / f"{stem}.video.safetensors"
    assert len(inspect(index).files.all) == len(shards) + 1
    # A tensor that lies in another shard than the index says is not taken from there.
    for write in (write_torch, write_safetensors):
        write(shards[0], {"elsewhere": torch.ones(1)})
        with pytest.raises(CheckpointError, match=index.name):
            convert(index, **CPU)


@pytest.fixture(scope="module")
def svd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safetensors(tmp_path_factory.mktemp("svd") / "svd.safetensors", svd_model())


@pytest.mark.parametrize("prefix", [SVD_IMAGE, SVD_IMAGE.rstrip(".")])
def test_the_image_autoencoder_of_svd_is_chosen_by_its_prefix(
    svd: Path, prefix: str, tmp_path: Path, reads: dict[Path, set[str]]
) -> None:
    path = tmp_path / "svd.safetensors"
    path.symlink_to(svd)
    weights = under(svd_model(), SVD_IMAGE)
    kept(path, weights, prefix=prefix)
    assert reads[path] == set(prefixed(weights, SVD_IMAGE))
    assert verify(path, tmp_path / "out.safetensors", prefix=prefix, **CPU).verdict == "bitwise"
    with pytest.raises(FamilyError) as caught:
        convert(svd, **CPU)
    for choice in (f"'{SVD_IMAGE}'", f"'{FIRST_STAGE}'", "--prefix"):
        assert choice in str(caught.value)


@pytest.mark.parametrize(("kind", "prefix"), [("kl", ""), ("vq", ""), ("plain", FIRST_STAGE)])
def test_moving_averages_are_taken_where_asked_for(kind: str, prefix: str, tmp_path: Path) -> None:
    plain, averaged = (autoencoder(kind, seed=seed, **SMALLEST) for seed in (1, 2))
    both = {**prefixed(plain, prefix), **moving_averages(averaged, prefix)}
    path = write_lightning(tmp_path / "model.ckpt", both)
    kept(path, averaged, weights="ema")
    assert convert(path, dry_run=True, weights="ema", **CPU).notes == ()
    counters = {f"{prefix}model_ema.{name}" for name in ("decay", "num_updates")}
    dropped = convert(path, dry_run=True, weights="ema", **CPU).plan.dropped
    assert {d.info.name for d in dropped} == {*prefixed(plain, prefix), *counters}
    video = tmp_path / "out.safetensors"
    assert verify(path, video, weights="ema", **CPU).verdict == "bitwise"
    assert verify(path, video, **CPU).verdict == "fail"
