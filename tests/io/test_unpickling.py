"""Torch's files with classes and calls in them: nothing is imported, nothing is run."""

from __future__ import annotations

import builtins
import os
import pickle
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from inflate.errors import CheckpointError
from inflate.io.reader import open_checkpoint

from ..checkpoints import foreign_class, write_torch
from .opening import assert_same, read_all, refusal

FORMATS: dict[str, dict[str, Any]] = {
    "zip": {},
    "before 1.6": {"_use_new_zipfile_serialization": False},
}
WEIGHTS = {"a": torch.arange(4.0), "b": torch.ones(2, 2)}


class Call:
    """Pickled as a call: an unpickler without care makes it."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.reduced = function, args

    def __reduce__(self) -> Any:
        return self.reduced


class Made:
    """Leaves a trace when it is made, and when its state is set."""

    def __new__(cls, trace: str) -> Made:
        """Leave a trace."""
        Path(trace).touch()
        return super().__new__(cls)

    def __getnewargs__(self) -> tuple[str]:
        return (self.trace,)

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["trace"]).touch()


def evil(trace: str) -> list[Any]:
    """What would leave a trace if it were run."""
    touch = f"open({trace!r}, 'w').close()"
    made: Any = object.__new__(Made)
    made.trace = trace
    return [
        Call(os.system, f"touch {trace}"),
        Call(list, Call(map, eval, [touch])),
        [{"deep": (Call(builtins.eval, touch), {1: Call(builtins.exec, touch)})}],
        made,
    ]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_nothing_in_a_file_is_run(protocol: int, tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "evil.ckpt"
    for payload in evil(str(trace)):
        for options in FORMATS.values():
            for content in ({**WEIGHTS, "x": payload}, {"state_dict": WEIGHTS, "last": [payload]}):
                torch.save(content, path, pickle_protocol=protocol, **options)
                try:
                    assert_same(read_all(path)[1], WEIGHTS)
                except CheckpointError:
                    refusal(path)
            torch.save(payload, path, pickle_protocol=protocol, **options)
            with pytest.raises(CheckpointError), open_checkpoint(path):
                pass
        path.write_bytes(pickle.dumps(payload, protocol=protocol))
        refusal(path)
    assert not trace.exists()


# Foreign classes


@pytest.mark.parametrize("kwargs", FORMATS.values(), ids=FORMATS)
def test_foreign_objects_of_every_make_are_inert(kwargs: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with foreign_class("training.tools.Thing") as thing:
        instance = thing()
        instance.state = {"nested": [thing, thing()]}
        content = {"state_dict": WEIGHTS, "class": thing, "object": instance, thing: {thing: 1}}
        torch.save(content, path, **kwargs)
    checkpoint, tensors = read_all(path)
    assert_same(tensors, WEIGHTS)
    assert checkpoint.foreign == ("training.tools.Thing",)


@pytest.mark.parametrize("kwargs", FORMATS.values(), ids=FORMATS)
def test_numpy_scalars_of_callbacks_are_taken(kwargs: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": WEIGHTS, "best": np.float32(0.5), "all": np.ones(3)}, path, **kwargs)
    assert_same(read_all(path)[1], WEIGHTS)


def test_hyperparameters_of_omegaconf_are_taken(tmp_path: Path) -> None:
    hyperparameters = OmegaConf.create({"ddconfig": {"ch_mult": [1, 2]}, "embed_dim": 4})
    path = write_torch(tmp_path / "a.ckpt", {"state_dict": WEIGHTS, "hparams": hyperparameters})
    assert_same(read_all(path)[1], WEIGHTS)


@pytest.mark.parametrize("kwargs", FORMATS.values(), ids=FORMATS)
def test_containers_that_torch_knows_are_taken(kwargs: dict[str, Any], tmp_path: Path) -> None:
    content = {
        "state_dict": OrderedDict(WEIGHTS),
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
