"""A module saved after training, ``verify --trained``, and the fingerprints on the way."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import inflate
from inflate import inspect
from inflate.errors import ConfigError, InflateError, OutputError, PlanError
from inflate.models import VideoDecoder
from inflate.parity.result import ParityReport

from ..checkpoints import DDCONFIG, autoencoder, write_safetensors, write_torch
from ..conversions import CPU, metadata_of, nudged, print_of, sha256, snapshot

SOURCE_KEYS = ("inflate.source.name", "inflate.source.fingerprint", "inflate.seed")
SMALLEST: dict[str, Any] = {"ch_mult": [1]}
BIAS, SPATIAL = "decoder.conv_out.time_mix_conv.bias", "decoder.conv_in.bias"
NAN = torch.full((3,), math.nan)


@pytest.fixture(scope="module")
def start(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("saving") / "start.safetensors"
    inflate.convert(tiny, output, time_mode="all", seed=3, skip_parity=True, **CPU)
    return output


def trained_module(start: Path) -> Any:
    whole = inflate.load_video_autoencoder(start)
    with torch.no_grad():
        for parameter in whole.temporal_parameters():
            parameter.mul_(1.25).add_(0.5)
    return whole


@pytest.fixture(scope="module")
def trained(start: Path) -> Path:
    return inflate.save_video_autoencoder(trained_module(start), start.with_name("trained"))


def test_a_saved_file_is_the_module_and_records_its_source(start: Path, tmp_path: Path) -> None:
    whole = trained_module(start)
    path = inflate.save_video_autoencoder(whole, tmp_path / "a.safetensors")
    stored = load_file(path)
    assert stored.keys() == whole.state_dict().keys()
    assert all(torch.equal(stored[key], value) for key, value in whole.state_dict().items())
    header, before = metadata_of(path), metadata_of(start)
    assert {key: header[key] for key in SOURCE_KEYS} == {key: before[key] for key in SOURCE_KEYS}
    assert header["inflate.parity.verdict"] == "trained"
    assert header["inflate.fingerprint"] == print_of(path) != before["inflate.fingerprint"]
    assert json.loads(header["inflate.config"]) == json.loads(before["inflate.config"])


@pytest.mark.parametrize(
    ("layout", "dtype"), [("autoencoder", None), ("decoder", "bfloat16"), ("sgm", None)]
)
def test_loading_and_saving_give_the_same_bytes(layout: Any, dtype: Any, tmp_path: Path) -> None:
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


def test_a_module_of_no_file_records_its_options_and_a_source_that_is_given(
    tiny: Path, start: Path, tmp_path: Path
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
    for number, source in enumerate((tiny, start)):
        path = inflate.save_video_autoencoder(decoder, tmp_path / str(number), source=source)
        prints.add(metadata_of(path)["inflate.source.fingerprint"])
    assert prints == {metadata_of(start)["inflate.source.fingerprint"]}


class Parallel(nn.Module):
    """The names that DistributedDataParallel gives, without its processes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_wrappers_do_not_show_in_the_file(start: Path, tmp_path: Path) -> None:
    whole = trained_module(start)
    expected = inflate.save_video_autoencoder(whole, tmp_path / "a").read_bytes()
    state = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    compiled: Any = torch.compile(whole, backend="eager")
    saved = [
        inflate.save_video_autoencoder(Parallel(compiled), tmp_path / "b"),
        inflate.save_video_autoencoder(whole.to("meta"), tmp_path / "c", state_dict=state),
    ]
    inner = trained_module(start)
    inner.decoder = torch.compile(inner.decoder, backend="eager")
    saved.append(inflate.save_video_autoencoder(inner, tmp_path / "d"))
    assert all(path.read_bytes() == expected for path in saved)


