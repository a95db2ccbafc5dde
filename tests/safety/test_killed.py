"""Conversions that are killed: the destination is absent, or whole; the next run cleans up."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ..checkpoints import autoencoder, write_safetensors
from ..conversions import sha256, snapshot
from .serving import EXPORT, Server

KILLED = -9
OLD = b"what was there"
CPU_FLAGS = ("--device", "cpu")
QUICK = (*CPU_FLAGS, "--skip-parity")

either = pytest.mark.parametrize("overwrite", [False, True], ids=["absent", "overwritten"])


def names(folder: Path) -> list[str]:
    """The files of a folder, hidden ones too."""
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A destination in a folder of its own."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "video.safetensors"


@pytest.mark.slow
@either
@pytest.mark.parametrize(
    ("changes", "options"),
    [({"ch_mult": [1]}, CPU_FLAGS), ({"ch": 64, "ch_mult": [1, 2], "num_res_blocks": 2}, QUICK)],
    ids=["small, with parity", "large, without"],
)
def test_a_conversion_killed_at_any_moment(
    changes: dict[str, Any], options: tuple[str, ...], overwrite: bool, output: Path,
    tmp_path: Path, server: Server,
) -> None:  # fmt: skip
    source = write_safetensors(tmp_path / "img.safetensors", autoencoder(**changes))
    command = ("convert", source, "-o", output, *options, *["--overwrite"] * overwrite)
    undisturbed = [server.command(*command, "--overwrite") for _ in range(3)]
    assert [answer.code for answer in undisturbed] == [0, 0, 0], undisturbed[0].err
    longest = sorted(answer.seconds for answer in undisturbed)[1]
    new = sha256(output)
    drawn = random.Random(str(options) + str(overwrite))
    killed = left = 0
    for i in range(13):
        output.unlink(missing_ok=True)
        if overwrite:
            output.write_bytes(OLD)
        # Spread over the time it takes, and drawn within each part.
        moment = longest * (i + drawn.random()) / 12 * 1.05
        answer = server.command(*command, kill_after=moment)
        assert answer.code in (KILLED, 0), answer.err
        killed += answer.code == KILLED
        staged = [name for name in names(output.parent) if name.startswith(".")]
        assert len(staged) <= 1  # The files that earlier runs left are gone.
        left += len(staged)
        if answer.code == 0 or (output.exists() and not overwrite):
            assert sha256(output) == new
        elif overwrite:
            assert output.read_bytes() == OLD or sha256(output) == new
    assert killed >= 6
    assert left > 0, "no run was killed in the middle of its work"
    assert server.command(*command, *["--overwrite"] * (not overwrite)).code == 0
    assert sha256(output) == new
    assert names(output.parent) == [output.name]


FILE = {"fsync": 2, "link": 1, "unlink": 1, "replace": 1}
FOLDER = {"mkdir": 1, "fsync": 4, "rename": 3, "rmdir": 1, "unlink": 2}
"""The functions that make a file or a folder, and how often each is called at most."""


@pytest.mark.slow
@either
@pytest.mark.parametrize(
    ("options", "steps"), [(QUICK, FILE), (EXPORT, FOLDER)], ids=["file", "folder"]
)
def test_a_conversion_killed_at_each_step_of_publishing(
    options: tuple[str, ...], steps: dict[str, int], overwrite: bool, output: Path, single: Path,
    server: Server,
) -> None:  # fmt: skip
    command = ("convert", single, "-o", output, *options, *["--overwrite"] * overwrite)
    assert server.command(*command).code == 0
    whole = snapshot(output.parent)
    killed = 0
    for function, calls in steps.items():
        for count in range(2 * calls):
            if not overwrite and output.exists():
                shutil.rmtree(output) if output.is_dir() else output.unlink()
            answer = server.command(
                *command, die=(function, ("before", "after")[count % 2], count // 2)
            )
            assert answer.code in (KILLED, 0), answer.err
            killed += answer.code == KILLED
            if output.exists():
                found = snapshot(output.parent)
                assert {name: found.get(name) for name in whole} == whole
    assert killed >= len(steps)
    # The next run removes what earlier ones left, even where it can do nothing else.
    assert server.command(*command).code == (2 if output.exists() and not overwrite else 0)
    assert snapshot(output.parent) == whole


def test_a_conversion_killed_before_it_is_published(
    output: Path, single: Path, server: Server
) -> None:
    command = ("convert", single, "-o", output, *QUICK)
    assert server.command(*command, die=("fsync", "before", 0)).code == KILLED
    assert not output.exists()
    assert len(names(output.parent)) == 1
    assert server.command(*command).code == 0
    assert names(output.parent) == [output.name]
    assert load_file(output)
