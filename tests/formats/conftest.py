"""What the tests of formats share: the command line, diffusers imported once, a count of reads."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from inflate.formats.targets import LAYOUTS
from inflate.io.reader import Checkpoint

from ..checkpoints import DDCONFIG, autoencoder, write_safetensors
from ..cli.conftest import run
from .making import LIKE_CLASS

__all__ = ["run"]


@pytest.fixture(scope="session")
def diffusers() -> ModuleType:
    """The package, which takes seconds to import."""
    return pytest.importorskip("diffusers", reason="the extra diffusers is not installed")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """An image autoencoder without quant convs, which every layout has a place for."""
    return write_safetensors(tmp_path / "plain.safetensors", autoencoder("plain", **LIKE_CLASS))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> dict[Path, set[str]]:
    """The keys of every tensor that is read, by the file that it is read from."""
    found: dict[Path, set[str]] = defaultdict(set)

    def spy(name: str) -> None:
        original = getattr(Checkpoint, name)

        def spied(self: Checkpoint, key: str, *more: Any) -> Any:
            found[self.path].add(self.tensors[key].name)
            return original(self, key, *more)

        monkeypatch.setattr(Checkpoint, name, spied)

    spy("read")
    spy("pieces")
    return found


@pytest.fixture
def tiny_comfyui(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let layout ``comfyui`` take the tiny architecture in place of the one that it hardwires."""
    layout = LAYOUTS["comfyui"]
    tiny = {**DDCONFIG, **LIKE_CLASS}
    hardwired = {**layout.hardwired, "ch": tiny["ch"], "ch_mult": tuple(tiny["ch_mult"])}
    monkeypatch.setitem(LAYOUTS, "comfyui", replace(layout, hardwired=hardwired))  # type: ignore[arg-type]
