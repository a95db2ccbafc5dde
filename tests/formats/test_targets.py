"""What each layout writes: names, what has no place, types, and where every tensor came from."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import inflate
from inflate import convert, inspect
from inflate.io.reader import open_checkpoint
from inflate.models import VideoDecoder
from inflate.vocabulary import TARGETS

from ..checkpoints import DDCONFIG, autoencoder, write_lightning
from ..conversions import CPU, converted, image_decode
from ..models.builders import noise
from .making import weights_file

HERE: dict[str, Any] = {**CPU, "video_kernel_size": (3, 1, 1)}


@pytest.mark.parametrize(
    ("kind", "time_mode"), [("kl", "all"), ("vq", "conv-only"), ("plain", "attn-only")]
)
def test_layout_decoder_loads_strictly_into_a_video_decoder(
    kind: str, time_mode: str, tmp_path: Path
) -> None:
    weights = autoencoder(kind)
    path = write_lightning(tmp_path / "img.ckpt", weights)
    out = tmp_path / "out.safetensors"
    result = converted(path, out, layout="decoder", time_mode=time_mode)
    decoder = VideoDecoder(**DDCONFIG, time_mode=time_mode).eval()
    decoder.load_state_dict(load_file(out), strict=True)
    z = noise(6, 4, 4, 3)
    alone = {key: tensor for key, tensor in weights.items() if key.startswith("decoder.")}
    with torch.inference_mode():
        assert torch.equal(decoder(z, timesteps=3), image_decode(alone, z))
    left = {d.info.name for d in result.plan.dropped}
    assert left == set(weights) - set(alone)
    assert len(result.notes) == (kind != "plain")


@pytest.mark.parametrize("layout", TARGETS)
@pytest.mark.usefixtures("tiny_comfyui")
def test_the_header_says_where_every_group_of_tensors_came_from(
    plain: Path, layout: str, tmp_path: Path
) -> None:
    convert(plain, tmp_path / "out", layout=layout, skip_parity=True, **HERE)
    with open_checkpoint(tmp_path / "out") as checkpoint:
        written, header = checkpoint.tensors, checkpoint.metadata
    counted: Counter[str] = Counter()
    for entry in json.loads(header["inflate.provenance"]):
        counted[entry["tensors"]] += entry["count"]
        start = {"spatial": "copied from ", "temporal": "made: "}.get(entry["part"], "")
        assert entry["origin"].startswith(start)
    parts = [name.split(".") for name in written]
    names = (".".join(p[:2]) + ".*" if len(p) > 2 else ".".join(p) for p in parts)
    assert counted == Counter(names)
    if layout != "temporal":  # That is not an autoencoder without its base.
        seen = inspect(tmp_path / "out")
        assert (seen.layout, seen.layouts[layout]) == (layout, ())
        assert seen.blend is not None
        assert (seen.blend.strategy, seen.blend.alpha) == ("learned", 0.0)


@pytest.mark.parametrize("layout", ["autoencoder", "diffusers"])
def test_temporal_norms_can_stay_in_float32(layout: Any, plain: Path, tmp_path: Path) -> None:
    if layout == "diffusers":
        pytest.importorskip("diffusers")
    options: dict[str, Any] = {**HERE, "dtype": "float16", "float32_norms": True}
    if layout == "autoencoder":
        options["time_mode"] = "all"
    out = tmp_path / "out"
    result = converted(plain, out, layout=layout, **options)
    written = load_file(weights_file(out) if out.is_dir() else out)
    wide = {name for name, tensor in written.items() if tensor.dtype == torch.float32}
    assert wide == {
        t.info.name for t in result.plan.of("temporal")
        if {"norm_in", "norm1", "norm2", "norm3"} & set(t.key.split("."))
        or {("in_layers", "0"), ("out_layers", "0")} & {tuple(t.key.split(".")[-3:-1])}
    }  # fmt: skip
    assert {written[name].dtype for name in written.keys() - wide} == {torch.float16}
    # Half in, half out: the file is of use in the type that it is stored in.
    with torch.inference_mode():
        images = inflate.load_video_decoder(out)(noise(4, 4, 4, 4).half(), timesteps=2)
    assert images.dtype == torch.float16
    assert images.isfinite().all()
