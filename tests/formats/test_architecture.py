"""The architecture and the temporal layers, read off names and shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from inflate import convert
from inflate.config.schema import Temporal
from inflate.errors import InflateError, PlanError
from inflate.models import Decoder, VideoDecoder
from tests.io.opening import architecture_of, temporal_of

from ..checkpoints import DDCONFIG, autoencoder_shapes, prefixed, write_torch
from ..models.builders import shapes_of


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Configurations of the family, ``resolution`` 256 as tensors cannot show another."""
    levels = draw(st.integers(1, 5))
    few, more = st.integers(1, 4), st.integers(1, 16)
    return {
        "ch": 32 * draw(st.integers(1, 3)),
        "ch_mult": [1, *(draw(few) for _ in range(levels - 1))],
        "num_res_blocks": draw(st.integers(1, 3)),
        "z_channels": draw(more),
        "in_channels": draw(few),
        "out_ch": draw(few),
        "resolution": 256,
        "attn_resolutions": [256 >> i for i in range(levels) if draw(st.booleans())],
        "attn_type": draw(st.sampled_from(["vanilla", "none"])),
        "resamp_with_conv": draw(st.booleans()) or levels == 1,
        "embed_dim": draw(more),
    }


@pytest.mark.parametrize(
    ("ch_mult", "ch", "seen_mult"),
    [([2, 4], 64, (1, 2)), ([3, 2], 32, (3, 2)), ([2, 3], 32, (2, 3))],
)
def test_without_an_encoder_ch_is_the_most_that_fits_the_levels(
    ch_mult: list[int], ch: int, seen_mult: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        decoder = Decoder(**{**DDCONFIG, "ch_mult": ch_mult})
    seen = architecture_of(prefixed(shapes_of(decoder), "decoder."))
    assert (seen.ch, seen.ch_mult) == (ch, seen_mult)
    assert seen.level_channels == tuple(32 * mult for mult in ch_mult)
    assert seen.in_channels == seen.out_ch == 3


def test_more_levels_than_the_usual_resolution_has() -> None:
    seen = architecture_of(
        autoencoder_shapes(ch_mult=[1] * 10, resolution=512, attn_resolutions=[1])
    )
    assert seen.problems() == []
    assert seen.attention_levels == (9,)


LEVEL = "up.1.block.0.conv1.weight"


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *(("conv_in.weight", shape) for shape in (None, (), (64,), (64, 4, 3, 3, 3))),
        *(("conv_out.weight", shape) for shape in (None, (64, 64))),
        *((LEVEL, shape) for shape in (None, (), (0, 64, 3, 3))),
        ("up.5.block.0.conv1.weight", (64, 64, 3, 3)),
    ],
)
def test_a_decoder_with_such_a_tensor_fits_none(name: str, shape: tuple[int, ...] | None) -> None:
    shapes: dict[str, Any] = {**autoencoder_shapes(), f"decoder.{name}": shape}
    with pytest.raises(PlanError) as caught:
        architecture_of({key: shape for key, shape in shapes.items() if shape is not None})
    assert any(f"decoder.{name.split('.')[0]}" in problem for problem in caught.value.problems)


@pytest.mark.parametrize("digits", [20, 5000])
@pytest.mark.parametrize(
    ("mark", "name"),
    [("mid.block_1", "up.{}.block.0.conv1"), ("mid.block_1", "up.0.attn.{}.q"),
     ("mid_block.resnets.0", "up_blocks.{}.resnets.0.conv1")],
)  # fmt: skip
def test_a_level_of_absurd_number_is_refused(
    mark: str, name: str, digits: int, tmp_path: Path
) -> None:
    names = (f"{mark}.conv1", name.format("9" * digits))
    weights = {f"decoder.{each}.weight": torch.ones(32, 32, 3, 3) for each in names}
    with pytest.raises(InflateError):
        convert(write_torch(tmp_path / "a", weights), dry_run=True)


@pytest.mark.parametrize(
    "temporal",
    [
        Temporal("attn-only"),
        *(Temporal("all", video_kernel_size=kernel) for kernel in (1, 3, (1, 3, 3))),
        *(Temporal("conv-only", video_kernel_size=kernel) for kernel in (5, (3, 1, 1), (5, 3, 1))),
    ],
)
def test_temporal_layers_are_recovered_and_hide_no_architecture(temporal: Temporal) -> None:
    image = autoencoder_shapes(attn_resolutions=[128], resolution=256)
    kernel = temporal.video_kernel_size
    config: dict[str, Any] = {**DDCONFIG, "attn_resolutions": [16]}
    with torch.device("meta"):
        decoder = VideoDecoder(**config, time_mode=temporal.time_mode, video_kernel_size=kernel)
    video = {**image, **prefixed(shapes_of(decoder), "decoder.")}
    assert temporal_of(video) == temporal
    assert architecture_of(video) == architecture_of(image)
