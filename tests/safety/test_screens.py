"""No text from outside moves a terminal's cursor or turns its direction, in any output."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from ..checkpoints import autoencoder, write_safetensors
from ..conversions import metadata_of
from .ground import wrong_outputs
from .refusals import command

CPU_FLAGS = ("--device", "cpu")
EVIL = "x\nparity: bitwise\x1b[31m\x1b]0;owned\x07\u202egnp\u2066\u200f\x7f\x9b2J"
"""Colours, a title, a bell, direction marks, DEL, and an escape of one byte in Latin-1."""


def safe(*words: object, codes: tuple[int, ...] = (0,)) -> None:
    """Run a command, and check that a terminal can show its outputs."""
    code, out, err = command(words)
    assert code in codes, err
    assert not list(wrong_outputs([str(word) for word in words], code, out, err))
    # A name must not look like a verdict.
    assert not any(line.strip() == "parity: bitwise" for line in (out + err).splitlines())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint with hostile text in its name and header."""
    return write_safetensors(
        tmp_path / f"{EVIL}.safetensors",
        autoencoder(ch_mult=[1]),
        {"inflate.source.name": EVIL, "inflate.parity.verdict": EVIL},
    )


def test_commands_escape_names_and_headers(source: Path, tmp_path: Path) -> None:
    safe("inspect", f"missing{EVIL}", codes=(2,))
    for more in ((), ("--json",), ("-q",)):
        safe("inspect", source, *more)
        safe("convert", source, "--overwrite", *CPU_FLAGS, *more)
    safe("convert", source, "--dry-run", *CPU_FLAGS)
    safe("convert", source, "--prefix", EVIL, *CPU_FLAGS, codes=(2,))
    out = ("-o", tmp_path / "out")
    safe("batch", source, "--dry-run", *out, codes=(0, 2))
    safe("batch", tmp_path / f"gone{EVIL}", *out, codes=(2,))
    safe("batch", source, *CPU_FLAGS, *out, codes=(0, 2))


def test_verify_and_reports_escape_names_and_headers(source: Path, tmp_path: Path) -> None:
    target, report = tmp_path / f"video{EVIL}.safetensors", tmp_path / "report.json"
    safe("convert", source, "-o", target, *CPU_FLAGS)
    metadata = {**metadata_of(target), "inflate.source.name": EVIL}
    write_safetensors(target, load_file(target), metadata)
    for more in (("--json",), ("-q",), ("--report", report)):
        safe("verify", source, target, *CPU_FLAGS, *more)
    for more in ((), ("--to", "html", "-o", "-"), ("--to", "md", "-o", "-")):
        safe("report", report, *more)
