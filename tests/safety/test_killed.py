"""Conversions that are killed: the destination is absent, or whole; the next run cleans up."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ..conversions import snapshot
from .serving import EXPORT, Server

KILLED = -9
QUICK = ("--device", "cpu", "--skip-parity")

either = pytest.mark.parametrize("overwrite", [False, True], ids=["absent", "overwritten"])

FILE = {"pwrite": 3, "fsync": 2, "link": 1, "unlink": 1, "replace": 1}
FOLDER = {"mkdir": 1, "pwrite": 3, "fsync": 4, "rename": 3, "rmdir": 1, "unlink": 2}
"""The functions that make a file or a folder, and at how many calls of each a run is killed."""


@pytest.mark.slow
@either
@pytest.mark.parametrize(
    ("options", "steps"), [(QUICK, FILE), (EXPORT, FOLDER)], ids=["file", "folder"]
)
def test_a_conversion_killed_at_each_step(
    options: tuple[str, ...], steps: dict[str, int], overwrite: bool, out: Path, single: Path,
    server: Server,
) -> None:  # fmt: skip
    command = ("convert", single, "-o", out, *options, *["--overwrite"] * overwrite)
    assert server.command(*command).code == 0
    whole = snapshot(out.parent)
    killed = 0
    for function, calls in steps.items():
        for count in range(2 * calls):
            if not overwrite and out.exists():
                shutil.rmtree(out) if out.is_dir() else out.unlink()
            answer = server.command(
                *command, die=(function, ("before", "after")[count % 2], count // 2)
            )
            assert answer.code in (KILLED, 0), answer.err
            killed += answer.code == KILLED
            if out.exists():
                found = snapshot(out.parent)
                assert {name: found.get(name) for name in whole} == whole
    assert killed >= 6 + len(steps)  # Some steps are those of one way to publish.
    # The next run removes what earlier ones left, even where it can do nothing else.
    assert server.command(*command).code == (2 if out.exists() and not overwrite else 0)
    assert snapshot(out.parent) == whole


def test_a_conversion_killed_before_it_is_published(
    out: Path, single: Path, server: Server
) -> None:
    command = ("convert", single, "-o", out, *QUICK)
    assert server.command(*command, die=("fsync", "before", 0)).code == KILLED
    assert not out.exists()
    assert len(list(out.parent.iterdir())) == 1
    assert server.command(*command).code == 0
    assert list(out.parent.iterdir()) == [out]
    assert load_file(out)
