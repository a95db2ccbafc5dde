"""Hostile pickles, built by hand: nothing in them runs, wherever in a file they stand."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from inflate.io.reader import open_checkpoint

from .hostile import (
    MAGIC,
    REBUILD,
    STATE,
    WRITERS,
    built,
    call,
    called,
    dict_of,
    list_of,
    named,
    new,
    number,
    program,
    storage,
    tensor,
    text,
    tuple_of,
    write_zipped,
)
from .refusals import command, refused, said_of
from .serving import Server

VARIABLE, ATTRIBUTE = "INFLATE_TEST_TRACE", "inflate_test_trace"


def bytes_of(content: bytes) -> bytes:
    """Bytes, as the second protocol of pickles has them."""
    return call("_codecs.encode", text(content.decode("latin1")), text("latin1"))


def torch_file(trace: str) -> bytes:
    """A torch file from before 1.6 that leaves a trace."""
    header = b"".join(pickle.dumps(part, 2) for part in (MAGIC, 1001, {}))
    return header + program(call("posix.mkdir", text(trace))) + pickle.dumps([], 2)


def hostile(trace: str) -> dict[str, bytes]:
    """Programs by name: each leaves the trace, a variable or an attribute if it is run."""
    evil = call("posix.mkdir", text(trace))
    touch = f"open({trace!r}, 'w').close()"
    attribute = f"import sys; sys.{ATTRIBUTE} = 1"
    variable = f"import os; os.environ[{VARIABLE!r}] = '1'"
    imported = call("importlib.import_module", text("os"))
    getter = call("operator.attrgetter", text("mkdir"))
    arguments = list_of(text("touch"), text(trace))
    return {
        "os.system": call("os.system", text(f"touch {trace}")),
        "posix.mkdir": evil,
        "os.mkdir": call("os.mkdir", text(trace)),
        "os.makedirs": call("os.makedirs", text(trace)),
        "eval": call("builtins.eval", text(touch)),
        "exec": call("builtins.exec", text(touch)),
        "eval in Python 2": call("__builtin__.eval", text(touch)),
        "open": call("builtins.open", text(trace), text("w")),
        "io.open": call("io.open", text(trace), text("w")),
        "a variable": call("builtins.exec", text(variable)),
        "an attribute": call("builtins.exec", text(attribute)),
        "setattr": call(
            "builtins.setattr", call("importlib.import_module", text("sys")), text(ATTRIBUTE), b"N"
        ),
        "getattr": called(call("builtins.getattr", imported, text("mkdir")), text(trace)),
        "attrgetter": called(called(getter, imported), text(trace)),
        "partial": called(call("functools.partial", named("builtins.exec"), text(touch))),
        "map": call("builtins.list", call("builtins.map", named("builtins.eval"),
                                          list_of(text(touch)))),
        "subprocess.call": call("subprocess.call", arguments),
        "subprocess.Popen": call("subprocess.Popen", arguments),
        "timeit": call("timeit.timeit", text(touch), text("pass"), named("time.time"), b"K\x01"),
        "pathlib": called(call("builtins.getattr", call("pathlib.Path", text(trace)),
                               text("touch"))),
        "pickle": call("pickle.loads", bytes_of(program(evil))),
        "torch's loader": call("torch.storage._load_from_bytes", bytes_of(torch_file(trace))),
        "logging": call("logging.FileHandler", text(trace)),
        "zipfile": call("zipfile.ZipFile", text(trace), text("w")),
        "shutil": call("shutil.copyfile", text("/dev/null"), text(trace)),
        "numpy": called(call("builtins.getattr", call("numpy.arange", b"K\x01"), text("tofile")),
                        text(trace)),
        "torch.save": call("torch.save", b"K\x01", text(trace)),
        "safetensors": call("safetensors.torch.save_file", b"}", text(trace)),
        "NEWOBJ": new("logging.FileHandler", text(trace)) + evil,
        "BUILD": built(called(named("types.SimpleNamespace")), dict_of({"x": evil})),
        "INST": b"(" + text(trace) + b"ilogging\nFileHandler\n",
        "OBJ": b"(" + named("logging.FileHandler") + text(trace) + b"o",
        "STACK_GLOBAL": text("posix") + text("mkdir") + b"\x93" + tuple_of(text(trace)) + b"R",
        "NEWOBJ_EX": named("types.SimpleNamespace") + b")}\x92" + evil + b"b",
        "nested": list_of(dict_of({"deep": tuple_of(list_of(evil))})),
        "as a key": dict_of([(evil, b"K\x01")]),
        "by the memo": named("posix.mkdir") + b"q\x07h\x07" + tuple_of(text(trace)) + b"R",
        "passed over": evil + b"N",
        "thrown away": evil + b"0N",
    }  # fmt: skip


NAMES = list(hostile(""))


def rebuilt(hooks: bytes) -> bytes:
    """The arguments of a tensor's rebuilding."""
    return tuple_of(storage(), number(0), tuple_of(number(4)), tuple_of(number(1)), b"\x89", hooks)


