"""Torch's files with classes and calls in them: nothing is imported, nothing is run."""

from __future__ import annotations

from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from ..checkpoints import foreign_class, write_torch
from .opening import assert_same, read_all, refusal

FORMATS: dict[str, dict[str, Any]] = {
    "zip": {},
    "before 1.6": {"_use_new_zipfile_serialization": False},
}
WEIGHTS = {"a": torch.arange(4.0), "b": torch.ones(2, 2)}


# Foreign classes


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kwargs", FORMATS.values(), ids=FORMATS)
def test_foreign_objects_of_every_make_are_inert(
    kwargs: dict[str, Any], protocol: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.ckpt"
    with foreign_class("training.tools.Thing") as thing:
        instance = thing()
        instance.state = {"nested": [thing, thing()]}
        content = {"state_dict": WEIGHTS, "class": thing, "object": instance, thing: {thing: 1}}
        torch.save(content, path, pickle_protocol=protocol, **kwargs)
    checkpoint, tensors = read_all(path)
    assert_same(tensors, WEIGHTS)
    assert checkpoint.foreign == ("training.tools.Thing",)


@pytest.mark.parametrize("kwargs", FORMATS.values(), ids=FORMATS)
def test_what_training_tools_save_is_taken(kwargs: dict[str, Any], tmp_path: Path) -> None:
    content = {
        "state_dict": OrderedDict(WEIGHTS),
        "hparams": OmegaConf.create({"ddconfig": {"ch_mult": [1, 2]}, "embed_dim": 4}),
        "callbacks": [np.float32(0.5), np.ones(3)],
        "more": [Counter("aab"), {1, 2}, (None, True), b"bytes", 1 << 80, 1j, torch.float16],
    }
    assert_same(read_all(write_torch(tmp_path / "a.ckpt", content, **kwargs))[1], WEIGHTS)


def test_a_name_that_two_containers_have_is_kept_apart(tmp_path: Path) -> None:
    path = write_torch(tmp_path / "a.ckpt", {"a": torch.ones(1), "state_dict": WEIGHTS})
    assert set(read_all(path)[1]) == {"a", "state_dict.a", "state_dict.b"}
    path = write_torch(tmp_path / "b.ckpt", {"x.a": torch.ones(1), "x": {"a": torch.ones(1)}})
    refusal(path)


def test_names_that_repeat_what_is_held_once_are_bounded(tmp_path: Path) -> None:
    keys = [f"k{i}" for i in range(200)]
    value = torch.ones(1)
    copies = {f"{i}{'x' * 500}": dict.fromkeys(keys, value) for i in range(200)}
    refusal(write_torch(tmp_path / "a.ckpt", copies))
    # The same mapping under many names is taken once.
    one = dict.fromkeys(keys, value)
    path = write_torch(tmp_path / "b.ckpt", {f"c{i}": one for i in range(200)})
    assert len(read_all(path)[1]) == len(keys)
