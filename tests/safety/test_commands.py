"""Random commands and files: each ends in a result or one message, and changes no other file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..conversions import snapshot
from .drawing import CONFIGS, FORMATS, KINDS, MANIFESTS, READS, REPORTS, Case, checkpoint_case
from .ground import VALUE_OF_SECRET, Ground


@pytest.mark.parametrize("count", [3, pytest.param(150, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_command_ends_as_documented(ground: Ground, kind: str, count: int) -> None:
    ground.property(kind, count)()
    if count > 100:  # Some cases must be valid, and most of them not.
        assert ground.codes[0] >= count // 30
        assert ground.codes[2] > count // 4


def test_every_case_is_valid_before_its_edits(ground: Ground) -> None:
    documents = [(("convert", "img.ckpt", "--config"), content) for content in CONFIGS]
    documents += [(("batch", "-q"), content) for content in MANIFESTS]
    cases = [
        *(Case((*words, "case.yaml", "--dry-run"), {"case.yaml": yaml.safe_dump(content).encode()})
          for words, content in documents),
        *(Case(("report", name)) for name in REPORTS),
        *(checkpoint_case(source, {}, ground.stock, READS[0]) for source in FORMATS),
    ]  # fmt: skip
    for case in cases:
        found = ground.run(case)
        assert (found.code, found.problems) == (0, ()), (case.arguments, found.err)


def harm(path: str, content: bytes = b"x", code: int = 0) -> tuple[int, str, str]:
    """A command that writes a file."""
    Path(path).write_bytes(content)
    return code, "", "error: x\n" if code else ""


HARM: tuple[Callable[[], Any], ...] = (
    lambda: {}["x"], lambda: (70, "", "Traceback (most recent call last):\n"), lambda: (2, "", ""),
    lambda: (2, "", "error: a\nerror: b\n"), lambda: (0, "\x1b[2J\n", ""),
    lambda: (0, '{"x": NaN}\n', ""), lambda: (0, json.dumps({"x": VALUE_OF_SECRET}), ""),
    lambda: harm("img.safetensors"), lambda: harm(".new.safetensors.1f2e3d4c.staged"),
    lambda: harm("new.md", code=2), lambda: harm("new.safetensors", b"\xff\0\0\0\0\0\0\0{"),
)  # fmt: skip


def test_harm_is_noticed_and_undone(ground: Ground) -> None:
    before = snapshot(ground.root)
    for number, command in enumerate(HARM):
        found = ground.run(Case(("convert", "--json", "x")), lambda _, command=command: command())
        assert found.problems, number
        assert snapshot(ground.root) == before
    assert ground.run(Case(("presets", "--json"))).problems == ()
