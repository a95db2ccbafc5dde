"""The presets: the YAML files of ``configs/``, found in a checkout and after a plain install."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from inflate.config.schema import Architecture


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
    found = [presets[name].content["architecture"].get("scaling_factor")
             for name in matching_presets(architecture)]  # fmt: skip
    return sorted({float(factor) for factor in found if factor is not None})


def matching_presets(architecture: Architecture) -> list[str]:
    """The names of the presets that describe this architecture, as far as tensors show it."""
    found: list[str] = []
    for name, preset in load_presets().items() if architecture.is_symmetric else ():
        told = preset.content["architecture"]
        known = {
            "attn_type": "vanilla",
            "double_z": True,
            "embed_dim": None,
            "n_embed": None,
            **told,
        }
        shown = {
            "ch": architecture.ch,
            "ch_mult": list(architecture.ch_mult),
            "num_res_blocks": architecture.num_res_blocks,
            "attn_resolutions": list(architecture.attn_resolutions),
            "in_channels": architecture.in_channels,
            "out_ch": architecture.out_ch,
            "z_channels": architecture.z_channels,
            "attn_type": "none" if architecture.attn_type == "none" else "vanilla",
            "double_z": architecture.double_z,
            "embed_dim": architecture.embed_dim,
            "n_embed": architecture.n_embed,
        }
        if all(known[key] == value for key, value in shown.items()):
            found.append(name)
    return found