PLACES: dict[str, Callable[[bytes], bytes]] = {
    "in place of all": lambda evil: evil,
    "before the weights": lambda evil: evil + dict_of({"a": tensor()}),
    "among the weights": lambda evil: dict_of(
        {"state_dict": dict_of({"a": tensor(), "evil": evil})}
    ),
    "beside the weights": lambda evil: dict_of(
        {"state_dict": dict_of({"a": tensor()}), "hyper_parameters": dict_of({"evil": evil})}
    ),
    "as a tensor's hooks": lambda evil: dict_of({"a": named(REBUILD) + rebuilt(evil) + b"R"}),
    "as a tensor's attribute": lambda evil: dict_of(
        {
            "a": call(
                "torch._tensor._rebuild_from_type_v2",
                named(REBUILD),
                named("torch.Tensor"),
                rebuilt(call(STATE)),
                dict_of({"evil": evil}),
            )
        }
    ),
    "as a tensor's maker": lambda evil: dict_of(
        {"a": call("functools.partial", named(REBUILD), evil) + rebuilt(call(STATE)) + b"R"}
    ),
    "as a storage's device": lambda evil: dict_of(
        {"a": tensor(over=storage().replace(text("cpu"), evil))}
    ),
}


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[str]:
    """A path that must not exist at the end; no other trace may be left either."""
    path = tmp_path / "trace"
    yield str(path)
    assert not path.exists()
    assert VARIABLE not in os.environ
    assert not hasattr(sys, ATTRIBUTE)


RUN = f"""
import os, pickle, sys, time
pickle._Unpickler(open(sys.argv[1], "rb")).load()
deadline = time.monotonic() + 10
while not os.path.exists(sys.argv[2]):  # What was started may take its time.
    if hasattr(sys, {ATTRIBUTE!r}) or {VARIABLE!r} in os.environ:
        break
    assert time.monotonic() < deadline
    time.sleep(0.01)
"""


@pytest.mark.parametrize("name", NAMES)
def test_python_would_have_run_it(name: str, tmp_path: Path, server: Server) -> None:
    path, trace = tmp_path / "program", tmp_path / "trace"
    path.write_bytes(program(hostile(str(trace))[name]))
    (answer,) = server.run({"python": RUN, "arguments": [str(path), str(trace)]})
    assert answer.code == 0, answer.err


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_a_file_runs(
    name: str, place: str, format: str, trace: str, tmp_path: Path
) -> None:
    path = WRITERS[format](tmp_path / "evil.ckpt", PLACES[place](hostile(trace)[name]))
    if said_of(path) is None:
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.read("a").tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("name", NAMES)
def test_no_command_runs_it(name: str, trace: str, tmp_path: Path) -> None:
    path = write_zipped(tmp_path / "evil.ckpt", PLACES["beside the weights"](hostile(trace)[name]))
    assert str(path) in refused(tmp_path, "convert", path, "--device", "cpu")
    assert command(["inspect", path])[0] in (0, 2)


def test_whoever_unpickles_without_care_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something was unpickled")

    for module in (torch, torch.serialization, torch.jit, pickle):
        monkeypatch.setattr(module, "load", forbidden)
    for name in ("loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    for write in WRITERS.values():
        assert said_of(write(tmp_path / "a.ckpt", dict_of({"a": tensor()}))) is None


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (call("posix.system", text("true")), "posix.system"),
        (call("os.system", text("true")), "os.system"),
        (named("sys.exit"), "sys.exit"),
    ],
)
def test_what_is_refused_is_named(content: bytes, asked: str, format: str, tmp_path: Path) -> None:
    path = WRITERS[format](tmp_path / "a.ckpt", dict_of({"a": tensor(), "b": content}))
    assert said_of(path) == (
        f"{path} asks for {asked}, which could run code; refused. A checkpoint needs tensors and "
        "plain containers only"
    )


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize(
    ("content", "opens"),
    [
        (called(call("builtins.getattr", b"N"), b"N"), True),
        (called(named("collections.deque")) + b"Na", True),
        (called(named("collections.defaultdict")) + b"NNs", True),
        (called(tensor(), b"N"), False),
        (named("builtins.list") + b"N" + b"R", False),
        (tuple_of() + b"Na", False),
    ],
)
def test_stand_ins_accept_what_their_objects_would(
    content: bytes, opens: bool, format: str, tmp_path: Path
) -> None:
    path = WRITERS[format](tmp_path / "a.ckpt", dict_of({"a": tensor(), "b": content}))
    assert (said_of(path) is None) is opens
