"""Conversions that are killed: the destination is absent, or whole; the next run cleans up."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ..checkpoints import autoencoder, write_safetensors
from ..conversions import metadata_of, sha256, snapshot
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


STEPS = [(function, when, count)
         for function, count in (("fsync", 0), ("link", 0), ("unlink", 0), ("fsync", 1),
                                 ("replace", 0))
         for when in ("before", "after")]  # fmt: skip
FEW = [("fsync", "before", 0), ("link", "after", 0), ("replace", "before", 0)]


@either
@pytest.mark.parametrize(
    "step",
    [step if step in FEW else pytest.param(step, marks=pytest.mark.slow) for step in STEPS],
    ids=lambda step: f"{step[1]} {step[0]} {step[2]}",
)
def test_a_conversion_killed_at_each_step_of_publishing(
    step: tuple[str, str, int], overwrite: bool, output: Path, single: Path, server: Server
) -> None:
    command = ("convert", single, "-o", output, *QUICK, *["--overwrite"] * overwrite)
    if overwrite:
        output.write_bytes(OLD)
    answer = server.command(*command, die=step)
    if answer.code == 0:  # The other way of publishing does not take this step.
        assert step[0] in ("link" if overwrite else "replace", "unlink")
    else:
        assert answer.code == KILLED
    if output.exists() and not (overwrite and output.read_bytes() == OLD):
        assert metadata_of(output)["inflate.parity.verdict"] == "unverified"
        assert load_file(output)
    published = output.exists() and not overwrite
    again = server.command(*command)
    # The next run removes what this one left, even where it can do nothing else.
    assert again.code == (2 if published else 0), again.err
    assert names(output.parent) == [output.name]
    assert load_file(output)


@pytest.mark.slow
@either
def test_an_export_killed_at_any_step(
    overwrite: bool, output: Path, single: Path, server: Server
) -> None:
    command = ("convert", single, "-o", output, *EXPORT, "--overwrite")
    assert server.command(*command).code == 0
    whole = snapshot(output)
    killed = 0
    # The functions that make a folder, and how often each is called at most.
    for function, calls in {"mkdir": 1, "fsync": 4, "rename": 3, "rmdir": 1, "unlink": 2}.items():
        for count in range(2 * calls):
            if not overwrite and output.exists():
                shutil.rmtree(output)
            when = ("before", "after")[count % 2]
            answer = server.command(*command, die=(function, when, count // 2))
            assert answer.code in (KILLED, 0), answer.err
            killed += answer.code == KILLED
            if output.exists():
                assert snapshot(output) == whole
    assert killed >= 10
    assert server.command(*command).code == 0
    assert snapshot(output) == whole
    assert names(output.parent) == [output.name]
