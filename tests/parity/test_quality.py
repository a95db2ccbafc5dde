"""Quality against real frames: known numbers, what is left out and why, and whole checks."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import inflate
from inflate.parity.metrics import ProbeRun, judge
from inflate.parity.probes import Probe
from inflate.parity.quality import measure_quality
from inflate.parity.result import FrameNumbers, Tolerance

from ..checkpoints import autoencoder, write_safetensors
from ..conversions import CPU
from ..media import clip, picture

pytest.importorskip("torchmetrics")

REAL = torch.rand(4, 3, 40, 48, generator=torch.Generator().manual_seed(0)) - 0.5
SIGNS = torch.tensor([1.0, -1, 1, -1])[:, None, None, None]


def run_of(decoded: Tensor, real: Tensor = REAL) -> ProbeRun:
    """A probe of real frames; the image decoder is perfect."""
    z = real[..., ::8, ::8]
    images = (real[:, : decoded.shape[1]], decoded)
    return judge(Probe.of("video", z, len(z), real), z, images, Tolerance(0, 0))


def numbers(decoded: Tensor, real: Tensor = REAL) -> dict[str, FrameNumbers]:
    """The measures of decoded frames."""
    found, notes = measure_quality([run_of(decoded, real)])
    assert found is not None
    assert notes == ()
    return {measure.name: measure.candidate for measure in found[0].measures}


@pytest.mark.parametrize(
    ("decoded", "psnr", "flicker"),
    [
        (REAL, None, 0.0),
        (REAL + 0.1, 26.0206, 0.0),  # 255 / (0.1 * 127.5) = 20
        (REAL + 0.1 * SIGNS, 26.0206, 25.5),
    ],
)
def test_known_numbers(decoded: Tensor, psnr: float | None, flicker: float) -> None:
    found = numbers(decoded)
    near = pytest.approx(psnr, abs=1e-3)
    assert found["psnr"] == FrameNumbers(near, (near,) * 4)
    near = pytest.approx(flicker, abs=1e-3)
    assert found["flicker"] == FrameNumbers(near, (None, *(near,) * 3))
    assert found["ssim"].mean is not None
    assert (found["ssim"].mean > 1 - 1e-5) == (psnr is None)


def test_values_are_clamped() -> None:
    assert numbers(REAL.sign() * 7, REAL.sign())["psnr"].mean is None


def test_errors_that_move_with_the_picture_are_not_warped_flicker() -> None:
    pytest.importorskip("cv2")
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    moving = torch.stack([torch.sin((x - 3 * t) / 5) + torch.cos(y / 4) for t in range(3)])
    real = (moving / 4)[:, None].expand(3, 3, 64, 64)
    found = numbers(real * 1.5, real)
    flicker, warped = found["flicker"].mean, found["warped_flicker"].mean
    assert flicker is not None
    assert warped is not None
    assert warped < flicker / 2


def test_what_needs_more_frames_or_pixels_is_left_out() -> None:
    assert "flicker" not in numbers(REAL[:1], REAL[:1])
    assert set(numbers(REAL[..., :8], REAL[..., :8])) == {"psnr", "flicker"}


@pytest.mark.parametrize("decoded", [REAL * torch.nan, REAL[:, :1]])
def test_what_cannot_be_measured_is_a_note(decoded: Tensor) -> None:
    found, notes = measure_quality([run_of(decoded)])
    assert found is None
    assert len(notes) == 1


def test_lpips_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def network(**_options: Any) -> Any:
        return SimpleNamespace(to=lambda _device: lambda x, y: (x - y).abs().amax())

    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=network))
    assert numbers(REAL + 0.25)["lpips"].mean == pytest.approx(0.25, abs=1e-5)

    def offline(**_options: Any) -> Any:
        raise OSError("no network")

    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=offline))
    found, notes = measure_quality([run_of(REAL)])
    assert found is not None
    assert "no network" in notes[0]


def test_without_the_extra_one_note_names_it(
    image: Path, videos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    video = clip(tmp_path / "clip.mkv")
    report = inflate.verify(image, videos["all"], video=video, max_side=16, **CPU)
    assert (report.verdict, report.quality) == ("bitwise", None)
    assert sum(".[quality]" in note for note in report.notes) == 1
    z = tmp_path / "z.pt"
    torch.save(torch.randn(2, 4, 3, 5), z)
    report = inflate.verify(image, videos["all"], latents=z, **CPU)
    assert report.quality is None
    assert not any("quality" in note for note in report.notes), "no real frames"


def test_a_fresh_video_decoder_has_the_numbers_of_its_image_decoder(
    image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    picture(tmp_path / "images" / "a.png", 16, 16)
    given = {"images": tmp_path / "images", "video": clip(tmp_path / "clip.mkv"), "max_side": 16}
    quality = inflate.verify(image, videos["all"], **given, **CPU).quality
    assert quality is not None
    assert [probe.probe for probe in quality] == ["images", "video"]
    for probe in quality:
        assert all(measure.candidate == measure.reference for measure in probe.measures)


def test_a_trained_one_is_measured_with_its_temporal_layers(tmp_path: Path) -> None:
    image = write_safetensors(tmp_path / "img.safetensors", autoencoder(ch_mult=[1]))
    inflate.convert(image, tmp_path / "video.safetensors", skip_parity=True, **CPU)
    whole = inflate.load_video_autoencoder(tmp_path / "video.safetensors")
    with torch.no_grad():
        for parameter in whole.temporal_parameters():
            parameter.add_(0.01)
    trained = inflate.save_video_autoencoder(whole, tmp_path / "trained.safetensors")
    given = {"video": clip(tmp_path / "clip.mkv"), "max_side": 16}
    for options, verdict in ({"trained": True}, "bitwise"), ({}, "fail"):
        report = inflate.verify(image, trained, **given, **options, **CPU)
        assert report.verdict == verdict
        assert report.quality is not None
        psnr = report.quality[0].measures[0]
        assert psnr.candidate.mean != psnr.reference.mean
