"""What a file claims is believed only as far as the file goes, in tensors and in memory."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from inflate.io.reader import open_checkpoint

from .hostile import (
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
    real,
    storage,
    tensor,
    text,
    tuple_of,
    write_legacy,
    write_zipped,
)
from .refusals import said_of
from .serving import MIB, Server

SLACK = 8 * MIB
"""Memory that any small file may take: the allocator's, and what is loaded at first use."""

HUGE = 1 << 40
NOBODY = b"\x89" + call(STATE)
"""No gradient and no hooks, as tensors end."""


def sized(shape: int, stride: int, offset: int = 0) -> list[bytes]:
    """The arguments that rebuild a tensor of one axis."""
    return [storage(), number(offset), tuple_of(number(shape)), tuple_of(number(stride)), NOBODY]


# Everything that torch lets a file name

ARGUMENTS: dict[str, list[bytes]] = {
    "nothing": [],
    "a number": [number(HUGE)],
    "a shape": [tuple_of(number(HUGE), number(HUGE))],
    "text": [text("x" * 1000), text("idna")],
    "a tensor repeated": [tensor((1 << 24,), (0,))],
    "a tensor outside": [tensor((4,), (1,), 1 << 30)],
    "a huge tensor": sized(HUGE, 1),
    "a repeated tensor": sized(HUGE, 0),
    "a tensor backwards": sized(4, -1, 3),
    "a tensor before its storage": sized(4, 1, -1000),
    "a tensor beyond its storage": sized(4, 1, 1 << 30),
    "a tensor of another type": [*sized(4, 1), named("torch.float64")],
    "a quantised tensor": [
        *sized(HUGE, 1)[:4],
        tuple_of(named("torch.per_tensor_affine"), real(1.0), number(0)),
        NOBODY,
    ],
    "a sparse tensor": [
        call("torch.serialization._get_layout", text("torch.sparse_csr")),
        tuple_of(tensor(), tensor(), tensor(), tuple_of(number(HUGE))),
    ],
    "a nested tensor": [tensor(), tensor((1, 1), (1, 1)), tensor((1, 1), (1, 1)), tensor((1,))],
    "a copy of a tensor": [
        tensor((1 << 26,), (0,)), named("torch.float64"), text("cpu"), b"\x89",
    ],
    "a tensor without storage": [
        named("torch.Tensor"), named("torch.float32"), tuple_of(number(HUGE)), tuple_of(number(1)),
        number(0), b"N", text("cpu"), b"\x89",
    ],
    "another call": [
        named("torch.storage.UntypedStorage"), named("torch.Tensor"), tuple_of(number(1 << 33)),
        dict_of({"data": tensor((HUGE,), (0,))}),
    ],
    "a state": [tensor(), NOBODY, dict_of({"data": tensor((9,))})],
}  # fmt: skip


def globals_of_torch() -> list[str]:
    """What ``torch.load(weights_only=True)`` itself allows a file to call."""
    unpickler = pytest.importorskip("torch._weights_only_unpickler")
    return sorted(unpickler._get_allowed_globals())


def asked_of(dotted: str) -> Iterator[bytes]:
    """Every way in which a file can ask for something that it names."""
    yield named(dotted)
    for arguments in ARGUMENTS.values():
        yield call(dotted, *arguments)
    yield new(dotted)
    yield new(dotted, number(HUGE))
    yield new(dotted, tensor((1 << 24,), (0,)))
    for state in (
        tuple_of(*sized(4, 1, 1 << 30)[:4]),
        tuple_of(tensor((HUGE,), (0,)), NOBODY, NOBODY),
        dict_of({"data": tensor((HUGE,), (0,)), "__class__": named("torch.Tensor")}),
    ):
        yield built(new(dotted), state)
        yield built(called(named(dotted)), state)


@pytest.mark.slow
@pytest.mark.parametrize("format", WRITERS)
def test_whatever_torch_allows_is_harmless(format: str, tmp_path: Path, server: Server) -> None:
    programs = [content for dotted in globals_of_torch() for content in asked_of(dotted)]
    assert len(programs) > 2000
    paths = []
    for i, content in enumerate(programs):
        whole = dict_of({"state_dict": dict_of({"a": tensor(), "b": content}), "c": content})
        paths.append(WRITERS[format](tmp_path / f"{i}.ckpt", whole))
    opened = 0
    for content, answer in zip(programs, server.open(paths, memory=512 * MIB), strict=True):
        assert answer["peak"] < SLACK, (content, answer)
        assert answer["seconds"] < 5.0, (content, answer)
        if answer["said"] is None:
            opened += 1
            # Whatever opens holds nothing but what the file does.
            assert answer["tensors"].pop("a") == ["1.0", "2.0", "3.0", "4.0"], content
            assert set(answer["tensors"].get("b", ())) <= {"1.0", "2.0", "3.0", "4.0"}, content
        else:
            assert "died" not in answer["said"], content
    assert opened > 100


# Tensors that reach outside

