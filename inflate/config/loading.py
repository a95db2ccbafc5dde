"""Configurations from presets, YAML files and options, through OmegaConf.

Every input is first converted to settings, ``{"temporal.alpha": 0.25}``. Layers of settings
override what the checkpoint shows. Each value is checked, and all problems are raised at once.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from inflate.config.presets import load_presets
from inflate.config.schema import (
    DECODER_KEYS,
    SECTIONS,
    Architecture,
    Config,
    Settings,
    flatten,
    one_line,
)
from inflate.errors import ConfigError, nearest, quoted
from inflate.io.files import like

_OF_SIDES = ("level_channels", "num_res_blocks", "attention_levels")
_COMMON = ("z_channels", "out_ch", "resamp_with_conv")
_AROUND = ("in_channels", "double_z", "embed_dim", "n_embed")
"""Fields that tensors show, with their descriptions; a decoder alone does not show the last one."""

_WORDS = {
    "level_channels": "channels of the levels (ch times ch_mult)",
    "attention_levels": "levels with attention (from attn_resolutions and resolution)",
    "embed_dim": "embed_dim (of the quant convs)",
    "n_embed": "n_embed (of the codebook)",
}


def known_keys() -> list[str]:
    """Every dotted key of a configuration."""
    own = [field.name for field in dataclasses.fields(Config) if field.name not in SECTIONS]
    inner = [
        f"{name}.{f.name}" for name, kind in SECTIONS.items() for f in dataclasses.fields(kind)
    ]
    return [*DECODER_KEYS, *inner, *own]


def config_files(name_or_path: str | None) -> tuple[Path, ...]:
    """The file that :func:`read_config` reads."""
    if name_or_path is None:
        return ()
    preset = load_presets().get(name_or_path)
    return (preset.path if preset else Path(name_or_path),)


def read_config(name_or_path: str) -> Settings:
    """The settings of a preset or of a YAML file, ours or one that sgm or LDM wrote.

    Raises:
        ConfigError: there is no such preset or file, it is not YAML, it describes no autoencoder,
            or a value calls a resolver.
    """
    presets = load_presets()
    if name_or_path in presets:
        return flatten(presets[name_or_path].content)
    path = Path(name_or_path)
    if not os.path.isfile(path):  # Path.is_file raises if a name is too long.
        raise ConfigError(
            f"--config {name_or_path!r} does not name a preset or a file"
            f"{nearest(name_or_path, presets) or like(path)}; 'inflate presets' lists the presets"
        )
    from inflate.config.yaml_files import read_file  # Importing OmegaConf is slow.

    return read_file(path)


def parse_set(assignments: Iterable[str]) -> Settings:
    """The settings of ``--set key=value``; a unique last component is enough as a key.

    Raises:
        ConfigError: ``=`` is missing, or a value is not YAML.
    """
    by_leaf = _by_leaf()
    settings: Settings = {}
    problems = []
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            problems.append(f"--set {assignment[:80]!r}: expected key=value, such as alpha=0.25")
            continue
        try:
            settings[by_leaf.get(key, key)] = yaml.safe_load(value)
        # Not YAML, an invalid date or number, or brackets nested too deeply.
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            problems.append(f"--set {assignment[:80]!r}: {one_line(error)}")
    if problems:
        raise ConfigError("an option cannot be read:", problems)
    return settings


def build_config(
    seen: Architecture, *layers: Mapping[str, Any], decoder_only: bool = False
) -> Config:
    """Build a configuration from layers of settings and the architecture of a checkpoint.

    Args:
        seen: the architecture that the tensors show; used for keys that no layer sets.
        *layers: settings; later layers win.
        decoder_only: the checkpoint has no encoder, quant convs or codebook.

    Raises:
        ConfigError: unknown keys, values of the wrong type or out of range, and contradictions of
            the checkpoint, all in one error.
    """
    known, by_leaf = known_keys(), _by_leaf()
    settings = {DECODER_KEYS.get(k, k): value for layer in layers for k, value in layer.items()}
    problems: list[str] = []
    for key, value in settings.items():
        if key in SECTIONS:
            problems.append(f"{key} is {quoted(value)}; expected keys and values")
        elif key not in known:
            leaf = key.rpartition(".")[2]
            close = (
                nearest(by_leaf.get(leaf, key), known)
                or nearest(leaf, by_leaf)
                or "; expected a key such as temporal.alpha or architecture.ch"
            )
            problems.append(f"{key}: unknown key{close}")
    config = Config(architecture=seen)
    if settings:
        # Importing OmegaConf is slow.
        from inflate.config.yaml_files import with_settings

        own = {key: value for key, value in settings.items() if key in known}
        config, wrong = with_settings(config, own)
        problems += wrong
    if not problems:
        problems = config.problems()
        problems += _disagreements(config.architecture, seen, decoder_only=decoder_only)
    if problems:
        raise ConfigError("the configuration has errors:", problems)
    return config


def scaling_factors(architecture: Architecture) -> list[float]:
    """The distinct scaling factors of the presets with this architecture."""
    presets = load_presets()
    named = (presets[name].architecture.scaling_factor for name in matching_presets(architecture))
    return sorted({float(factor) for factor in named if factor is not None})


def matching_presets(architecture: Architecture) -> list[str]:
    """The names of the presets that match this architecture, as far as tensors show it."""
    if not architecture.is_symmetric:
        return []
    return [
        name
        for name, preset in load_presets().items()
        if not _disagreements(preset.architecture, architecture, decoder_only=False)
    ]


def _disagreements(wanted: Architecture, seen: Architecture, *, decoder_only: bool) -> list[str]:
    """Messages for contradictions of the tensors; fields that tensors do not show may differ."""
    visible: tuple[str, ...] = (*_OF_SIDES, *_COMMON, *_AROUND)
    if decoder_only:
        wanted, seen, visible = wanted.decoder, seen.decoder, (*_OF_SIDES, *_COMMON)
    sides = [("", wanted, seen, visible)]
    if not (wanted.is_symmetric and seen.is_symmetric):
        sides.append((" of the decoder", wanted.decoder, seen.decoder, _OF_SIDES))
    found = [
        f"{_WORDS.get(name, name)}{of}: the configuration says {_or_none(getattr(want, name))}, "
        f"the checkpoint has {_or_none(getattr(have, name))}"
        for of, want, have, names in sides
        for name in names
        if getattr(want, name) != getattr(have, name)
    ]
    if (wanted.attn_type == "none") != (seen.attn_type == "none"):
        has = "no attention" if seen.attn_type == "none" else "attention"
        found.append(
            f"attn_type: the configuration says {wanted.attn_type!r}, the checkpoint has {has}"
        )
    return found


def _or_none(value: object) -> object:
    return "none" if value is None else value


def _by_leaf() -> dict[str, str]:
    """Every dotted key by its last name."""
    return {key.rpartition(".")[2]: key for key in known_keys() if key not in DECODER_KEYS}
