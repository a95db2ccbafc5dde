"""The modules have the numbers and names of the original, and changed weights are noticed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from inflate.models import Decoder, VideoDecoder

from .builders import (
    KL_F8,
    KL_F16,
    REFERENCE,
    TOLERANCE,
    error,
    reference_cases,
    reference_module,
    reference_vectors,
    run_reference,
    shapes_of,
)

CASES = {case["name"]: case for case in reference_cases()}
VECTORS = reference_vectors()
KEYS = json.loads((REFERENCE / "state_dict_keys.json").read_text())
FAMILIES = {"kl-f8": KL_F8, "kl-f16": KL_F16}
KERNELS: dict[str, int | list[int]] = {"k3": 3, "k3-1-1": [3, 1, 1]}


def reference_error(case: dict[str, Any], module: torch.nn.Module) -> float:
    name = case["name"]
    return error(run_reference(case, module, VECTORS[f"{name}/z"]), VECTORS[f"{name}/out"])


def full_size(name: str) -> Decoder:
    """The decoder that an entry of the key lists names, such as ``kl-f8/all/k3``."""
    family, kind, *kernel = name.split("/")
    with torch.device("meta"):
        if kind == "image":
            return Decoder(**FAMILIES[family])
        size = KERNELS[kernel[0]] if kernel else 3
        return VideoDecoder(time_mode=kind, video_kernel_size=size, **FAMILIES[family])


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_the_originals(name: str) -> None:
    assert reference_error(CASES[name], reference_module(CASES[name])) <= TOLERANCE


@pytest.mark.parametrize(
    "key",
    ["conv_in.weight", "mid.block_1.mix_factor", "mid.block_2.time_stack.out_layers.3.bias",
     "mid.attn_1.mix_factor", "mid.attn_1.time_mix_block.attn1.to_v.weight",
     "mid.attn_1.video_time_embed.0.weight", "up.1.attn.1.time_mix_block.ff.net.0.proj.weight",
     "conv_out.time_mix_conv.weight"],
)  # fmt: skip
def test_a_changed_weight_is_noticed(key: str) -> None:
    case = CASES["all-learned-k3"]
    module = reference_module(case)
    with torch.no_grad():
        module.state_dict()[key].flatten()[0].add_(0.1)
    assert reference_error(case, module) > TOLERANCE


@pytest.mark.parametrize("name", KEYS)
def test_full_size_keys_are_the_originals(name: str) -> None:
    expected = {key: tuple(shape) for key, shape in KEYS[name].items()}
    assert shapes_of(full_size(name)) == expected
