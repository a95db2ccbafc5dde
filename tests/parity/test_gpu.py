"""The same check on CUDA, where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import inflate

from ..conversions import nudged

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize(("time_mode", "device"), [("all", "cuda"), ("conv-only", "auto")])
def test_conversions_are_checked(image: Path, tmp_path: Path, time_mode: str, device: str) -> None:
    output = tmp_path / "video.safetensors"
    report = inflate.convert(image, output, time_mode=time_mode, alpha=0.3, device=device).parity
    assert report is not None
    assert report.passed
    assert report.environment.device.startswith("cuda:0 (")
    assert not report.environment.tf32


def test_tf32_is_off_even_where_it_was_asked_for(image: Path, videos: dict[str, Path]) -> None:
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        report = inflate.verify(image, videos["all"], device="cuda")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(precision)
    assert report.passed
    assert not report.environment.tf32


@pytest.mark.parametrize("time_mode", ["all", "conv-only", "attn-only"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_type(image: Path, videos: dict[str, Path], time_mode: str, dtype: str) -> None:
    report = inflate.verify(image, videos[time_mode], dtype=dtype, device="cuda")
    assert report.passed
    assert report.environment.dtype == dtype


@pytest.mark.parametrize(
    "key", ["decoder.conv_out.time_mix_conv.weight", "decoder.mid.attn_1.video_time_embed.2.bias"]
)
def test_damage_fails(image: Path, videos: dict[str, Path], tmp_path: Path, key: str) -> None:
    candidate = nudged(videos["all"], tmp_path / "nudged.safetensors", key)
    assert not inflate.verify(image, candidate, device="cuda").passed
