"""What other tools read: ComfyUI's VAE, CogVideo's torch file, whole models; temporal layers."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import inflate
from inflate import convert, inspect, save_video_autoencoder, verify
from inflate.errors import ConfigError, FamilyError, OutputError, PlanError
from inflate.io.reader import open_checkpoint
from tests.io.opening import assert_same

from ..checkpoints import (
    FIRST_STAGE,
    autoencoder,
    prefixed,
    under,
    write_lightning,
    write_safetensors,
    write_torch,
)
from ..conversions import CPU, converted, metadata_of, print_of, sha256
from .making import LIKE_CLASS, SVD_IMAGE, svd_model

K311: dict[str, Any] = {**CPU, "video_kernel_size": (3, 1, 1)}
ALLOWED: dict[str, Any] = {**K311, "allow_inexact": True}
UNET = "model.diffusion_model.input_blocks.0.0.weight"
pytestmark = pytest.mark.usefixtures("tiny_comfyui")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image autoencoder with quant convs, none of them trivial."""
    return write_lightning(tmp_path / "img.ckpt", autoencoder(**LIKE_CLASS))


def test_comfyui_is_what_sgm_and_autoencoder_make_in_two_steps(image: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="--allow-inexact"):
        convert(image, tmp_path / "out", layout="comfyui", **K311)
    result = converted(image, tmp_path / "comfyui", layout="comfyui", **ALLOWED)
    assert result.parity is not None
    assert result.parity.fold is not None
    assert any("quant_conv" in note for note in result.notes)
    convert(image, tmp_path / "one", layout="sgm", post_quant="fold", **ALLOWED)
    convert(tmp_path / "one", tmp_path / "two", layout="autoencoder", **CPU)
    assert_same(load_file(tmp_path / "comfyui"), load_file(tmp_path / "two"))
    convert(image, tmp_path / "video", **K311)
    video = inflate.load_video_autoencoder(tmp_path / "video")
    with pytest.raises(PlanError):
        save_video_autoencoder(video, tmp_path / "saved", layout="comfyui")
    save_video_autoencoder(video, tmp_path / "saved", layout="comfyui", allow_inexact=True)
    assert_same(load_file(tmp_path / "saved"), load_file(tmp_path / "two"))
    for path in ("comfyui", "two"):
        report = verify(image, tmp_path / path, **CPU)
        assert report.verdict == "bitwise"
        assert report.recorded_source is not None
        assert report.recorded_source.given


def test_all_misfits_of_comfyui_are_one_error(tmp_path: Path) -> None:
    weights = autoencoder("vq", ch_mult=[1, 2, 2], attn_resolutions=[16], num_res_blocks=1)
    path = write_safetensors(tmp_path / "img.safetensors", weights)
    with pytest.raises(PlanError) as caught:
        convert(path, tmp_path / "out", layout="comfyui", time_mode="all", alpha=1.0,
                merge_strategy="fixed", **CPU)  # fmt: skip
    words = ("codebook", "kernel", "blend", "ch_mult", "num_res_blocks", "double_z", "attention")
    for word in words:
        assert any(word in problem for problem in caught.value.problems), word
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("layout", "dtype"), [("cogvideo", None), ("sgm", "float16"), ("decoder", "bfloat16")]
)
def test_a_torch_file_is_what_torch_loads(
    layout: Any, dtype: Any, plain: Path, tmp_path: Path
) -> None:
    out, again, other = (tmp_path / name for name in ("a.ckpt", "b.pt", "c.safetensors"))
    options: dict[str, Any] = {**K311, "dtype": dtype}
    assert convert(plain, out, layout=layout, **options).passed
    found = torch.load(out, weights_only=True)
    assert list(found) == ["state_dict", "inflate"]
    convert(plain, other, layout="decoder", **options)
    prefix = {"cogvideo": "decoder.", "sgm": f"{FIRST_STAGE}decoder.", "decoder": ""}[layout]
    state_dict: dict[str, Tensor] = found["state_dict"]
    decoder = {k: v for k, v in state_dict.items() if k.startswith(prefix)}
    assert_same(decoder, prefixed(load_file(other), prefix))
    mapped = torch.load(out, weights_only=True, mmap=True)["state_dict"]
    assert all(tensor.data_ptr() % 64 == 0 for tensor in mapped.values())
    assert zipfile.ZipFile(out).testzip() is None
    convert(plain, again, layout=layout, **options)
    assert sha256(out) == sha256(again)
    seen = inspect(out)
    assert seen.metadata == found["inflate"]
    assert seen.changed is False
    report = verify(plain, out, **CPU)
    assert report.verdict == "bitwise"
    assert report.recorded_source is not None
    assert report.recorded_source.given


