"""The architecture and the temporal layers, read off names and shapes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inflate.config.schema import Temporal
from inflate.errors import InflateError, PlanError
from inflate.models import Decoder, VideoDecoder
from inflate.workflow import convert
from tests.io.opening import Shapes, architecture_of, temporal_of

from ..checkpoints import (
    CODES,
    DDCONFIG,
    FIRST_STAGE,
    KINDS,
    autoencoder_shapes,
    write_safetensors,
    write_torch,
)
from ..models.builders import shapes_of


def under(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    return {prefix + name: shape for name, shape in shapes.items()}


def video_shapes(**arguments: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return under(shapes_of(VideoDecoder(**{**DDCONFIG, **arguments})), "decoder.")


# Image autoencoders


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Configurations of the family, ``resolution`` 256 as tensors cannot show another."""
    levels = draw(st.integers(1, 5))
    return {
        "ch": 32 * draw(st.integers(1, 3)),
        "ch_mult": [
            1,
            *draw(st.lists(st.integers(1, 4), min_size=levels - 1, max_size=levels - 1)),
        ],
        "num_res_blocks": draw(st.integers(1, 3)),
        "z_channels": draw(st.integers(1, 16)),
        "in_channels": draw(st.integers(1, 4)),
        "out_ch": draw(st.integers(1, 4)),
        "resolution": 256,
        "attn_resolutions": draw(
            st.lists(st.sampled_from([256 >> i for i in range(levels)]), unique=True)
        ),
        "attn_type": draw(st.sampled_from(["vanilla", "none"])),
        "resamp_with_conv": draw(st.booleans()) or levels == 1,
        "embed_dim": draw(st.integers(1, 16)),
    }


@settings(max_examples=25, deadline=None, derandomize=True)
@given(configurations(), st.sampled_from(KINDS), st.sampled_from(["", FIRST_STAGE]))
def test_any_architecture_is_recovered(config: dict[str, Any], kind: str, prefix: str) -> None:
    seen = architecture_of(under(autoencoder_shapes(kind, **config), prefix))
    expected = {
        **config,
        "ch_mult": tuple(config["ch_mult"]),
        "attn_resolutions": tuple(sorted(config["attn_resolutions"], reverse=True)),
        "double_z": kind != "vq",
        "embed_dim": None if kind == "plain" else config["embed_dim"],
        "n_embed": CODES if kind == "vq" else None,
    }
    if config["attn_type"] == "none":
        expected["attn_resolutions"] = ()
    assert {key: asdict(seen)[key] for key in expected} == expected
    assert seen.problems() == []


@pytest.mark.parametrize(
    ("ch_mult", "ch", "seen_mult"),
    [([2, 4], 64, (1, 2)), ([3, 2], 32, (3, 2)), ([2, 3], 32, (2, 3))],
)
def test_without_an_encoder_ch_is_the_most_that_fits_the_levels(
    ch_mult: list[int], ch: int, seen_mult: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        decoder = Decoder(**{**DDCONFIG, "ch_mult": ch_mult})
    seen = architecture_of(under(shapes_of(decoder), "decoder."))
    assert (seen.ch, seen.ch_mult) == (ch, seen_mult)
    assert seen.level_channels == tuple(32 * mult for mult in ch_mult)
    assert seen.in_channels == seen.out_ch == 3


def test_more_levels_than_the_usual_resolution_has() -> None:
    seen = architecture_of(
        autoencoder_shapes(ch_mult=[1] * 10, resolution=512, attn_resolutions=[1])
    )
    assert seen.problems() == []
    assert seen.attention_levels == (9,)


# What fits no architecture


def damaged(**changes: Any) -> str:
    """What is said of an autoencoder with other shapes of its decoder; None leaves a tensor out."""
    shapes: dict[str, Any] = autoencoder_shapes()
    for name, shape in changes.items():
        shapes[f"decoder.{name}"] = shape
    with pytest.raises(PlanError) as caught:
        architecture_of({name: shape for name, shape in shapes.items() if shape is not None})
    said = "img.ckpt: its tensors fit no architecture of this family:\n"
    assert str(caught.value).startswith(said)
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize("writer", [write_torch, write_safetensors])
@pytest.mark.parametrize(
    "name", ["decoder.up.{}.block.0.conv1.weight", "decoder.up_blocks.{}.resnets.0.conv1.weight",
             "decoder.up.0.attn.{}.q.weight"],
)  # fmt: skip
@pytest.mark.parametrize("digits", [20, 900, 5000])
def test_a_level_of_absurd_number_is_told(
    writer: Any, name: str, digits: int, tmp_path: Path
) -> None:
    mark = "mid_block.resnets.0" if "up_blocks" in name else "mid.block_1"
    names = (f"decoder.{mark}.conv1.weight", name.format("9" * digits))
    path = writer(tmp_path / "a", {n: torch.ones(32, 32, 3, 3) for n in names})
    with pytest.raises(InflateError) as caught:
        convert(path, device="cpu")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["conv_in.weight", "conv_out.weight"])
@pytest.mark.parametrize("shape", [(), (64,), (64, 64), (64, 4, 3, 3, 3)])
def test_a_convolution_of_other_dimensions_is_told(name: str, shape: tuple[int, ...]) -> None:
    assert damaged(**{name: shape}) == (
        f"decoder.{name} has the shape {list(shape)}; expected four dimensions"
    )


@pytest.mark.parametrize("name", ["conv_in.weight", "conv_out.weight"])
def test_a_tensor_without_which_nothing_can_be_said_is_told(name: str) -> None:
    assert damaged(**{name: None}) == f"decoder.{name} is missing"


@pytest.mark.parametrize("shape", [None, (), (0, 64, 3, 3)])
def test_a_level_that_shows_no_channels_is_told(shape: tuple[int, ...] | None) -> None:
    name = "up.1.block.0.conv1.weight"
    assert damaged(**{name: shape}) == f"decoder.{name} is missing or empty"


def test_levels_with_a_gap_are_told() -> None:
    assert "the levels decoder.up.N are [0, 1, 5]; expected 0, 1, 2 and so on" in damaged(
        **{"up.5.block.0.conv1.weight": (64, 64, 3, 3)}
    )


# Video decoders


@pytest.mark.parametrize("attn_resolutions", [[], [16]])
@pytest.mark.parametrize("kernel", [1, 3, 5, (3, 1, 1), (1, 3, 3), (5, 3, 1)])
@pytest.mark.parametrize("time_mode", ["all", "conv-only"])
def test_temporal_convolutions_are_recovered(
    time_mode: Any, kernel: Any, attn_resolutions: list[int]
) -> None:
    shapes = video_shapes(
        time_mode=time_mode, video_kernel_size=kernel, attn_resolutions=attn_resolutions
    )
    assert temporal_of(shapes) == Temporal(time_mode=time_mode, video_kernel_size=kernel)


def test_temporal_attention_alone_is_recovered() -> None:
    assert temporal_of(video_shapes(time_mode="attn-only")) == Temporal(time_mode="attn-only")


@pytest.mark.parametrize("time_mode", ["all", "conv-only", "attn-only"])
def test_temporal_layers_do_not_hide_the_architecture(time_mode: str) -> None:
    shapes = autoencoder_shapes(attn_resolutions=[128], resolution=256)
    video = {**shapes, **video_shapes(time_mode=time_mode, attn_resolutions=[16])}
    assert architecture_of(video) == architecture_of(shapes)