OUTSIDE: dict[str, bytes] = {
    "more numbers than there are": tensor((5,)),
    "a stride beyond": tensor((2,), (4,)),
    "an offset beyond": tensor((1,), (1,), 4),
    "an offset far beyond": tensor((1,), (1,), 1 << 61),
    "an offset beyond, of nothing": tensor((0,), (1,), 5),
    "an offset before": tensor((1,), (1,), -1),
    "a stride backwards": tensor((2,), (-1,), 3),
    "a negative extent": tensor((-4,)),
    "extents that overflow": tensor((1 << 61, 16), (0, 0)),
    "strides that overflow": tensor((3, 3), (1 << 61, 1 << 61)),
    "more strides than extents": tensor((4,), (1, 1)),
    "more extents than strides": tensor((2, 2), (1,)),
    "too many axes": tensor((1,) * 65, (1,) * 65),
    "extents that are no numbers": call(REBUILD, storage(), number(0), b"\x88\x85", b"\x88\x85"),
    "no extents": call(REBUILD, storage(), number(0), b"N", b"N"),
    "no storage": call(REBUILD, b"N", number(0), tuple_of(number(1)), tuple_of(number(1))),
    "no arguments": call(REBUILD),
    "a storage larger than its record": tensor(over=storage(HUGE)),
    "a storage one number larger": tensor(over=storage(5)),
    "a storage less than empty": tensor(over=storage(-4)),
    "a storage of wider numbers": tensor(over=storage(kind="torch.DoubleStorage")),
    "a storage that is not there": tensor(over=storage(key="1")),
    "a storage by the name of a path": tensor(over=storage(key="../../../etc/passwd")),
    "a storage of no type": tensor(over=storage(kind="torch.NoStorage")),
    "a storage of something else": tensor(over=storage().replace(text("storage"), text("module"))),
    "a storage in too few words": tensor(over=tuple_of(text("storage")) + b"Q"),
    "a storage that is a number": tensor(over=number(3) + b"Q"),
    "a type wider than its storage": call(
        "torch._utils._rebuild_tensor_v3", *sized(4, 1), named("torch.float64")
    ),
    "a type that is none": call(
        "torch._utils._rebuild_tensor_v3", *sized(4, 1), named("torch._dynamo")
    ),
    "repeated over and over": tensor((HUGE,), (0,)),
    "overlapping itself": tensor((3, 3), (0, 1)),
}


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize("case", OUTSIDE)
def test_a_tensor_that_reaches_outside_is_refused(
    case: str, format: str, tmp_path: Path, server: Server
) -> None:
    content = dict_of({"state_dict": dict_of({"a": OUTSIDE[case]})})
    path = WRITERS[format](tmp_path / "a.ckpt", content)
    (answer,) = server.open([path], memory=256 * MIB)
    assert (answer["said"] or "opened").startswith(str(path)), answer
    assert answer["peak"] < SLACK


def test_a_tensor_within_its_storage_is_read(tmp_path: Path) -> None:
    content = dict_of(
        {
            "all": tensor(),
            "part": tensor((2,), (2,), 1),
            "square": tensor((2, 2), (1, 2)),
            "none": tensor((0,), (1,), 4),
            "one": tensor((), (), 3),
        }
    )
    for name, write in WRITERS.items():
        with open_checkpoint(write(tmp_path / name, content)) as checkpoint:
            found = {key: checkpoint.read(key).tolist() for key in checkpoint.tensors}
        assert found == {
            "all": [1, 2, 3, 4], "part": [2, 4], "square": [[1, 3], [2, 4]], "none": [], "one": 4,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("start", "count", "shape", "read"),
    [
        (1, 2, 2, [2.0, 3.0]),
        (0, 4, 4, [1.0, 2.0, 3.0, 4.0]),
        (1, 2, 3, None),
        (2, 4, 2, None),
        (5, 0, 0, None),
        (-1, 2, 2, None),
        (1, HUGE, 2, None),
    ],
)
def test_a_view_ends_where_its_storage_does(
    start: int, count: int, shape: int, read: list[float] | None, tmp_path: Path
) -> None:
    view = storage(view=tuple_of(text("v"), number(start), number(count)))
    path = write_legacy(tmp_path / "a.ckpt", dict_of({"a": tensor((shape,), over=view)}))
    if read is None:
        assert said_of(path) is not None
    else:
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.read("a").tolist() == read


@pytest.mark.parametrize("keys", [[], ["0", "0"], ["1"], ["0", "1"]])
def test_a_list_of_storages_that_lies_is_refused(keys: list[str], tmp_path: Path) -> None:
    assert said_of(write_legacy(tmp_path / "a.ckpt", dict_of({"a": tensor()}), keys)) is not None


@pytest.mark.parametrize("count", [-1, 0, 3, 5, 1 << 40, -(1 << 40), (1 << 63) - 1])
def test_a_length_that_lies_is_refused(count: int, tmp_path: Path) -> None:
    path = write_legacy(tmp_path / "a.ckpt", dict_of({"a": tensor()}))
    content = path.read_bytes()
    path.write_bytes(content[:-24] + struct.pack("<q", count) + content[-16:])
    assert said_of(path) is not None


# Bombs


