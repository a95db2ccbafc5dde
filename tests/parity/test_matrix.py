"""Every start of the temporal layers equals the image decoder, bit for bit."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import inflate

from ..checkpoints import (
    ATTENTION_IN_UP,
    CODES,
    DDCONFIG,
    NO_ATTENTION,
    autoencoder,
    write_lightning,
    write_torch,
)
from ..conversions import CPU, image_decode
from ..models.builders import noise

MODES = ("all", "conv-only", "attn-only")
MATRIX: list[tuple[str, str, float, int | tuple[int, ...]]] = [
    *product(MODES, ("learned", "fixed"), (0, 0.3, 1), (3,)),
    ("all", "learned", 0.25, (3, 1, 1)),
    ("all", "fixed", 0.25, (5, 3, 3)),
    ("conv-only", "fixed", 0.25, (3, 1, 1)),
    ("conv-only", "learned", 0.25, (5, 3, 3)),
]


@pytest.fixture(scope="module")
def rich_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with attention inside ``up`` too."""
    folder = tmp_path_factory.mktemp("rich")
    return write_lightning(folder / "rich.ckpt", autoencoder(**ATTENTION_IN_UP))


@pytest.mark.parametrize(("mode", "merge", "alpha", "kernel"), MATRIX)
def test_every_start_is_bitwise_the_image_decoder(
    rich_image: Path,
    tmp_path: Path,
    mode: str,
    merge: str,
    alpha: float,
    kernel: int | tuple[int, ...],
) -> None:
    path = tmp_path / "video.safetensors"
    result = inflate.convert(
        rich_image,
        path,
        time_mode=mode,
        merge_strategy=merge,
        alpha=alpha,
        video_kernel_size=kernel,
        **CPU,
    )
    report = result.parity
    assert report is not None
    assert (report.verdict, report.max_abs_error) == ("bitwise", 0.0)
    assert {probe.verdict for probe in report.probes} == {"bitwise"}
    assert report.weights.different == ()

    check_stored(path, mode, merge, alpha, kernel)

    # Once more without the package's own check: a decoder filled by hand on the one side.
    z = noise(6, DDCONFIG["z_channels"], 3, 4)
    expected = image_decode(autoencoder(**ATTENTION_IN_UP), z, **ATTENTION_IN_UP)
    whole = inflate.load_video_autoencoder(path)
    with torch.inference_mode():
        assert torch.equal(whole.decode(z, timesteps=3), expected)


def check_stored(
    path: Path, mode: str, merge: str, alpha: float, kernel: int | tuple[int, ...]
) -> None:
    """The file holds the parts of its mode, with its kernel, and both meanings of mix_factor."""
    weights = load_file(path)
    convolves = {k for k in weights if "time_stack" in k or "time_mix_conv" in k}
    attends = {k for k in weights if "time_mix_block" in k or "video_time_embed" in k}
    assert bool(convolves) == (mode != "attn-only")
    assert bool(attends) == (mode != "conv-only")
    sizes = (kernel,) * 3 if isinstance(kernel, int) else kernel
    assert {tuple(weights[k].shape[2:]) for k in convolves if weights[k].dim() == 5} <= {sizes}

    residual = {k.split(".time_stack.")[0] for k in convolves if "time_stack" in k}
    attention = {k.split(".time_mix_block.")[0] for k in attends if "time_mix_block" in k}
    mixed = {k.removesuffix(".mix_factor") for k in weights if k.endswith(".mix_factor")}
    assert mixed == residual | attention
    spatial_share = 1 - alpha if merge == "fixed" else -alpha
    for block in mixed:
        stored = weights[f"{block}.mix_factor"]
        meant = alpha if block in residual else spatial_share
        assert torch.equal(stored, torch.tensor([meant], dtype=torch.float32))
        assert meant or math.copysign(1, stored.item()) == 1, "a zero in the file has no sign"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["vq", "plain"])
def test_every_kind_of_autoencoder_is_bitwise(tmp_path: Path, kind: str, mode: str) -> None:
    source = write_torch(tmp_path / "image.pt", autoencoder(kind))
    result = inflate.convert(source, time_mode=mode, alpha=0.3, **CPU)
    assert result.parity is not None
    assert result.parity.verdict == "bitwise"
    weights = load_file(tmp_path / "image.video.safetensors")
    assert ("post_quant_conv.weight" in weights) == (kind == "vq")
    if kind == "vq":
        assert weights["quantize.embedding.weight"].shape[0] == CODES


@pytest.mark.parametrize("mode", ["all", "conv-only"])
def test_without_attention_too(tmp_path: Path, mode: str) -> None:
    source = write_torch(tmp_path / "image.pt", autoencoder(**NO_ATTENTION))
    result = inflate.convert(source, time_mode=mode, alpha=0.3, **CPU)
    assert result.parity is not None
    assert result.parity.verdict == "bitwise"
