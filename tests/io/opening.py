"""How the tests come from weights and shapes to what is found in them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from torch import Tensor

from inflate.config.loading import build_config, read_config
from inflate.config.presets import load_presets
from inflate.config.schema import Architecture, Temporal
from inflate.errors import CheckpointError
from inflate.formats.architecture import infer_architecture, infer_temporal
from inflate.formats.locate import Located, locate
from inflate.formats.source import Source, describe
from inflate.io.index import TensorInfo
from inflate.io.reader import Checkpoint, open_checkpoint
from inflate.io.torch_writer import open_writer
from inflate.io.writer import Container, TensorWriter
from inflate.loading import as_tensor

Shapes = Mapping[str, tuple[int, ...]]


def located(shapes: Shapes) -> Located:
    """The autoencoder among tensors of these names and shapes."""
    index = {
        name: TensorInfo(name, shape, "float32", 4 * math.prod(shape))
        for name, shape in shapes.items()
    }
    return locate(index, "img.ckpt")


def architecture_of(shapes: Shapes) -> Architecture:
    """What names and shapes say of their autoencoder."""
    return infer_architecture(_by_key(shapes), "img.ckpt")


def architecture_of_preset(preset: str) -> Architecture:
    """The architecture of a preset, over one that disagrees with nothing."""
    known = load_presets()[preset].content["architecture"]
    fields = Architecture.__dataclass_fields__
    seen = Architecture(**{k: tuple(v) if isinstance(v, list) else v for k, v in known.items()
                           if k in fields})  # fmt: skip
    return build_config(seen, read_config(preset)).architecture


def temporal_of(shapes: Shapes) -> Temporal:
    """What names and shapes say of their temporal layers."""
    return infer_temporal(_by_key(shapes))


def _by_key(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    return {key: info.shape for key, info in located(shapes).tensors.items()}


@contextmanager
def opened(weights: Mapping[str, Tensor], folder: Path, *layers: Any) -> Iterator[Source]:
    """A file of these weights, opened and described."""
    path = folder / "weights.pt"
    torch.save(dict(weights), path)
    with open_checkpoint(path) as checkpoint:
        yield describe(checkpoint, *layers)


def read_all(path: Path) -> tuple[Checkpoint, dict[str, Tensor]]:
    """A checkpoint, closed again, and all its tensors."""
    with open_checkpoint(path) as checkpoint:
        return checkpoint, {k: as_tensor(checkpoint.read(k)) for k in checkpoint.tensors}


def refusal(path: Path, kind: type[CheckpointError] = CheckpointError) -> str:
    """The message about a file that cannot be opened: one line that names the file."""
    with pytest.raises(CheckpointError) as caught, open_checkpoint(path):
        pass
    assert type(caught.value) is kind
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert "\033" not in text
    return text.replace(str(path), "FILE")


def assert_same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Equal names, types and numbers."""
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name]), name


def index_of(tensors: Mapping[str, Tensor]) -> list[TensorInfo]:
    """The names, shapes and types of tensors."""
    return [
        TensorInfo(name, tuple(t.shape), str(t.dtype).removeprefix("torch."), t.nbytes)
        for name, t in tensors.items()
    ]


def write_all(
    file: BinaryIO,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    container: Container = "safetensors",
) -> TensorWriter:
    """Write tensors into an empty file, the last of them first."""
    writer = open_writer(container, file, index_of(tensors), metadata or {})
    for name, tensor in reversed(tensors.items()):
        content = tensor.detach().flatten().view(torch.uint8).numpy()
        writer.write(content.data, writer.position(name))
    return writer
