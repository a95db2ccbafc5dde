"""Conversions that are killed: the destination is absent, or whole; the next run cleans up."""

from __future__ import annotations

import itertools
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from inflate.io.reader import open_checkpoint

from ..checkpoints import autoencoder, write_safetensors
from ..conversions import metadata_of, sha256, snapshot
from .serving import EXPORT, Server

pytestmark = pytest.mark.slow

KILLED = -9
MOMENTS = 50

SOURCES: dict[str, dict[str, Any]] = {
    "small, with parity": {"ch_mult": [1]},
    "large, without": {"ch": 64, "ch_mult": [1, 2], "num_res_blocks": 2},
}
MORE = {
    "small, with parity": ("--device", "cpu"),
    "large, without": ("--device", "cpu", "--skip-parity"),
}


def staged(folder: Path) -> list[str]:
    """The hidden files of a folder."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def check_whole(path: Path, expected: str) -> None:
    """A file that can be read, says what was checked, and has the bytes that it should."""
    assert sha256(path) == expected
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.metadata["inflate.parity.verdict"] in ("bitwise", "unverified")


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [False, True], ids=["absent", "overwritten"])
@pytest.mark.parametrize("kind", SOURCES)
def test_a_conversion_killed_at_any_moment(
    kind: str, overwrite: bool, tmp_path: Path, server: Server
) -> None:
    source = write_safetensors(tmp_path / "img.safetensors", autoencoder(**SOURCES[kind]))
    output = tmp_path / "out" / "video.safetensors"
    output.parent.mkdir()
    command = ("convert", source, "-o", output, *MORE[kind])
    command = (*command, "--overwrite") if overwrite else command
    undisturbed = [server.command(*command, "--overwrite") for _ in range(3)]
    assert [answer.code for answer in undisturbed] == [0, 0, 0], undisturbed[0].err
    longest = sorted(answer.seconds for answer in undisturbed)[1]
    new = sha256(output)
    if not overwrite:
        output.unlink()
    before, old = snapshot(tmp_path), b"what was there"

    drawn = random.Random(kind + str(overwrite))
    killed = finished = left = 0
    for i in range(MOMENTS // 4 + 1):
        # Spread over the time it takes, and drawn within each part of it.
        moment = longest * (i + drawn.random()) / (MOMENTS // 4) * 1.05
        if overwrite:
            output.write_bytes(old)
        answer = server.command(*command, kill_after=moment)
        assert answer.code in (KILLED, 0), answer.err
        killed += answer.code == KILLED
        assert len(staged(output.parent)) <= 1  # What an earlier run left is gone.
        left += len(staged(output.parent))
        if answer.code == 0:
            finished += 1
            check_whole(output, new)
        elif overwrite:
            assert output.read_bytes() == old or sha256(output) == new
        elif output.exists():
            check_whole(output, new)
        if not overwrite:
            output.unlink(missing_ok=True)
    assert killed >= MOMENTS // 8
    assert left > 0, "no run was killed in the middle of its work"
    assert server.command(*command).code == 0
    check_whole(output, new)
    assert staged(output.parent) == []
    if not overwrite:
        output.unlink()
        assert snapshot(tmp_path) == before


STEPS = [
    ("fsync", "before", 0),
    ("fsync", "after", 0),
    ("link", "before", 0),
    ("link", "after", 0),
    ("unlink", "before", 0),
    ("unlink", "after", 0),
    ("fsync", "before", 1),
    ("fsync", "after", 1),
    ("replace", "before", 0),
    ("replace", "after", 0),
]


@pytest.mark.parametrize("overwrite", [False, True], ids=["absent", "overwritten"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[1]} {step[0]} {step[2]}")
def test_a_conversion_killed_at_each_step_of_publishing(
    step: tuple[str, str, int], overwrite: bool, tmp_path: Path, server: Server
) -> None:
    source = write_safetensors(tmp_path / "img.safetensors", autoencoder(ch_mult=[1]))
    output = tmp_path / "out" / "video.safetensors"
    output.parent.mkdir()
    command: tuple[object, ...] = ("convert", source, "-o", output, "--skip-parity")
    if overwrite:
        output.write_bytes(b"what was there")
        command = (*command, "--overwrite")
    answer = server.command(*command, die=step)
    if answer.code == 0:
        assert step[0] == ("link" if overwrite else "replace") or step[0] == "unlink"
    else:
        assert answer.code == KILLED
    if output.exists() and not (overwrite and output.read_bytes() == b"what was there"):
        assert metadata_of(output)["inflate.parity.verdict"] == "unverified"
        assert load_file(output)
    published = output.exists() and not overwrite
    again = server.command(*command)
    # The next run removes what this one left, even where it can do nothing else.
    assert again.code == (2 if published else 0), again.err
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    assert load_file(output)


EXPORT_STEPS = {"mkdir": 1, "fsync": 4, "rename": 3, "rmdir": 1, "unlink": 2}
"""Functions of the system that make a folder, and how often each is called at most."""


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [False, True], ids=["absent", "overwritten"])
def test_an_export_killed_at_any_step(overwrite: bool, tmp_path: Path, server: Server) -> None:
    source = write_safetensors(
        tmp_path / "img.safetensors", autoencoder(ch_mult=[1], num_res_blocks=2)
    )
    output = tmp_path / "out" / "vae"
    output.parent.mkdir()
    command = ("convert", source, "-o", output, "--device", "cpu", *EXPORT, "--overwrite")
    assert server.command(*command).code == 0
    whole = snapshot(output)
    killed = 0
    for function, calls in EXPORT_STEPS.items():
        for when, count in itertools.product(("before", "after"), range(calls)):
            if not overwrite and output.exists():
                shutil.rmtree(output)
            answer = server.command(*command, die=(function, when, count))
            assert answer.code in (KILLED, 0), answer.err
            killed += answer.code == KILLED
            if output.exists():
                assert snapshot(output) == whole
    assert killed >= 10
    assert server.command(*command).code == 0
    assert snapshot(output) == whole
    assert [path.name for path in output.parent.iterdir()] == [output.name]
