"""Images and videos as pixels, their latents by the checkpoint's own encoder, stored latents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import inflate
from inflate.errors import ConfigError, FamilyError, OutputError
from inflate.loading import load_video_autoencoder
from inflate.parity.media import image_pixels, read_latents, video_pixels

from ..checkpoints import autoencoder, bare_decoder, write_torch
from ..conversions import CPU
from ..media import clip, picture

SIZES: dict[str, Any] = {"multiple": 8, "side": 64, "most": 4}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images of several sizes and formats, and of other files."""
    folder = tmp_path / "images"
    picture(folder / "b.png", 100, 60, 1)
    picture(folder / "a.jpg", 200, 120, 2)
    picture(folder / "c.webp", 50, 90, 3)
    picture(folder / "d.png", 64, 64, 4, mode="L")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    return folder


def test_images_are_sorted_and_take_the_size_of_the_first(images: Path) -> None:
    pixels, note = image_pixels(images, **SIZES)
    assert pixels.shape == (4, 3, 32, 64)
    assert pixels.dtype == torch.float32
    assert -1 <= pixels.min() < -0.9 < 0.9 < pixels.max() <= 1
    assert note == f"64 x 32 pixels: 4 images of {images}"
    first, _ = image_pixels(images, **{**SIZES, "most": 1})
    assert torch.equal(first, pixels[:1])
    assert (pixels[3, 0] == pixels[3, 1]).all(), "grey became RGB"
    _, note = image_pixels(images, **{**SIZES, "most": 2})
    assert note == f"64 x 32 pixels: the first 2 of 4 images of {images}"


@pytest.mark.parametrize("ending", [".mkv", ".mp4"])
def test_the_first_frames_of_a_video(tmp_path: Path, ending: str) -> None:
    path = clip(tmp_path / f"clip{ending}", frames=6)
    pixels, note = video_pixels(path, **SIZES)
    assert pixels.shape == (4, 3, 32, 48)
    assert note == f"48 x 32 pixels: the first 4 frames of {path}"
    grey = (pixels.mean(dim=(1, 2, 3)) + 1) * 127.5
    assert torch.allclose(grey, torch.tensor([0.0, 30, 60, 90]), atol=4), "in their order"
    assert video_pixels(path, **{**SIZES, "most": 100})[0].shape[0] == 6


def corrupt_images(folder: Path) -> None:
    picture(folder / "a.png", 8, 8)
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")


def bomb(folder: Path) -> None:
    path = picture(folder / "a.png", 8, 8)
    content = bytearray(path.read_bytes())
    content[16:24] = (40_000).to_bytes(4, "big") * 2
    path.write_bytes(content)


def no_images(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("no image")


def playlist(path: Path) -> None:
    clip(path.parent / "other.mkv")
    path.write_text("#EXTM3U\n#EXTINF:1,\nother.mkv\n#EXT-X-ENDLIST\n")


def cut_short(path: Path) -> None:
    path.write_bytes(clip(path.with_suffix(".mkv")).read_bytes()[:300])


@pytest.mark.parametrize(
    ("read", "make"),
    [
        *((image_pixels, make) for make in (no_images, corrupt_images, bomb, Path.touch)),
        *((video_pixels, make) for make in (playlist, cut_short, Path.touch, Path.mkdir)),
        *((read, lambda _path: None) for read in (image_pixels, video_pixels)),
    ],
)
def test_what_is_not_an_image_or_a_video_is_refused(
    tmp_path: Path, read: Callable[..., Any], make: Callable[[Path], object]
) -> None:
    make(tmp_path / "given")
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "given", **SIZES)
    assert str(tmp_path / "given") in str(caught.value)


def test_images_and_videos_become_probes(
    image: Path, videos: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"images": images, "video": clip(tmp_path / "clip.mkv")}
    sizes: dict[str, Any] = {"max_side": 32, "max_frames": 3}
    report = inflate.verify(image, videos["all"], **given, **sizes, pictures=True, **CPU)
    assert report.passed
    shapes = {probe.name: (probe.shape, probe.frames, probe.verdict) for probe in report.probes}
    assert shapes["images"] == ((3, 4, 9, 16), 3, "bitwise")
    assert shapes["video"] == ((3, 4, 10, 16), 3, "bitwise")
    assert any(f"32 x 18 pixels: the first 3 of 4 images of {images}" in n for n in report.notes)
    pixels, _ = image_pixels(images, multiple=2, side=32, most=3)
    kept = [picture for picture in report.pictures if picture.probe == "images"]
    assert [picture.frame for picture in kept] == [0, 1, 2]
    for picture_, source in zip(kept, pixels, strict=True):
        assert picture_.source is not None
        assert torch.equal(picture_.source, source)
        assert picture_.reference.shape == picture_.candidate.shape == source.shape


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_latents_are_those_of_the_own_encoder(kind: str, images: Path, tmp_path: Path) -> None:
    source = write_torch(tmp_path / "img.pt", autoencoder(kind, ch_mult=[1]))
    target = tmp_path / "video.safetensors"
    inflate.convert(source, target, **CPU)
    pixels, _ = image_pixels(images, multiple=1, side=16, most=2)
    expected = load_video_autoencoder(target).encode(pixels)
    given: dict[str, Any] = {"images": images, "max_side": 16, "max_frames": 2}
    for files in (source, target), (target,):
        out = tmp_path / f"{len(files)}"
        inflate.verify(*files, **given, save_outputs=out, **CPU)
        kept = load_file(out / "images.safetensors")
        assert torch.allclose(kept["latents"], expected, atol=1e-5)
        assert torch.equal(kept["source"], pixels)


