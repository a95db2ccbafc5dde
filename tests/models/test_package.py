"""What ``inflate.models`` exports."""

from __future__ import annotations

import inspect

import pytest
from torch import nn

from inflate import models


def test_the_exports_are_explicit_and_sorted() -> None:
    assert models.__all__ == sorted(set(models.__all__))


@pytest.mark.parametrize("name", models.__all__)
def test_every_export_is_there_and_documented(name: str) -> None:
    value = getattr(models, name)
    assert value.__name__ == name
    assert value.__module__.startswith("inflate.models.")
    assert inspect.getdoc(value)


def test_every_public_name_is_exported() -> None:
    defined = {
        name
        for name, value in vars(models).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert defined == set(models.__all__)


def test_the_contracts_names_are_exported() -> None:
    blocks = {"VideoResBlock", "AE3DConv", "VideoBlock", "MemoryEfficientVideoBlock"}
    for name in {"Decoder", "Encoder", "VideoDecoder"} | blocks:
        assert issubclass(getattr(models, name), nn.Module)
        assert name in models.__all__
