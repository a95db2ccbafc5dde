"""Torch's files with classes and calls in them: nothing is imported, nothing is run."""

from __future__ import annotations

import builtins
import os
import pathlib
import pickle
import subprocess
from collections import Counter, OrderedDict
from collections.abc import Iterator
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
    """Pickled as a call: whoever unpickles it without care makes it."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.reduced = function, args

    def __reduce__(self) -> Any:
        return self.reduced

    def __call__(self) -> None:
        """Nothing; only what can be called may be pickled as what is called."""


class Stateful:
    """Pickled with a state, that its ``__setstate__`` acts upon."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["trace"]).touch()


class Made:
    """Acts when it is made."""

    trace = ""

    def __new__(cls, trace: str) -> Made:
        """Leave a trace."""
        Path(trace).touch()
        return super().__new__(cls)

    def __getnewargs__(self) -> tuple[str]:
        return (self.trace,)


def made(trace: str) -> Made:
    """What pickle makes by ``Made.__new__``, without a trace of it now."""
    instance = object.__new__(Made)
    instance.trace = trace
    return instance


def evil(trace: str) -> dict[str, Any]:
    """What would leave a trace if it were run."""
    touch = f"open({trace!r}, 'w').close()"
    return {
        "os.system": Call(os.system, f"touch {trace}"),
        "os.mkdir": Call(os.mkdir, trace),
        "eval": Call(builtins.eval, touch),
        "exec": Call(builtins.exec, touch),
        "subprocess": Call(subprocess.call, ["touch", trace]),
        "map": Call(list, Call(map, eval, [touch])),
        "nested": [{"deep": (Call(builtins.eval, touch), {1: Call(builtins.exec, touch)})}],
        "method": Call(pathlib.Path.touch, pathlib.PurePath(trace)),
        "import": Call(Call(getattr, Call(__import__, "os"), "mkdir"), trace),
        "setstate": Stateful(trace),
        "new": made(trace),
    }


EVIL = list(evil(""))


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[str]:
    """A path that must not exist at the end."""
    path = tmp_path / "trace"
    yield str(path)
    assert not path.exists()


def harmless(path: Path) -> str | None:
    """Open a file; None where it opens with its weights whole, else what is said of it."""
    try:
        assert_same(read_all(path)[1], WEIGHTS)
    except CheckpointError:
        return refusal(path)
    return None


@pytest.mark.parametrize("kwargs", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("name", EVIL)
def test_nothing_in_a_file_is_run(
    name: str, kwargs: dict[str, Any], trace: str, tmp_path: Path
) -> None:
    path = tmp_path / "evil.ckpt"
    payload = evil(trace)[name]
    torch.save({"state_dict": WEIGHTS, "first": payload, "last": [payload]}, path, **kwargs)
    said = harmless(path)
    if said is not None:
        assert "could run code; refused" in said or "damaged or no torch checkpoint" in said


@pytest.mark.parametrize("name", EVIL)
def test_nothing_in_the_place_of_the_weights_is_run(name: str, trace: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save(evil(trace)[name], path)
    with pytest.raises(CheckpointError), open_checkpoint(path):
        pass
    torch.save({**WEIGHTS, "state_dict": evil(trace)[name]}, path)
    harmless(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("name", EVIL)
def test_nothing_is_run_in_a_pickle_of_any_protocol(
    name: str, protocol: int, trace: str, tmp_path: Path
) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save({**WEIGHTS, "x": evil(trace)[name]}, path, pickle_protocol=protocol)
    harmless(path)
    path.write_bytes(pickle.dumps(evil(trace)[name], protocol=protocol))
    assert "FILE is damaged or no torch checkpoint" in refusal(path)


@pytest.mark.parametrize("kwargs", FORMATS.values(), ids=FORMATS)
def test_a_call_that_torch_blocks_is_named(kwargs: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save({**WEIGHTS, "x": Call(os.system, "true")}, path, **kwargs)
    assert refusal(path) == (
        f"FILE asks for {os.system.__module__}.system, which could run code; refused. A checkpoint "
        "needs tensors and plain containers only"
    )


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
