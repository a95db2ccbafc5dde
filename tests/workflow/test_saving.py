"""A module saved after training: the file, what it records, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import inflate
from inflate.errors import ConfigError, InflateError, OutputError, PlanError
from inflate.formats.fingerprint import fingerprint_of
from inflate.formats.source import describe
from inflate.io.reader import open_checkpoint
from inflate.models import VideoDecoder

from ..checkpoints import DDCONFIG, autoencoder, write_safetensors
from ..conversions import CPU, metadata_of, snapshot

SOURCE_KEYS = ("inflate.source.name", "inflate.source.fingerprint", "inflate.seed")
SMALLEST: dict[str, Any] = {"ch_mult": [1]}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safetensors(tmp_path_factory.mktemp("image") / "img", autoencoder(**SMALLEST))


@pytest.fixture(scope="module")
def video(image: Path) -> Path:
    output = image.parent / "video.safetensors"
    inflate.convert(image, output, time_mode="all", seed=3, skip_parity=True, **CPU)
    return output


def trained(video: Path) -> Any:
    whole = inflate.load_video_autoencoder(video)
    with torch.no_grad():
        for parameter in whole.temporal_parameters():
            parameter.add_(0.01)
    return whole


def fingerprint(path: Path) -> str:
    with open_checkpoint(path) as checkpoint:
        return fingerprint_of(describe(checkpoint).checkpoint)


def test_a_saved_file_is_the_module_and_records_where_it_comes_from(
    video: Path, tmp_path: Path
) -> None:
    whole = trained(video)
    path = inflate.save_video_autoencoder(whole, tmp_path / "a.safetensors")
    stored = load_file(path)
    assert stored.keys() == whole.state_dict().keys()
    assert all(torch.equal(stored[key], value) for key, value in whole.state_dict().items())
    header, before = metadata_of(path), metadata_of(video)
    assert {key: header[key] for key in SOURCE_KEYS} == {key: before[key] for key in SOURCE_KEYS}
    assert header["inflate.parity.verdict"] == "trained"
    assert header["inflate.fingerprint"] == fingerprint(path) != before["inflate.fingerprint"]
    assert json.loads(header["inflate.config"]) == json.loads(before["inflate.config"])


@pytest.mark.parametrize("layout", ["autoencoder", "decoder", "sgm"])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_loading_and_saving_again_gives_the_same_bytes(
    layout: Any, dtype: Any, tmp_path: Path
) -> None:
    weights = autoencoder("plain", **SMALLEST)
    image = write_safetensors(tmp_path / "img.safetensors", weights)
    options: dict[str, Any] = {"merge_strategy": "fixed", "alpha": 0.25, "dtype": dtype}
    inflate.convert(image, tmp_path / "v", float32_norms=True, skip_parity=True, **options, **CPU)
    load = inflate.load_video_decoder if layout == "decoder" else inflate.load_video_autoencoder
    inflate.save_video_autoencoder(load(tmp_path / "v"), tmp_path / "a", layout=layout)
    again = load(tmp_path / "a")
    assert again.state_dict().keys() == load(tmp_path / "v").state_dict().keys()
    inflate.save_video_autoencoder(again, tmp_path / "b", layout=layout)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_command_accepts_a_saved_file(image: Path, video: Path, tmp_path: Path) -> None:
    path = inflate.save_video_autoencoder(trained(video), tmp_path / "a.safetensors")
    assert inflate.workflow.inspect(path).blend.strategy == "learned"
    assert not inflate.verify(image, path, **CPU).passed
    copy = inflate.convert(path, tmp_path / "copy", layout="decoder", **CPU)
    assert copy.passed
    stored = load_file(tmp_path / "copy")
    assert torch.equal(stored["conv_in.weight"], load_file(path)["decoder.conv_in.weight"])


def test_a_module_of_no_file_records_its_options_and_a_source_that_is_given(
    image: Path, video: Path, tmp_path: Path
) -> None:
    decoder = VideoDecoder(
        **{**DDCONFIG, **SMALLEST, "dropout": 0.25, "tanh_out": True},
        merge_strategy="fixed",
        alpha=0.5,
        attn_type="vanilla-xformers",
    )
    plain = inflate.save_video_autoencoder(decoder, tmp_path / "plain")
    assert not metadata_of(plain).keys() & set(SOURCE_KEYS)
    config = json.loads(metadata_of(plain)["inflate.config"])
    assert (config["temporal"]["merge_strategy"], config["temporal"]["alpha"]) == ("fixed", 0.5)
    for key, value in {"dropout": 0.25, "tanh_out": True, "attn_type": "vanilla-xformers"}.items():
        assert config["architecture"][key] == value
    prints = set()
    for number, source in enumerate((image, video)):
        path = inflate.save_video_autoencoder(decoder, tmp_path / str(number), source=source)
        prints.add(metadata_of(path)["inflate.source.fingerprint"])
    assert prints == {metadata_of(video)["inflate.source.fingerprint"]}


class Parallel(nn.Module):
    """The names that DistributedDataParallel gives, without its processes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_wrappers_do_not_show_in_the_file(video: Path, tmp_path: Path) -> None:
    whole = trained(video)
    expected = inflate.save_video_autoencoder(whole, tmp_path / "a").read_bytes()
    state = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    compiled: Any = torch.compile(whole, backend="eager")
    saved = [
        inflate.save_video_autoencoder(Parallel(compiled), tmp_path / "b"),
        inflate.save_video_autoencoder(whole.to("meta"), tmp_path / "c", state_dict=state),
    ]
    inner = trained(video)
    inner.decoder = torch.compile(inner.decoder, backend="eager")
    saved.append(inflate.save_video_autoencoder(inner, tmp_path / "d"))
    assert all(path.read_bytes() == expected for path in saved)


def test_numbers_that_are_not_finite_are_saved(video: Path, tmp_path: Path) -> None:
    whole = trained(video)
    with torch.no_grad():
        next(whole.temporal_parameters()).fill_(float("nan"))
    path = inflate.save_video_autoencoder(whole, tmp_path / "a")
    assert inflate.load_video_autoencoder(path).decoder.time_mode == "all"


def without(module: nn.Module, key: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in module.state_dict().items() if name != key}


@pytest.mark.parametrize(
    ("refused", "error"),
    [
        (lambda _: {"module": nn.Linear(1, 1)}, ConfigError),
        (lambda _: {"layout": "onnx"}, ConfigError),
        (lambda _: {"dtype": "int8"}, ConfigError),
        (lambda whole: {"module": whole.to("meta")}, PlanError),
        (lambda whole: {"state_dict": without(whole, "decoder.mid.block_1.mix_factor")}, PlanError),
        (lambda _: {"layout": "diffusers"}, PlanError),
        (lambda _: {}, OutputError),
        (lambda _: {"path": "missing/a", "overwrite": True}, OutputError),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_is_left(
    refused: Any, error: type[InflateError], video: Path, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"mine")
    arguments = {"module": trained(video), "path": "a"}
    arguments |= refused(arguments["module"])
    before = snapshot(tmp_path)
    with pytest.raises(error):
        inflate.save_video_autoencoder(
            arguments.pop("module"), tmp_path / arguments.pop("path"), **arguments
        )
    assert snapshot(tmp_path) == before


def test_a_saved_file_replaces_another_only_where_it_may(video: Path, tmp_path: Path) -> None:
    for _ in range(2):
        inflate.save_video_autoencoder(trained(video), tmp_path / "a", overwrite=True)
    assert list(snapshot(tmp_path)) == ["a"]
