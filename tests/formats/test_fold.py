"""``--post-quant fold``: what it changes, how that is measured and shown, and who must allow it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import conv2d

import inflate
from inflate.errors import PlanError
from inflate.parity.probes import FOLD_PROBE
from inflate.parity.result import FoldResult
from inflate.workflow import convert, inspect, verify
from tests.io.opening import assert_same

from ..checkpoints import FIRST_STAGE, autoencoder, under, write_safetensors
from ..conversions import CPU, converted, image_decode
from ..models.builders import error, noise

FOLD: dict[str, Any] = {**CPU, "post_quant": "fold"}
ALLOWED: dict[str, Any] = {**FOLD, "allow_inexact": True}
NOTHING = 2e-6
"""The rounding of one convolution."""


def source(folder: Path, weights: dict[str, Tensor]) -> Path:
    return write_safetensors(folder / "img.safetensors", weights)


def unbiased(kind: str = "kl", **changes: Any) -> dict[str, Tensor]:
    """An autoencoder whose ``post_quant_conv`` has the bias 0."""
    weights = autoencoder(kind, ch_mult=[1], **changes)
    weights["post_quant_conv.bias"].zero_()
    return weights


def folded_by_hand(weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight and bias of ``conv_in`` after ``post_quant_conv``, found by asking it for impulses."""
    weight, bias = weights["post_quant_conv.weight"], weights["post_quant_conv.bias"]
    conv_in, own = weights["decoder.conv_in.weight"], weights["decoder.conv_in.bias"]
    latents = weight.shape[1]
    # An impulse in the middle of 5 by 5 gives the kernel back, flipped.
    impulses = torch.zeros(latents, latents, 5, 5)
    impulses[range(latents), range(latents), 2, 2] = 1
    answers = conv2d(conv2d(impulses, weight), conv_in, padding=1)[:, :, 1:4, 1:4]
    constant = conv2d(bias.view(1, -1, 1, 1).expand(1, -1, 5, 5), conv_in, own, padding=1)
    return answers.flip(-1, -2).transpose(0, 1), constant[0, :, 2, 2]


def conv_in_both_ways(weights: dict[str, Tensor], seed: int) -> tuple[float, float]:
    """Largest differences on the border and inside, by the definition."""
    weight, bias = folded_by_hand(weights)
    z = FOLD_PROBE.latents(weights["post_quant_conv.weight"].shape[1], seed)
    before = conv2d(z, weights["post_quant_conv.weight"], weights["post_quant_conv.bias"])
    first = conv2d(before, weights["decoder.conv_in.weight"], weights["decoder.conv_in.bias"],
                   padding=1)  # fmt: skip
    difference = (conv2d(z, weight, bias, padding=1) - first).abs()
    inside = float(difference[..., 1:-1, 1:-1].max())
    difference[..., 1:-1, 1:-1] = 0
    return float(difference.max()), inside


def measured(result: Any) -> FoldResult:
    assert result.parity is not None
    assert result.parity.fold is not None
    found: FoldResult = result.parity.fold
    return found


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_it_is_folded_and_everything_else_is_kept(kind: str, tmp_path: Path) -> None:
    weights = autoencoder(kind, ch_mult=[1])
    converted(source(tmp_path, weights), tmp_path / "out", **ALLOWED)
    written = load_file(tmp_path / "out")
    assert not under(written, "post_quant_conv.")
    weight, bias = folded_by_hand(weights)
    assert error(written["decoder.conv_in.weight"], weight) < NOTHING
    assert error(written["decoder.conv_in.bias"], bias) < NOTHING
    assert not under(written, "quant_conv.")
    folded = ("quant_conv", "post_quant", "decoder.conv_in", "encoder.conv_out")
    rest = {k: v for k, v in weights.items() if not k.startswith(folded)}
    assert_same({key: written[key] for key in rest}, rest)


