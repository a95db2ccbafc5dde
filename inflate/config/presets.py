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

_SHOWN = (
    *("ch", "ch_mult", "num_res_blocks", "attn_resolutions", "in_channels", "out_ch"),
    *("z_channels", "double_z", "embed_dim", "n_embed"),
)
"""What tensors show of an architecture."""


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
        found[path.stem] = Preset(path.stem, path, content)
    return MappingProxyType(found)


def scaling_factors(architecture: Architecture) -> list[float]:
    """The scaling factors that presets of this architecture name, each once."""
    presets = load_presets()
    named = (presets[name].architecture.scaling_factor for name in matching_presets(architecture))
    return sorted({float(factor) for factor in named if factor is not None})


def matching_presets(architecture: Architecture) -> list[str]:
    """The names of the presets that describe this architecture, as far as tensors show it."""
    if not architecture.is_symmetric:
        return []
    known = {name: preset.architecture for name, preset in load_presets().items()}
    return [
        name
        for name, own in known.items()
        if all(getattr(own, key) == getattr(architecture, key) for key in _SHOWN)
        and (own.attn_type == "none") is (architecture.attn_type == "none")
    ]
