"""Random commands and files: each ends in a result or one message, and changes no other file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from ..conversions import snapshot
from . import ground as grounds
from .drawing import (
    CONFIGS,
    FORMATS,
    KINDS,
    MANIFESTS,
    MARK,
    REPORTS,
    Case,
    checkpoint_case,
    draw,
    skeletons,
)
from .ground import Ground


@pytest.mark.parametrize("count", [3, pytest.param(150, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_command_ends_as_documented(ground: Ground, kind: str, count: int) -> None:
    codes: Counter[int | None] = Counter()
    findings = {}
    for number in range(count):
        case = draw(kind, 1, number, ground.stock)
        found = ground.run(case)
        codes[found.code] += 1
        if found.problems:
            findings[number] = found.problems, case.arguments
    assert not findings, f"python scripts/fuzz.py commands --seed 1 --kind {kind} --case N"
    if count > 100:  # Some cases must be valid, and most of them not.
        assert codes[0] >= count // 30
        assert codes[2] > count // 4


def test_a_case_depends_on_its_seed_and_number_alone(ground: Ground) -> None:
    for kind in KINDS:
        first, again, other = (
            [draw(kind, seed, number, ground.stock) for number in range(5)] for seed in (1, 1, 2)
        )
        assert first == again != other


def yaml_case(*arguments: str, document: object) -> Case:
    return Case((*arguments, "--dry-run"), {"case.yaml": yaml.safe_dump(document).encode()})


@pytest.mark.parametrize(
    "case",
    [
        *(yaml_case("convert", "img.ckpt", "--config", "case.yaml", document=c) for c in CONFIGS),
        *(yaml_case("batch", "-q", "case.yaml", document=document) for document in MANIFESTS),
        *(Case(("report", name)) for name in REPORTS),
        Case(("verify", "img.safetensors", "conv.safetensors")),
    ],
)
def test_every_case_is_valid_before_its_edits(ground: Ground, case: Case) -> None:
    found = ground.run(case)
    assert (found.code, found.problems) == (0, ()), found.err


@pytest.mark.parametrize("source", FORMATS)
def test_every_checkpoint_is_valid_before_its_edits(ground: Ground, source: str) -> None:
    case = checkpoint_case(source, {}, ground.stock, ("convert", "--dry-run"))
    for name, content in skeletons(source, ground.stock).items():
        assert content.count(MARK) == 1
        assert case.files[f"case.{name}"] == ground.stock[name]
    found = ground.run(case)
    assert (found.code, found.problems) == (0, ()), found.err


Result = tuple[int, str, str]


def wrote(path: str, content: bytes = b"x", code: int = 0) -> Callable[[], Result]:
    """A command that writes a file."""

    def command() -> Result:
        Path(path).write_bytes(content)
        return code, "", "error: x\n" if code else ""

    return command


def raised() -> Result:
    raise KeyError("x")


def switched() -> Result:
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
    return 0, "", ""


def drew() -> Result:
    torch.rand(1)
    return 0, "", ""


def removed() -> Result:
    Path("hard.safetensors").unlink()
    return 0, "", ""


HARM: dict[str, Callable[[], Result]] = {
    "an exception": raised, "a bug": lambda: (70, "", "Traceback (most recent call last):\n"),
    "no parity of a conversion": lambda: (1, "x\n", ""), "no message": lambda: (2, "", ""),
    "two messages": lambda: (2, "", "error: a\nerror: b\n"),
    "a result and a message": lambda: (2, "x\n", "error: a\n"),
    "an escape sequence": lambda: (0, "\x1b[2J\n", ""),
    "a direction mark in a message": lambda: (2, "", "error: \u202e\n"),
    "two documents": lambda: (0, "{}\n{}\n", ""),
    "a number that JSON does not have": lambda: (0, '{"x": NaN}\n', ""),
    "a secret": lambda: (0, json.dumps({"x": grounds.VALUE_OF_SECRET}), ""),
    "a secret in a file": wrote("new.safetensors", grounds.VALUE_OF_SECRET.encode()),
    "a source that is changed": wrote("img.safetensors"), "a source that is gone": removed,
    "a staged file": wrote(".new.safetensors.1f2e3d4c.staged"),
    "half an output": wrote("new.safetensors", b"\xff\0\0\0\0\0\0\0{"),
    "half a report": wrote("new.xml", b"<testsuites>"),
    "an output of a command that failed": wrote("new.md", code=2), "a switch of torch": switched,
    "a draw from torch's generator": drew,
}  # fmt: skip


@pytest.mark.parametrize("harm", HARM)
def test_harm_is_noticed_and_undone(ground: Ground, harm: str) -> None:
    benchmark = torch.backends.cudnn.benchmark
    before = snapshot(ground.root)
    try:
        case = Case(("convert", "--json", "img.safetensors"))
        assert ground.run(case, lambda _: HARM[harm]()).problems
    finally:
        torch.backends.cudnn.benchmark = benchmark
    assert snapshot(ground.root) == before
    assert ground.run(Case(("presets", "--json"))).problems == ()