def test_without_an_encoder_there_are_no_latents(images: Path, tmp_path: Path) -> None:
    source = write_torch(tmp_path / "bare.pt", bare_decoder(ch_mult=[1]))
    target = tmp_path / "video.safetensors"
    inflate.convert(source, target, **CPU)
    with pytest.raises(FamilyError):
        inflate.verify(source, target, images=images, **CPU)


def stored(path: Path, z: Tensor) -> Path:
    if path.suffix == ".npy":
        np.save(path, z.numpy())
    elif path.suffix == ".pt":
        torch.save(z, path)
    elif path.suffix == ".pth":
        torch.save({"samples": z, "other": torch.ones(3)}, path)
    else:
        save_file({"z": z.contiguous()}, path)
    return path


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".pth", ".npy"])
@pytest.mark.parametrize("shape", [(3, 4, 2, 5), (2, 3, 4, 2, 5)])
def test_latents(tmp_path: Path, ending: str, shape: tuple[int, ...]) -> None:
    z = torch.randn(shape).half()
    probe = read_latents(stored(tmp_path / f"z{ending}", z), 4)
    assert (probe.name, probe.batch, probe.frames) == ("latents", len(z) if z.dim() == 5 else 1, 3)
    assert (probe.height, probe.width) == (2, 5)
    assert torch.equal(probe.latents(4, 0), z.float().reshape(-1, 4, 2, 5))


@pytest.mark.parametrize(
    "z",
    [
        torch.zeros(4, 2, 5),
        torch.zeros(0, 4, 2, 5),
        torch.zeros(3, 5, 2, 5),
        torch.zeros(2, 4, 3, 2, 5),
        torch.full((3, 4, 2, 5), torch.nan),
        torch.zeros(3, 4, 2, 5).int(),
    ],
)
def test_latents_that_cannot_be_taken(tmp_path: Path, z: Tensor) -> None:
    with pytest.raises(ConfigError):
        read_latents(stored(tmp_path / "z.npy", z), 4)


def test_files_that_hold_no_latents(tmp_path: Path) -> None:
    several = tmp_path / "several.safetensors"
    save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, several)
    pickled = tmp_path / "objects.npy"
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    cut = stored(tmp_path / "cut.npy", torch.zeros(3, 4, 2, 5))
    cut.write_bytes(cut.read_bytes()[:-8])
    text = tmp_path / "text.pt"
    text.write_text("no latents here")
    for path in several, pickled, cut, text, tmp_path / "gone.pt":
        with pytest.raises(ConfigError) as caught:
            read_latents(path, 4)
        assert str(caught.value).startswith("--latents")


def test_scaled_latents_are_unscaled_by_the_known_factor(tmp_path: Path) -> None:
    source = write_torch(tmp_path / "img.pt", autoencoder(ch_mult=[1]))
    target, out = tmp_path / "video.safetensors", tmp_path / "out"
    settings = ["architecture.scaling_factor=0.5", "architecture.shift_factor=0.25"]
    inflate.convert(source, target, set_=settings, **CPU)
    z = torch.randn(2, 4, 3, 3)
    given: dict[str, Any] = {"latents": stored(tmp_path / "z.pt", z), "scaled_latents": True}
    inflate.verify(source, target, **given, save_outputs=out, **CPU)
    assert torch.equal(load_file(out / "latents.safetensors")["latents"], z / 0.5 + 0.25)

    inflate.convert(source, tmp_path / "other", **CPU)
    with pytest.raises(ConfigError, match="--scaled-latents"):
        inflate.verify(source, tmp_path / "other", **given, **CPU)


def test_both_outputs_are_kept(image: Path, videos: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    report = inflate.verify(image, videos["all"], save_outputs=out, **CPU)
    plain = tmp_path / "plain"
    plain.touch()
    assert {path.stat().st_mode for path in out.iterdir()} == {plain.stat().st_mode}
    saved = {path.stem: load_file(path) for path in out.iterdir()}
    probes = {probe.name: probe for probe in report.probes}
    assert {"single-frame", "two-videos", "odd-frames"} <= set(saved) <= set(probes)
    decoder = load_video_autoencoder(videos["all"])
    for name, tensors in saved.items():
        assert set(tensors) == {"latents", "reference", "candidate"}
        assert tensors["latents"].shape == probes[name].shape
        assert torch.equal(tensors["reference"], tensors["candidate"])
        with torch.inference_mode():
            again = decoder.decode(tensors["latents"], timesteps=probes[name].frames)
        assert torch.allclose(again, tensors["candidate"], atol=1e-5)
    with pytest.raises(OutputError):
        inflate.verify(image, videos["all"], save_outputs=out, **CPU)
    assert {path.stem for path in out.iterdir()} == saved.keys()


@pytest.mark.parametrize("options", [{"scaled_latents": True}, {"save_outputs": Path(__file__)}])
def test_options_that_mean_nothing(options: dict[str, Any]) -> None:
    # Before any file is looked for.
    with pytest.raises((ConfigError, OutputError)) as caught:
        inflate.verify("gone.ckpt", "gone.safetensors", **options, **CPU)
    assert "gone" not in str(caught.value)
