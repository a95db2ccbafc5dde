"""The modules on CUDA agree with the numbers of the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from inflate.models.attention import AttnBlock
from inflate.vocabulary import TIME_MODES

from .builders import (
    error,
    latents,
    noise,
    randomized,
    reference_cases,
    reference_module,
    reference_vectors,
    relative_rms,
    run_reference,
    video_decoder,
)

DEVICE = "cuda"
TOLERANCE = 1e-4
"""Absolute, in float32 without TF32: CUDA's convolutions sum in another order than the CPU's."""

CASES = {case["name"]: case for case in reference_cases()}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def _exact_float32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No TF32, and the same kernels for the same shapes."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    yield
    torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_the_originals(name: str) -> None:
    case, vectors = CASES[name], reference_vectors()
    module = reference_module(case).to(DEVICE)
    out = run_reference(case, module, vectors[f"{name}/z"].to(DEVICE))
    assert out.device.type == DEVICE
    assert error(out.cpu(), vectors[f"{name}/out"]) <= TOLERANCE


# What xformers warns of when it is imported does not concern these tests.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("time_mode", TIME_MODES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 0.01), (torch.bfloat16, 0.08)]
)
@torch.no_grad()
def test_xformers_is_vanilla(time_mode: str, dtype: torch.dtype, tolerance: float) -> None:
    vanilla = video_decoder(time_mode).to(DEVICE, dtype)
    efficient = video_decoder(time_mode, attn_type="vanilla-xformers").to(DEVICE, dtype)
    z = latents().to(DEVICE, dtype)
    out = efficient(z, timesteps=3)
    assert out.dtype == dtype
    assert relative_rms(out.cpu(), vanilla(z, timesteps=3).cpu()) < tolerance


@torch.no_grad()
def test_an_attention_block_does_not_hold_every_score() -> None:
    block = randomized(AttnBlock(512)).to(DEVICE)
    x = noise(2, 512, 96, 96).to(DEVICE)
    scores = 2 * (96 * 96) ** 2 * x.element_size()  # bytes; eighteen times those of x
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    assert block(x).isfinite().all()
    assert torch.cuda.max_memory_allocated() - before < scores
