"""Each layout against the contract of each tool that reads it: names, shapes, fixed settings.

The contracts of ``tests/contracts`` are written from the behaviour of the tools; diffusers itself
is loaded, the others are not.
"""

from __future__ import annotations

import json
import runpy
import struct
from collections.abc import Mapping
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from inflate import convert
from inflate.workflow.production import ConversionResult

from ..checkpoints import autoencoder_shapes, prefixed, under, video_autoencoder
from ..conversions import CPU
from .making import LIKE_CLASS, SVD

FOLDER = Path(__file__).parents[1] / "contracts"
CONTRACTS: dict[str, Any] = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))
}
KL_F8: dict[str, Any] = {
    "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "resolution": 256
}  # fmt: skip
REFERENCE = json.loads((Path(__file__).parents[1] / "reference/state_dict_keys.json").read_text())
UNET = "model.diffusion_model.out.2.weight"

Shapes = Mapping[str, tuple[int, ...]]


def without_numbers(path: Path, shapes: Shapes) -> Path:
    """A safetensors file of full size that takes no room on the disk: all its numbers are zero."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    content = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(content)) + content)
        file.truncate(8 + len(content) + end)
    return path


def violations(contract: Mapping[str, Any], names: Shapes) -> list[str]:
    """Where the names and shapes of a file break a contract."""
    prefix = contract["prefix"]
    own = under(names, prefix)
    outside = names.keys() - {prefix + name for name in own}
    found = [f"{name} has another prefix" for name in outside if not contract.get("into")]
    found += [
        f"{name} has no place"
        for name in own
        if not any(fnmatchcase(name, pattern) for pattern in contract["names"])
    ]
    found += [f"{mark} is missing" for mark in contract["marks"] if mark not in own]
    found += [
        f"{name} has the shape {own.get(name)}"
        for name, shape in contract["shapes"].items()
        if own.get(name) != tuple(shape)
    ]
    if "decoder" in contract:
        start = prefix + ("" if contract["layout"] == "decoder" else "decoder.")
        expected = {start + k: tuple(s) for k, s in REFERENCE[contract["decoder"]].items()}
        decoder = {name: shape for name, shape in names.items() if name.startswith(start)}
        if contract.get("into"):
            decoder.pop(UNET, None)
        found += [] if decoder == expected else ["the decoder is another"]
    count = sum(name.startswith("encoder.") for name in own)
    if count != contract.get("encoder", count):
        found.append(f"the encoder has {count} tensors")
    return found


def planned(contract: Mapping[str, Any], folder: Path) -> ConversionResult:
    """The plan for an autoencoder of full size."""
    shapes = autoencoder_shapes("plain", **KL_F8)
    image = without_numbers(folder / "img.safetensors", shapes)
    where = {"layout": contract["layout"]}
    if contract.get("into"):
        whole = {**prefixed(shapes), UNET: (4, 320, 3, 3)}
        where = {"into": without_numbers(folder / "full.safetensors", whole)}
    return convert(image, dry_run=True, video_kernel_size=(3, 1, 1), **where, **CPU)


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_plan_of_full_size_keeps_the_contract(name: str, tmp_path: Path) -> None:
    contract = CONTRACTS[name]
    plan = planned(contract, tmp_path).plan
    names = {tensor.info.name: tensor.shape for tensor in plan.tensors}
    assert violations(contract, names) == []
    assert plan.config.temporal.merge_strategy == contract["blend"]
    for setting, value in contract.get("hardwired", {}).items():
        own = getattr(plan.config.architecture, setting)
        assert (list(own) if isinstance(own, tuple) else own) == value


def test_the_class_of_diffusers_has_these_names_and_shapes(
    diffusers: ModuleType, tmp_path: Path
) -> None:
    contract = CONTRACTS["diffusers"]
    plan = planned(contract, tmp_path).plan
    settings = {k: v for k, v in contract["config"].items() if not k.startswith("_")}
    settings["down_block_types"] = ["DownEncoderBlock2D"] * len(settings["block_out_channels"])
    with torch.device("meta"):
        model = getattr(diffusers, contract["class"])(**settings)
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert {tensor.info.name: tensor.shape for tensor in plan.tensors} == expected


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_file_of_another_layout_breaks_the_contract(name: str, tmp_path: Path) -> None:
    contract = CONTRACTS[name]
    other = "decoder" if contract["layout"] != "decoder" else "sgm"
    plan = planned({**contract, "into": False, "layout": other}, tmp_path).plan
    names = {tensor.info.name: tensor.shape for tensor in plan.tensors}
    assert violations(contract, names)
    weights = video_autoencoder("kl", temporal=SVD, **LIKE_CLASS)
    kept = {contract["prefix"] + key: tuple(t.shape) for key, t in weights.items()}
    assert any("quant_conv" in problem for problem in violations(contract, kept))


def test_what_is_not_a_checkout_of_a_tool_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).parents[2] / "scripts/peers.py"
    monkeypatch.setattr("sys.argv", [str(script), str(tmp_path)])
    assert runpy.run_path(str(script))["main"]() == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {tmp_path} ")
    assert said.err.count("\n") == 1
