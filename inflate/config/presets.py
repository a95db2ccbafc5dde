"""The presets: the YAML files of ``configs/``, found in a checkout and after a plain install."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from inflate.config.schema import Architecture


@dataclass(frozen=True)
class Preset:
    """A named configuration that comes with the package."""

    path: Path
    content: dict[str, Any]

    @property
    def description(self) -> str:
        """What the preset is for, in a line."""
        return str(self.content["description"])

    @property
    def architecture(self) -> Architecture:
        """The architecture that it describes."""
        fields: dict[str, Any] = self.content["architecture"]
        own: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return Architecture(**own)


def preset_folder() -> Path:
    """Where the presets lie: inside the installed package, or next to it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


# The parser in C is some ten times as fast; PyYAML is also built without it.
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def load_presets() -> Mapping[str, Preset]:
    """Every preset by its name, in the order of their names; read once, and for reading only."""
    found = {}
    for path in sorted(preset_folder().glob("*.yaml"), key=lambda path: path.stem):
        content = yaml.load(path.read_text(encoding="utf-8"), _LOADER)  # noqa: S506 (a safe one)
        found[path.stem] = Preset(path, content)
    return MappingProxyType(found)
