"""What tests of whole conversions share: looking into files, changing them, decoding by hand."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from inflate import workflow
from inflate.formats.fingerprint import fingerprint_of
from inflate.formats.source import describe
from inflate.inflation import apply
from inflate.inflation.initializers import Rule
from inflate.io.reader import open_checkpoint
from inflate.io.writer import SafetensorsWriter
from inflate.models import Decoder
from inflate.workflow import ConversionResult, production

from .checkpoints import DDCONFIG, under

CPU: dict[str, Any] = {"device": "cpu"}
"""Where bits are promised, whatever machine the tests run on."""

Change = Callable[[dict[str, Tensor]], None]


def converted(
    source: Path, output: Path | None = None, verdict: str = "bitwise", **options: Any
) -> ConversionResult:
    """Convert on the CPU, with this verdict."""
    result = workflow.convert(source, output, **{**CPU, **options})
    assert result.parity is not None
    assert result.parity.verdict == verdict
    return result


def snapshot(folder: Path) -> dict[str, str]:
    """Everything below a folder, hidden files too: relative path to SHA-256, or to its kind."""
    return {
        str(Path(parent, name).relative_to(folder)): _content(Path(parent, name))
        for parent, names, files in os.walk(folder)
        for name in (*names, *files)
    }


def print_of(path: Path) -> str:
    """The fingerprint of the autoencoder in a file."""
    with open_checkpoint(path) as checkpoint:
        return fingerprint_of(describe(checkpoint).checkpoint)


def _content(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode):
        return sha256(path)
    return os.readlink(path) if stat.S_ISLNK(mode) else f"of kind {stat.S_IFMT(mode):o}"


def sha256(path: Path) -> str:
    """The SHA-256 of a file, found without the package."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, parsed by hand."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    found: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return found


def at_offset(path: Path, offset: int) -> Path:
    """The same safetensors file, its tensors moved: they begin ``offset`` bytes behind 64 n."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = content[8 : 8 + length].rstrip(), content[8 + length :]
    header += b" " * ((offset - 8 - len(header)) % 64)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def rewritten(video: Path, out: Path, change: Change) -> Path:
    """A copy of a safetensors file with changed tensors, its metadata kept."""
    weights = load_file(video)
    change(weights)
    save_file(weights, out, metadata_of(video))
    return out


def nudged(video: Path, out: Path, key: str, by: float = 0.1) -> Path:
    """A copy of a video checkpoint in which one number of the tensor ``key`` is another."""

    def change(weights: dict[str, Tensor]) -> None:
        weights[key].view(-1)[0] += by

    return rewritten(video, out, change)


def corrupt_start(
    monkeypatch: pytest.MonkeyPatch, corrupted: Callable[[str, Rule], bool], by: float = 0.1
) -> None:
    """Add a number to tensors that a plan makes, as a bug in their rules would."""
    real = apply.draw_chunks

    def chunks(rule: Rule, shape: Any, key: str, *more: Any) -> Iterator[Any]:
        for piece in real(rule, shape, key, *more):
            yield piece + np.float32(by) if corrupted(key, rule) else piece

    monkeypatch.setattr(apply, "draw_chunks", chunks)
    monkeypatch.setattr(apply, "ZEROS", None)  # Zeros would not be drawn at all.


def corrupt_file(monkeypatch: pytest.MonkeyPatch, name: str, by: float) -> None:
    """Add a number to the first one of a tensor in the staged file, once it is written."""
    real = production.carry_out

    def carry_out(plan: Any, checkpoint: Any, writer: SafetensorsWriter, progress: Any) -> Any:
        digests = real(plan, checkpoint, writer, progress)
        (number,) = struct.unpack("<f", os.pread(writer._handle, 4, writer.position(name)))
        writer.write(memoryview(struct.pack("<f", number + by)), writer.position(name))
        return digests

    monkeypatch.setattr(production, "carry_out", carry_out)


def image_decode(weights: Mapping[str, Tensor], z: Tensor, **changes: Any) -> Tensor:
    """The images of latents ``N e h w``, decoded without the package's loading."""
    decoder = Decoder(**{**DDCONFIG, **changes}).eval()
    decoder.load_state_dict(under(weights, "decoder."), strict=True)
    with torch.inference_mode():
        if "post_quant_conv.weight" in weights:
            weight, bias = weights["post_quant_conv.weight"], weights["post_quant_conv.bias"]
            z = torch.nn.functional.conv2d(z, weight, bias)
        return decoder(z)
