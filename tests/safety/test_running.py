"""Hostile pickles: nothing in them runs, wherever in a file they are."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from .hostile import (
    MAGIC,
    REBUILD,
    WRITERS,
    call,
    dict_of,
    named,
    new,
    program,
    storage,
    tensor,
    tensor_arguments,
    text,
    tuple_of,
    write_zip,
)
from .refusals import FOUR, command, read, refused
from .serving import Server


def bytes_of(content: bytes) -> bytes:
    return call("_codecs.encode", text(content.decode("latin1")), text("latin1"))


def attribute_of(instance: bytes, name: str) -> bytes:
    return call("builtins.getattr", instance, text(name))


def hostile(trace: str) -> dict[str, bytes]:
    """Programs by name: each leaves the trace if it runs."""
    evil, file = call("posix.mkdir", text(trace)), text(trace)
    touch = text(f"open({trace!r}, 'w').close()")
    imported = call("importlib.import_module", text("os"))
    header = b"".join(pickle.dumps(part, 2) for part in (MAGIC, 1001, {}))
    legacy = header + program(evil) + pickle.dumps([], 2)
    return {
        "os.system": call("os.system", text(f"touch {trace}")),
        "posix.mkdir": call("posix.mkdir", file),
        "__builtin__.eval": call("__builtin__.eval", touch),
        "getattr": call(attribute_of(imported, "mkdir"), file),
        "partial": call(call("functools.partial", named("builtins.exec"), touch)),
        "pickle": call("pickle.loads", bytes_of(program(evil))),
        "torch's loader": call("torch.storage._load_from_bytes", bytes_of(legacy)),
        "NEWOBJ": new("logging.FileHandler", file) + evil,
        "BUILD": call("types.SimpleNamespace") + dict_of({"x": evil}) + b"b",
        "INST": b"(" + file + b"ilogging\nFileHandler\n",
        "OBJ": b"(" + named("logging.FileHandler") + file + b"o",
        "STACK_GLOBAL": text("posix") + text("mkdir") + b"\x93" + tuple_of(file) + b"R",
        "NEWOBJ_EX": named("types.SimpleNamespace") + b")}\x92" + evil + b"b",
        "as a key": dict_of([(evil, b"K\x01")]),
        "by the memo": named("posix.mkdir") + b"q\x07h\x07" + tuple_of(file) + b"R",
        "not used": evil + b"N",
    }  # fmt: skip


PLACES: dict[str, Callable[[bytes], bytes]] = {
    "alone": lambda evil: evil,
    "before the weights": lambda evil: evil + dict_of({"a": tensor()}),
    "among the weights": lambda evil: dict_of({"state_dict": dict_of({"a": tensor(), "e": evil})}),
    "next to the weights": lambda evil: dict_of(
        {"state_dict": dict_of({"a": tensor()}), "hyper_parameters": dict_of({"evil": evil})}
    ),
    "the hooks of a tensor": lambda evil: dict_of(
        {"a": call(REBUILD, *tensor_arguments(hooks=evil))}
    ),
    "an attribute of a tensor": lambda evil: dict_of({"a": call(
        "torch._tensor._rebuild_from_type_v2", named(REBUILD), named("torch.Tensor"),
        tuple_of(*tensor_arguments()), dict_of({"evil": evil}),
    )}),
    "the function of a tensor": lambda evil: dict_of(
        {"a": call(call("functools.partial", named(REBUILD), evil), *tensor_arguments())}
    ),
    "the device of a storage": lambda evil: dict_of(
        {"a": tensor(over=storage().replace(text("cpu"), evil))}
    ),
}  # fmt: skip


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[str]:
    """A path that must not exist at the end."""
    path = tmp_path / "trace"
    yield str(path)
    assert not path.exists()


RUN = """
import os, pickle, sys, time
trace = sys.argv[1]
for path in sys.argv[2:]:
    pickle._Unpickler(open(path, "rb")).load()
    deadline = time.monotonic() + 10
    while not os.path.exists(trace):  # A new process may take its time.
        assert time.monotonic() < deadline, path
        time.sleep(0.01)
    os.rmdir(trace) if os.path.isdir(trace) else os.remove(trace)
"""


def test_python_would_have_run_each_of_them(tmp_path: Path, server: Server) -> None:
    paths = []
    for number, content in enumerate(hostile(str(tmp_path / "trace")).values()):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(program(content))
    (answer,) = server.run(
        {"python": RUN, "arguments": [str(tmp_path / "trace"), *map(str, paths)]}
    )
    assert answer.code == 0, answer.err


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize("place", PLACES)
def test_nothing_in_a_file_runs(place: str, format: str, trace: str, tmp_path: Path) -> None:
    for content in hostile(trace).values():
        path = WRITERS[format](tmp_path / "evil.ckpt", PLACES[place](content))
        assert read(path) in (None, {"a": FOUR})
        assert not Path(trace).exists()


def test_no_command_runs_it(trace: str, tmp_path: Path) -> None:
    for content in hostile(trace).values():
        path = write_zip(tmp_path / "evil.ckpt", PLACES["next to the weights"](content))
        assert str(path) in refused(tmp_path, "convert", path, "--device", "cpu")
    assert command(["inspect", path])[0] in (0, 2)


def test_no_unpickler_of_python_or_torch_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something was unpickled")

    for module in (torch, torch.serialization, torch.jit, pickle):
        monkeypatch.setattr(module, "load", forbidden)
    for name in ("loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    for write in WRITERS.values():
        assert read(write(tmp_path / "a.ckpt", dict_of({"a": tensor()}))) == {"a": FOUR}


def test_a_refusal_names_the_call(tmp_path: Path) -> None:
    for content, name in ((call("posix.system", text("true")), "posix.system"),
                          (named("sys.exit"), "sys.exit")):  # fmt: skip
        for write in WRITERS.values():
            path = write(tmp_path / "a.ckpt", dict_of({"a": tensor(), "b": content}))
            assert name in refused(tmp_path, "convert", path)


def test_stand_ins_accept_what_their_objects_would(tmp_path: Path) -> None:
    sound = (call(call("builtins.getattr", b"N"), b"N"), call("collections.deque") + b"Na",
             call("collections.defaultdict") + b"NNs")  # fmt: skip
    false = call(tensor(), b"N"), named("builtins.list") + b"N" + b"R", tuple_of() + b"Na"
    for content in sound + false:
        path = write_zip(tmp_path / "a.ckpt", dict_of({"a": tensor(), "b": content}))
        assert (read(path) is not None) == (content in sound)