@pytest.mark.parametrize(
    ("refused", "error"),
    [
        (lambda _: {"module": nn.Linear(1, 1)}, ConfigError),
        (lambda _: {"layout": "onnx"}, ConfigError),
        (lambda whole: {"module": whole.to("meta")}, PlanError),
        (
            lambda w: {"state_dict": {k: v for k, v in w.state_dict().items() if k != BIAS}},
            PlanError,
        ),
        (lambda w: {"path": "b", "state_dict": w.state_dict() | {BIAS: NAN}}, PlanError),
        (lambda _: {"layout": "diffusers"}, PlanError),
        (lambda _: {}, OutputError),
        (lambda _: {"path": "missing/a", "overwrite": True}, OutputError),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_is_left(
    refused: Any, error: type[InflateError], start: Path, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"mine")
    arguments = {"module": trained_module(start), "path": "a"}
    arguments |= refused(arguments["module"])
    before = snapshot(tmp_path)
    with pytest.raises(error):
        inflate.save_video_autoencoder(
            arguments.pop("module"), tmp_path / arguments.pop("path"), **arguments
        )
    assert snapshot(tmp_path) == before


def check(tiny: Path, candidate: Path, **options: Any) -> ParityReport:
    return inflate.verify(tiny, candidate, trained=True, **options, **CPU)


def test_trained_files_pass_and_are_measured(tiny: Path, start: Path, trained: Path) -> None:
    report = check(tiny, trained)
    assert (report.verdict, report.max_abs_error) == ("bitwise", 0.0)
    found = report.trained
    assert found is not None
    assert found.problems == ()
    assert found.max_abs_difference is not None
    assert found.max_abs_difference > 0.1
    before, after = load_file(start), load_file(trained)
    for movement in found.movements:
        keys = [key for key in before if movement.part in key.split(".")]
        distance = math.sqrt(sum((after[k] - before[k]).double().square().sum() for k in keys))
        norm = math.sqrt(sum(before[k].double().square().sum() for k in keys))
        assert (movement.tensors, movement.moved) == (len(keys), len(keys))
        assert movement.distance == pytest.approx(distance)
        if norm:
            assert movement.relative == pytest.approx(distance / norm)
        else:
            assert movement.relative is None
    parts = {"mix_factor", "time_stack", "time_mix_conv", "time_mix_block", "video_time_embed"}
    assert {movement.part for movement in found.movements} == parts


def test_a_start_passes_and_has_not_moved(tiny: Path, start: Path) -> None:
    report = check(tiny, start)
    assert report.passed
    assert report.trained is not None
    assert report.trained.max_abs_difference == 0
    assert {m.distance for m in report.trained.movements} == {0.0}


@pytest.mark.parametrize(("key", "by"), [(BIAS, math.nan), (SPATIAL, 1e-6)])
def test_nan_and_changed_spatial_tensors_fail(
    key: str, by: float, tiny: Path, trained: Path, tmp_path: Path
) -> None:
    report = check(tiny, nudged(trained, tmp_path / "bad", key, by))
    assert not report.passed
    assert report.trained is not None
    assert bool(report.trained.problems) == (key == BIAS)
    assert report.weights.different == ((SPATIAL,) if key == SPATIAL else ())


def test_another_source_fails(tiny: Path, trained: Path, tmp_path: Path) -> None:
    header = {**metadata_of(trained), "inflate.source.fingerprint": "0" * 64}
    del header["inflate.seed"]
    report = check(tiny, write_safetensors(tmp_path / "other", load_file(trained), header))
    assert report.weights.different == ()
    assert not report.passed
    assert report.trained is not None
    assert report.trained.movements == (), "the header records no start"


@pytest.mark.parametrize("old_header", [False, True])
def test_without_the_option_a_trained_file_fails_with_a_hint(
    old_header: bool, tiny: Path, start: Path, trained: Path, tmp_path: Path
) -> None:
    if old_header:  # As a training script leaves it that keeps the header of the start.
        trained = write_safetensors(tmp_path / "old", load_file(trained), metadata_of(start))
    report = inflate.verify(tiny, trained, **CPU)
    assert not report.passed
    assert any("--trained" in note for note in report.notes)
    for key in (SPATIAL, BIAS):
        report = inflate.verify(tiny, nudged(start, tmp_path / key, key), **CPU)
        assert not report.passed
        assert not any("--trained" in note for note in report.notes)


def test_a_copy_of_a_trained_file_and_its_copy_are_called_trained(
    start: Path, trained: Path, tmp_path: Path
) -> None:
    copy, again, untrained = (tmp_path / f"{name}.safetensors" for name in ("a", "b", "c"))
    for source, output in ((trained, copy), (copy, again), (start, untrained)):
        inflate.convert(source, output, layout="decoder", **CPU)
    assert [inspect(path).trained for path in (copy, again, untrained)] == [True, True, False]
    assert inspect(copy).metadata["inflate.parity.verdict"] == "bitwise"


@pytest.mark.parametrize("options", [{"bisect": True}, {"self_test": True}, {"trainability": True}])
def test_a_source_is_needed_and_options_of_a_start_fail(
    options: dict[str, bool], trained: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        inflate.verify(trained, trained=True, **options, **CPU)
    assert len(caught.value.problems) == 2


FOLD = {"post_quant": "fold", "allow_inexact": True}
LIKE_CLASS = {"ch_mult": [1], "num_res_blocks": 2}
SVD = {"time_mode": "conv-only", "video_kernel_size": (3, 1, 1)}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "float16"},
        {"layout": "decoder"},
        {"layout": "decoder", **FOLD},
        {"layout": "sgm", **FOLD},
        {"layout": "diffusers", **FOLD, **SVD},
    ],
    ids=str,
)
def test_the_fingerprints_of_a_conversion(options: dict[str, Any], tmp_path: Path) -> None:
    weights = autoencoder(**LIKE_CLASS)
    weights["decoder.conv_in.weight"] = weights["decoder.conv_in.weight"].transpose(2, 3)
    source = write_torch(tmp_path / "img", weights)
    made = inflate.convert(source, tmp_path / "v", skip_parity=True, **options, **CPU)
    assert made.source_fingerprint == print_of(source)
    assert made.fingerprint == print_of(tmp_path / "v") != print_of(source)


def test_a_trained_file_under_its_old_header_is_recognised(
    tiny_video: Path, tmp_path: Path
) -> None:
    trained = nudged(tiny_video, tmp_path / "trained", BIAS)
    found = inspect(tiny_video), inspect(trained)
    assert [inspection.changed for inspection in found] == [False, True]
    assert found[0].fingerprint == metadata_of(trained)["inflate.fingerprint"]
    assert [inflate.verify(p, **CPU).changed for p in (tiny_video, trained)] == [False, True]


def test_the_hash_of_the_whole_source_on_request(tiny: Path, tmp_path: Path) -> None:
    for wanted, expected in ((False, None), (True, sha256(tiny))):
        output = tmp_path / str(wanted)
        made = inflate.convert(tiny, output, source_sha256=wanted, skip_parity=True, **CPU)
        assert made.source_sha256 == expected
        assert metadata_of(output).get("inflate.source.sha256") == expected