def test_a_bias_is_refused_unless_allowed_and_what_it_changes_is_measured(tmp_path: Path) -> None:
    weights = autoencoder(ch_mult=[1])
    path = source(tmp_path, weights)
    border, inside = conv_in_both_ways(weights, seed=5)
    assert border > 0.05
    with pytest.raises(PlanError, match="--allow-inexact") as caught:
        convert(path, tmp_path / "out", seed=5, **FOLD)
    assert f"{border:.3g}" in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]
    fold = measured(convert(path, tmp_path / "out", seed=5, **ALLOWED))
    assert fold.border == pytest.approx(border, abs=NOTHING)
    assert fold.inside is not None
    assert max(fold.inside, inside) < NOTHING
    # The images differ as much as those of both decoders do.
    ours = inflate.load_video_autoencoder(tmp_path / "out")
    z = FOLD_PROBE.latents(4, 5)
    with torch.inference_mode():
        images = ours.decode(z, timesteps=FOLD_PROBE.frames)
    difference = error(images, image_decode(weights, z, ch_mult=[1]))
    assert fold.output == pytest.approx(difference, rel=1e-4)


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_another_number_of_channels_is_folded_for_a_bare_decoder_alone(
    kind: str, tmp_path: Path
) -> None:
    weights = unbiased(kind, embed_dim=3)
    path = source(tmp_path, weights)
    for layout in ("autoencoder", "sgm"):
        with pytest.raises(PlanError, match="Fold it for --layout decoder only"):
            convert(path, tmp_path / "out", layout=layout, **FOLD)
    # With the bias 0 nothing else changes, and nothing has to be allowed.
    result = converted(path, tmp_path / "out", layout="decoder", **FOLD)
    assert measured(result).border == pytest.approx(0, abs=NOTHING)
    left = {d.info.name for d in result.plan.dropped}
    assert left == {k for k in weights if not k.startswith(("decoder.", "post_quant_conv."))}
    decoder = inflate.load_video_decoder(tmp_path / "out")
    assert decoder.conv_in.in_channels == 3
    z = noise(2, 3, 5, 6)
    with torch.inference_mode():
        assert error(decoder(z, timesteps=2), image_decode(weights, z, ch_mult=[1])) < 1e-5
    assert verify(path, tmp_path / "out", **CPU).verdict == "bitwise"


@pytest.mark.parametrize(
    ("key", "shape"),
    [("post_quant_conv.weight", (4,)), ("post_quant_conv.weight", (4, 4, 3, 3)),
     ("post_quant_conv.bias", (3,)), ("encoder.conv_out.bias", (8, 1))],
)  # fmt: skip
def test_convolutions_of_other_shapes_are_not_folded(
    key: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    path = source(tmp_path, {**unbiased(), key: torch.zeros(shape)})
    with pytest.raises(PlanError):
        convert(path, tmp_path / "out", layout="sgm", skip_parity=True, **FOLD)
    assert inspect(path).obstacles


def test_for_sgm_quant_conv_is_folded_into_the_encoder(tmp_path: Path) -> None:
    weights = autoencoder(ch_mult=[1])
    path = source(tmp_path, weights)
    convert(path, tmp_path / "sgm", layout="sgm", **ALLOWED)
    written = load_file(tmp_path / "sgm")
    assert {name.split(".")[1] for name in written} == {"encoder", "decoder"}
    convert(path, tmp_path / "kept", skip_parity=True, **CPU)
    images = noise(2, 3, 16, 24)
    with torch.inference_mode():
        theirs = inflate.load_video_autoencoder(tmp_path / "kept").encode(images)
        ours = inflate.load_video_autoencoder(tmp_path / "sgm").encode(images)
    assert error(ours, theirs) < 1e-5
    changed = {"encoder.conv_out.weight", "encoder.conv_out.bias"}
    rest = {k: v for k, v in weights.items() if k.startswith("encoder.") and k not in changed}
    assert_same({key: written[FIRST_STAGE + key] for key in rest}, rest)