def hex_bomb() -> bytes:
    """Bytes that double with each call."""
    content = call("_codecs.encode", text("x"), text("latin1"))
    for _ in range(60):
        content = named("_codecs.encode") + b"(" + content + text("hex") + b"tR"
    return content


PAIRS = b")" + b"q\x01h\x01\x86" * 100
"""A tuple of twice a tuple of twice a tuple, and so on."""

BOMBS: dict[str, bytes] = {
    "bytearray": call("builtins.bytearray", number(1 << 36)),
    "bytes upon bytes": hex_bomb(),
    "a tensor of its own": call("torch.FloatTensor", number(1 << 34)),
    "a storage of its own": call("torch.storage.UntypedStorage", number(1 << 36)),
    "a set of a tensor's numbers": call("builtins.set", tensor((1 << 30,), (0,))),
    "a copy of a tensor": call(
        "torch._utils._rebuild_device_tensor_from_cpu_tensor",
        tensor((1 << 33,), (0,)), named("torch.float64"), text("cpu"), b"\x89",
    ),
    "tuples of tuples": PAIRS,
    "tuples of tuples as a key": b"}" + PAIRS + b"Ns",
    "tuples of tuples in a set": call("builtins.set", list_of(PAIRS)),
    "lists in lists": b"]" * 100_000 + b"a" * 99_999,
    "lists without end": b"(" + b"]" * 300_000 + b"t",
    "dicts in dicts": b"}N" * 50_000 + b"}" + b"s" * 50_000,
    "dicts as keys": b"}" * 50_000 + b"Ns" * 50_000,
    "calls of calls": named("builtins.dict") + b"q\x01" + b"h\x01" * 50_000 + b")"
    + b"R\x85" * 49_999 + b"R",
    "a place far off in the memo": b"Nr\xff\xff\xff\xff",
    "text longer than the file": b"X\xff\xff\xff\xffab",
    "a number of 255 bytes": b"\x8a\xff" + b"\x7f" * 255,
    "marks upon marks": b"(" * 200_000,
}  # fmt: skip


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_takes_memory_in_proportion_to_its_file(
    case: str, format: str, tmp_path: Path, server: Server
) -> None:
    contents = {
        "in place of all": BOMBS[case],
        "among the weights": dict_of({"state_dict": dict_of({"a": tensor(), "b": BOMBS[case]})}),
        "beside the weights": dict_of({"state_dict": dict_of({"a": tensor()}), "b": BOMBS[case]}),
    }
    paths = [WRITERS[format](tmp_path / place, content) for place, content in contents.items()]
    answers = server.open(paths, memory=512 * MIB)
    for path, answer in zip(paths, answers, strict=True):
        assert (answer["said"] or str(path)).startswith(str(path)), answer
        # One byte of a file makes an empty dict, which takes 64 bytes and a place.
        assert answer["peak"] < SLACK + 100 * path.stat().st_size
        assert answer["seconds"] < 20.0


TORCH = """
import resource, sys, torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
torch.load(sys.argv[1], weights_only=True)
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > 1 << 17
"""


def test_torch_would_have_taken_the_memory(tmp_path: Path, server: Server) -> None:
    bomb = call("builtins.bytearray", number(1 << 28))
    path = write_zipped(tmp_path / "a.ckpt", dict_of({"a": tensor(), "b": bomb}))
    (answer,) = server.run({"python": TORCH, "arguments": [str(path)]})
    assert answer.code == 0, answer.err


@pytest.mark.slow
@pytest.mark.parametrize("format", WRITERS)
def test_no_instruction_is_harmful(format: str, tmp_path: Path) -> None:
    starts = (b"", b"N", b"NN", b"](", b"}(N", b"}(NN", b"(", named(STATE) + b")", tensor())
    for code in range(256):
        for before in starts:
            path = WRITERS[format](tmp_path / "a.ckpt", before + bytes([code]) + b"\x00" * 9)
            assert said_of(path) is not None


# Names


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "a\x00", "x" * 1001, "\u202eb", "\x7f"])
@pytest.mark.parametrize("format", WRITERS)
def test_a_name_that_a_terminal_would_choke_on_is_refused(
    name: str, format: str, tmp_path: Path
) -> None:
    path = WRITERS[format](tmp_path / "a.ckpt", dict_of({name: tensor()}))
    assert "a tensor has the name" in (said_of(path) or "")


@pytest.mark.parametrize("name", [b"\xed\xa0\x80", b"\xff", b"\x00"])
def test_a_name_that_is_no_text_is_refused(name: bytes, tmp_path: Path) -> None:
    key = b"X" + struct.pack("<I", len(name)) + name
    assert said_of(write_zipped(tmp_path / "a.ckpt", dict_of([(key, tensor())]))) is not None


@pytest.mark.parametrize("name", [b"c\x1b[2J\nx\n", b"cx\ny\x00\n", b"c\xff\nx\n", b"cx\ny"])
def test_a_class_whose_name_is_none_is_refused(name: bytes, tmp_path: Path) -> None:
    path = write_zipped(tmp_path / "a.ckpt", dict_of({"a": tensor(), "b": name}))
    assert said_of(path) is not None
