"""The lists of an architecture's tensors, held equal to what the modules have."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from inflate.checkpoint.shapes import image_shapes

from ..checkpoints import CODES, KINDS, autoencoder_shapes
from .opening import architecture_of
from .test_architecture import configurations


def listed(kind: str, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of all parts of what the modules of a configuration show."""
    parts = image_shapes(architecture_of(autoencoder_shapes(kind, **config)))
    assert all(key.startswith(part) for part, shapes in parts.items() for key in shapes)
    return {key: shape for shapes in parts.values() for key, shape in shapes.items()}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(configurations(), st.sampled_from(KINDS))
def test_they_are_those_of_the_modules(config: dict[str, Any], kind: str) -> None:
    assert listed(kind, config) == autoencoder_shapes(kind, **config)


def test_a_codebook_without_quant_convs_is_as_wide_as_the_latent() -> None:
    shapes = {**autoencoder_shapes("plain", double_z=False), "quantize.embedding.weight": (9, 4)}
    assert image_shapes(architecture_of(shapes))["quantize."] == {
        "quantize.embedding.weight": (9, 4)
    }
    assert CODES != 9
