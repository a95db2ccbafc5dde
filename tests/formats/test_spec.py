"""The tensors that a configuration lists, held equal to those of the modules."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from inflate.config.presets import load_presets
from inflate.config.schema import Temporal
from inflate.formats.spec import TensorSpec, decoder_spec, image_shapes
from inflate.models import Decoder, Encoder, VideoDecoder
from inflate.vocabulary import ATTN_TYPES, MERGE_STRATEGIES, TIME_MODES
from tests.io.opening import architecture_of, architecture_of_preset

from ..checkpoints import FIRST_STAGE, KINDS, autoencoder_shapes
from ..models.builders import shapes_of
from .test_architecture import configurations

KERNELS: tuple[Any, ...] = (3, (3, 1, 1), (5, 3, 3))


def listed(spec: tuple[TensorSpec, ...]) -> list[tuple[str, tuple[int, ...]]]:
    return [(tensor.key, tensor.shape) for tensor in spec]


def held(module: nn.Module, prefix: str) -> list[tuple[str, tuple[int, ...]]]:
    """Keys and shapes of a module, in order."""
    return [(prefix + key, shape) for key, shape in shapes_of(module).items()]


QUICK = [("all", "learned", 3), ("conv-only", "fixed", (3, 1, 1)), ("attn-only", "learned", 3)]
EVERY = list(product(TIME_MODES, MERGE_STRATEGIES, KERNELS))


@pytest.mark.parametrize(
    ("attn_type", "temporal"),
    [("vanilla", QUICK), *(pytest.param(kind, EVERY, marks=pytest.mark.slow)
                           for kind in ATTN_TYPES)],
    ids=["quick", *ATTN_TYPES],
)  # fmt: skip
@pytest.mark.parametrize("preset", load_presets())
def test_every_preset_lists_the_tensors_of_its_modules_in_order(
    preset: str, attn_type: Any, temporal: list[Any]
) -> None:
    a = replace(architecture_of_preset(preset), attn_type=attn_type)
    arguments = a.module_arguments()
    with torch.device("meta"):
        image, encoder = Decoder(**arguments), Encoder(**arguments)
    assert listed(decoder_spec(a)) == held(image, "decoder.")
    assert list(image_shapes(a)["encoder."].items()) == held(encoder, "encoder.")
    own = {key for key, _ in held(image, "decoder.")}
    for mode, merge, kernel in temporal:
        layers = Temporal(mode, merge, 0.25, kernel)
        with torch.device("meta"):
            video = VideoDecoder(**arguments, **layers.module_arguments())
        spec = decoder_spec(a, layers)
        assert listed(spec) == held(video, "decoder.")
        assert all((tensor.part is None) == (tensor.key in own) for tensor in spec)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(configurations(), st.sampled_from(KINDS), st.sampled_from(["", FIRST_STAGE]))
def test_any_architecture_is_recovered_and_lists_the_tensors_of_its_modules(
    config: dict[str, Any], kind: str, prefix: str
) -> None:
    expected = autoencoder_shapes(kind, **config)
    seen = architecture_of({prefix + key: shape for key, shape in expected.items()})
    assert (seen.ch, list(seen.ch_mult)) == (config["ch"], config["ch_mult"])
    assert seen.problems() == []
    parts = image_shapes(seen)
    assert all(key.startswith(part) for part, shapes in parts.items() for key in shapes)
    assert {key: shape for shapes in parts.values() for key, shape in shapes.items()} == expected
