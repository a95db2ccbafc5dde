"""Running the command line inside the tests' own process."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from inflate.cli.app import main
from inflate.signals import ENDING

from ..checkpoints import autoencoder, write_torch
from ..conversions import nudged

Run = Callable[..., "Ran"]
CPU = ("--device", "cpu")
BIAS = "decoder.conv_out.time_mix_conv.bias"


@dataclass(frozen=True)
class Ran:
    """The exit code of a command, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Its output as JSON, which has no NaN."""
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(name))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a command, as in a pipe 200 columns wide."""
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    handlers = {number: signal.getsignal(number) for number in ENDING}

    def command(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    yield command
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def wrong(tiny_video: Path, tmp_path: Path) -> Path:
    """A video checkpoint that does not equal its image decoder, since ``BIAS`` was changed."""
    return nudged(tiny_video, tmp_path / "wrong.safetensors", BIAS)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The smallest autoencoder, alone in the test's folder."""
    return write_torch(tmp_path / "img.pt", autoencoder(ch_mult=[1]))
