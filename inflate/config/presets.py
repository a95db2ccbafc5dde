"""The presets: the YAML files of ``configs/``, found in a checkout and after a plain install."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Preset:
    """A named configuration that comes with the package."""

    name: str
    path: Path
    content: dict[str, Any]

    @property
    def description(self) -> str:
        """What the preset is for, in a line."""
        return str(self.content["description"])


def preset_folder() -> Path:
    """Where the presets lie: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def load_presets() -> dict[str, Preset]:
    """Every preset by its name, in the order of their names."""
    found = {}
    for path in sorted(preset_folder().glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        found[path.stem] = Preset(path.stem, path, content)
    return found
