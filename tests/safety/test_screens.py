"""No text from outside moves a terminal's cursor or turns its direction, on any screen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from ..checkpoints import autoencoder, write_safetensors
from .refusals import command

CPU_FLAGS = ("--device", "cpu")
EVIL = "x\nparity: bitwise\x1b[31m\x1b]0;owned\x07\u202egnp\u2066\u200f\x7f\x9b2J"
"""Colours, a title, a bell, direction marks, DEL, and an escape of one byte in Latin-1."""


def is_safe(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint whose name and header hold what a terminal would obey."""
    return write_safetensors(
        tmp_path / f"{EVIL}.safetensors",
        autoencoder(ch_mult=[1]),
        {"inflate.source.name": EVIL, "inflate.parity.verdict": EVIL},
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "SOURCE"),
        ("inspect", "SOURCE", "--json"),
        ("inspect", "SOURCE", "-q"),
        ("inspect", f"missing{EVIL}"),
        ("convert", "SOURCE", "--dry-run", *CPU_FLAGS),
        ("convert", "SOURCE", *CPU_FLAGS),
        ("convert", "SOURCE", *CPU_FLAGS, "--json"),
        ("convert", "SOURCE", *CPU_FLAGS, "-q"),
        ("convert", "SOURCE", *CPU_FLAGS, "--prefix", EVIL),
        ("batch", "SOURCE", *CPU_FLAGS, "-o", "FOLDER/out"),
        ("batch", "SOURCE", "--dry-run", "-o", "FOLDER/out"),
        ("batch", f"FOLDER/gone{EVIL}", "-o", "FOLDER/out"),
    ],
    ids=lambda arguments: " ".join(arguments[:4]).encode("unicode_escape").decode()[:60],
)
def test_outside_text_is_escaped(arguments: tuple[str, ...], source: Path, tmp_path: Path) -> None:
    words = [
        str(source) if word == "SOURCE" else word.replace("FOLDER", str(tmp_path))
        for word in arguments
    ]
    _, out, err = command(words)
    assert is_safe(out), ascii(out)
    assert is_safe(err), ascii(err)
    assert "parity: bitwise  (" in out or not any(
        line.startswith("parity: bitwise") for line in (out + err).splitlines()
    )
    if "--json" in words:
        assert isinstance(json.loads(out), dict)


def test_verify_and_reports_escape_it_too(source: Path, tmp_path: Path) -> None:
    target = tmp_path / f"video{EVIL}.safetensors"
    code, out, _ = command(["convert", str(source), "-o", str(target), *CPU_FLAGS])
    assert code == 0
    assert "\\x1b" in out
    with safe_open(target, "pt") as opened:
        header = {**opened.metadata(), "inflate.source.name": EVIL}
    write_safetensors(target, load_file(target), header)
    report = tmp_path / "report.json"
    for more in ((), ("--json",), ("-q",), ("--report", str(report))):
        code, out, err = command(["verify", str(source), str(target), *CPU_FLAGS, *more])
        assert code == 0
        assert is_safe(out), ascii(out)
        assert is_safe(err), ascii(err)
    for more in ((), ("--to", "html", "-o", "-"), ("--to", "md", "-o", "-")):
        code, out, err = command(["report", str(report), *more])
        assert code == 0
        assert is_safe(out), ascii(out)
