"""Commands that nobody meant: each ends as the manual says, and leaves everything as it was."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from . import commands
from .cases import CONFIGS, KINDS, MANIFESTS, REPORTS, Case, draw
from .commands import Ground

CASES = 150


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """A folder with a valid file of every kind."""
    return Ground(tmp_path_factory.mktemp("ground") / "root")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_asked_for(ground: Ground, kind: str) -> None:
    ends: Counter[int | None] = Counter()
    findings = {}
    for number in range(CASES):
        case = draw(kind, 1, number, ground.stock)
        found = ground.run(case)
        ends[found.code] += 1
        if found.problems:
            findings[number] = found.problems, case.arguments
    assert not findings, f"python scripts/fuzz.py commands --seed 1 --kind {kind} --case N"
    # Neither is a formality: some cases are valid, most are not.
    assert ends[0] >= 5
    assert ends[2] > CASES // 3


def test_a_case_is_the_same_whenever_it_is_drawn(ground: Ground) -> None:
    for kind in KINDS:
        drawn = [draw(kind, 1, number, ground.stock) for number in range(20)]
        assert drawn == [draw(kind, 1, number, ground.stock) for number in range(20)]
        assert drawn != [draw(kind, 2, number, ground.stock) for number in range(20)]


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
def test_what_is_mutated_is_valid_before(ground: Ground, case: Case) -> None:
    found = ground.run(case)
    assert (found.code, found.problems) == (0, ()), found.err


def wrote(path: str, content: bytes = b"x", code: int = 0) -> Callable[[], tuple[int, str, str]]:
    """A command that writes a file."""

    def command() -> tuple[int, str, str]:
        Path(path).write_bytes(content)
        return code, "", "error: x\n" if code else ""

    return command


def failed() -> tuple[int, str, str]:
    raise KeyError("x")


def switched() -> tuple[int, str, str]:
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
    return 0, "", ""


def drew() -> tuple[int, str, str]:
    torch.rand(1)
    return 0, "", ""


def lost() -> tuple[int, str, str]:
    Path("hard.safetensors").unlink()
    return 0, "", ""


HARM: dict[str, Callable[[], tuple[int, str, str]]] = {
    "an exception": failed,
    "a bug": lambda: (70, "", "Traceback (most recent call last):\n"),
    "no parity of a conversion": lambda: (1, "x\n", ""),
    "no message": lambda: (2, "", ""),
    "two messages": lambda: (2, "", "error: a\nerror: b\n"),
    "a result beside a message": lambda: (2, "x\n", "error: a\n"),
    "an escape sequence": lambda: (0, "\x1b[2J\n", ""),
    "an escape sequence in a message": lambda: (2, "", "error: \u202e\n"),
    "two documents": lambda: (0, "{}\n{}\n", ""),
    "a number that JSON has not": lambda: (0, '{"x": NaN}\n', ""),
    "a secret": lambda: (0, json.dumps({"x": commands._SECRET}), ""),
    "a secret in a file": wrote("new.safetensors", commands._SECRET.encode()),
    "a source that is changed": wrote("img.safetensors"),
    "a source that is gone": lost,
    "a staged file": wrote(".new.safetensors.1f2e3d4c.staged"),
    "half an output": wrote("new.safetensors", b"\xff\0\0\0\0\0\0\0{"),
    "half a report": wrote("new.xml", b"<testsuites>"),
    "an output of a command that failed": wrote("new.md", code=2),
    "a switch of torch's": switched,
    "a draw from torch's generator": drew,
}


@pytest.mark.parametrize("harm", HARM)
def test_harm_is_noticed_and_undone(ground: Ground, harm: str) -> None:
    benchmark = torch.backends.cudnn.benchmark
    before = commands.scan(ground.root)
    try:
        case = Case(("convert", "--json", "img.safetensors"))
        assert ground.run(case, lambda _: HARM[harm]()).problems
    finally:
        torch.backends.cudnn.benchmark = benchmark
    assert commands.scan(ground.root) == before
    assert ground.run(Case(("presets", "--json"))).problems == ()
