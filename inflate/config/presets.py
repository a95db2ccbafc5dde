"""The presets: the YAML files in ``configs/``, in a checkout or an installed package."""

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
    """A named configuration that is included in the package."""

    path: Path
    content: dict[str, Any]

    @property
    def description(self) -> str:
        """The purpose of the preset, in one line."""
        return str(self.content["description"])

    @property
    def architecture(self) -> Architecture:
        """The architecture that it describes."""
        fields: dict[str, Any] = self.content["architecture"]
        own: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return Architecture(**own)


def preset_folder() -> Path:
    """The folder of the presets: inside the installed package, or next to it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


# The C parser is about ten times as fast, but some builds of PyYAML lack it.
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def load_presets() -> Mapping[str, Preset]:
    """Every preset by name, sorted; read once, and read-only."""
    found = {}
    for path in sorted(preset_folder().glob("*.yaml"), key=lambda path: path.stem):
        content = yaml.load(path.read_text(encoding="utf-8"), _LOADER)  # noqa: S506 (a safe one)
        found[path.stem] = Preset(path, content)
    return MappingProxyType(found)