def test_the_file_of_cogvideo_has_the_name_that_it_looks_for(plain: Path) -> None:
    result = convert(plain, layout="cogvideo", skip_parity=True, **K311)
    assert result.output == plain.parent / "video_model.ckpt"


@pytest.mark.parametrize("layout", ["cogvideo", "diffusers"])
def test_the_ending_of_another_layout_is_refused(layout: Any, plain: Path) -> None:
    with pytest.raises(OutputError):
        convert(plain, plain.parent / "x.safetensors", layout=layout, **K311)


@pytest.fixture
def trained(plain: Path, tmp_path: Path) -> Path:
    """A video checkpoint made from ``plain``, its temporal layers trained."""
    convert(plain, tmp_path / "v.safetensors", **K311)
    whole = inflate.load_video_autoencoder(tmp_path / "v.safetensors")
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if "time_stack.out_layers.3" in name:
                parameter.add_(0.01)
    return save_video_autoencoder(whole, tmp_path / "trained.safetensors")


@pytest.mark.parametrize("layout", ["cogvideo", "comfyui"])
def test_a_copy_of_a_trained_file_keeps_its_origin(
    layout: Any, plain: Path, trained: Path, tmp_path: Path
) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    result = convert(trained, once, layout=layout, **CPU)
    assert result.plan.initialised == ()
    convert(once, twice, layout="decoder", **CPU)
    other = autoencoder("plain", seed=5, **LIKE_CLASS)
    image = write_safetensors(tmp_path / "other.safetensors", other)
    assert not verify(image, once, trained=True, **CPU).passed
    for copy in (once, twice):
        report = verify(plain, copy, trained=True, **CPU)
        assert report.passed
        assert report.recorded_source is not None
        assert report.recorded_source.name == plain.name
        assert {row.origin for row in report.plan} <= {"copied", "passed-through"}
        with open_checkpoint(copy) as checkpoint:
            assert checkpoint.metadata["inflate.origin.fingerprint"] == print_of(plain)


@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_a_first_stage_is_put_into_a_whole_model(kind: str, plain: Path, tmp_path: Path) -> None:
    whole = svd_model()
    if kind == "torch":
        full = write_lightning(tmp_path / "full.ckpt", whole)
    else:  # With types that no autoencoder has.
        whole |= {"a.narrow": torch.ones(5).to(torch.float8_e4m3fn), "counter": torch.tensor(7)}
        full = write_safetensors(tmp_path / "full.safetensors", whole, {"license": "theirs"})
    before = sha256(full)
    result = converted(plain, into=full, **K311)
    assert result.output == tmp_path / "full.video.safetensors"
    assert result.layout == "sgm"
    written = load_file(result.output)
    assert sorted(written) == sorted(whole)
    convert(plain, tmp_path / "alone", layout="sgm", **K311)
    assert_same(under(written, FIRST_STAGE), under(load_file(tmp_path / "alone"), FIRST_STAGE))
    for name, tensor in whole.items():
        if not name.startswith(FIRST_STAGE):
            assert written[name].dtype == tensor.dtype
            assert torch.equal(written[name].float(), tensor.float())
    assert metadata_of(result.output).get("license") == ("theirs" if kind != "torch" else None)
    assert sha256(full) == before
    assert verify(plain, result.output, **CPU).verdict == "bitwise"
    assert inspect(result.output).inflated
    # The other autoencoder of the file is not what the header describes.
    assert not inspect(result.output, prefix=SVD_IMAGE).inflated


def test_a_whole_model_is_read_and_not_written(plain: Path, tmp_path: Path) -> None:
    full = write_safetensors(tmp_path / "full.safetensors", svd_model())
    before = sha256(full)
    with pytest.raises(OutputError):
        convert(plain, full, into=full, overwrite=True, **K311)
    with pytest.raises(OutputError):
        convert(plain, tmp_path / "out.ckpt", into=full, **K311)
    with pytest.raises(ConfigError):
        convert(plain, tmp_path / "out", into=full, layout="comfyui", **K311)
    assert sha256(full) == before


def test_what_does_not_fit_a_whole_model_is_one_error(plain: Path, tmp_path: Path) -> None:
    full = write_safetensors(tmp_path / "full.safetensors", svd_model())
    with pytest.raises(PlanError) as caught:
        convert(plain, tmp_path / "out", into=full, **CPU)
    assert all("time_" in problem for problem in caught.value.problems)
    nothing = write_safetensors(tmp_path / "none.safetensors", {UNET: torch.ones(3)})
    with pytest.raises(FamilyError):
        convert(plain, tmp_path / "out", into=nothing, **K311)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [None, "float16"])
def test_temporal_layers_go_and_come_back(
    dtype: Any, plain: Path, trained: Path, tmp_path: Path
) -> None:
    result = convert(trained, layout="temporal", dtype=dtype, **CPU)
    assert result.output == tmp_path / "trained.temporal.safetensors"
    assert result.passed
    alone = load_file(result.output)
    whole = load_file(trained)
    assert {name for name in whole if name in alone} == set(alone)
    assert not set(alone) & set(load_file(plain))
    back = converted(result.output, tmp_path / "back", base=plain)
    assert back.notes == ()
    expected = {k: alone.get(k, v) for k, v in whole.items()}
    assert_same(load_file(tmp_path / "back"), expected)
    assert verify(plain, tmp_path / "back", trained=True, **CPU).passed


def test_temporal_layers_of_an_image_are_a_start(plain: Path, tmp_path: Path) -> None:
    result = convert(plain, layout="temporal", **K311)
    assert result.output == tmp_path / "plain.temporal.safetensors"
    assert result.passed
    with pytest.raises(FamilyError, match="--base"):
        convert(result.output, layout="autoencoder", **CPU)
    other = autoencoder("plain", seed=8, **LIKE_CLASS)
    base = write_torch(tmp_path / "other.pt", prefixed(other))
    back = convert(result.output, tmp_path / "back", base=base, layout="sgm", **CPU)
    assert any("other.pt" in note for note in back.notes)
    assert verify(base, tmp_path / "back", **CPU).verdict == "bitwise"


def test_only_temporal_layers_have_a_base(plain: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(FamilyError, match="--layout temporal"):
        convert(trained, tmp_path / "out", base=plain, **CPU)
    convert(trained, tmp_path / "t", layout="temporal", skip_parity=True, **CPU)
    with pytest.raises(FamilyError, match="image checkpoint"):
        convert(tmp_path / "t", tmp_path / "out", base=trained, **CPU)
    with pytest.raises(OutputError):
        convert(tmp_path / "t", plain, base=plain, overwrite=True, **CPU)
    save_file({"a": torch.ones(2)}, tmp_path / "odd.safetensors")
    with pytest.raises(FamilyError):
        convert(tmp_path / "odd.safetensors", tmp_path / "out", base=plain, **CPU)
