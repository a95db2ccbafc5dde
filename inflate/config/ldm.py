"""Configuration files as sgm and LDM write them: the autoencoder in them is found by its keys.

The classes that such files name, in ``target``, are never imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from inflate.config.schema import SECTIONS, Settings, flatten, one_line
from inflate.config.yaml_files import REFUSALS, load_yaml, plain
from inflate.errors import ConfigError, nearest
from inflate.vocabulary import DDCONFIG_FIXED


def read_file(path: Path) -> Settings:
    """The settings of a YAML file, ours or one that sgm or LDM wrote.

    Raises:
        ConfigError: it is not YAML, holds nothing of an autoencoder, or calls a resolver.
    """
    content = load_yaml(path)
    if not isinstance(content, DictConfig):
        raise ConfigError(
            f"{path} holds a {'list' if isinstance(content, ListConfig) else 'single value'}; "
            "expected keys and values, such as 'temporal: {alpha: 0.25}'"
        )
    try:
        found = _find_ldm(content)
        if found:
            return _from_ldm(found, path)
    except REFUSALS as error:
        raise ConfigError(f"{path}: {one_line(error)}") from error
    return flatten(plain(content, path))


def _find_ldm(content: DictConfig) -> dict[str, DictConfig]:
    """The mappings of an sgm or LDM file that describe an autoencoder, by their dotted place."""
    found = {}

    def walk(node: DictConfig, place: str) -> None:
        for key in node:
            if not isinstance(key, (str, int)):
                continue
            if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
                continue
            child = node[key]
            if not isinstance(child, DictConfig):
                continue
            if key == "ddconfig":
                found[f"{place}{key}"] = child
            elif key == "decoder_config" and isinstance(child.get("params"), DictConfig):
                found[f"{place}{key}.params"] = child.params
            else:
                walk(child, f"{place}{key}.")

    walk(content, "")
    return found


def _from_ldm(found: Mapping[str, DictConfig], path: Path) -> Settings:
    """The settings of the autoencoder that such a file describes.

    Raises:
        ConfigError: it describes several, or has keys that this family does not know.
    """
    # A full file of a diffusion model may hold a second autoencoder, in its conditioner; the
    # first stage is the one that decodes.
    first_stage = {p: c for p, c in found.items() if "first_stage_config" in p.split(".")}
    chosen = first_stage or found
    if len(chosen) > 1:
        raise ConfigError(
            f"{path} describes several autoencoders, at {', '.join(chosen)}; "
            "keep the one that is meant in a file of its own"
        )
    place, params = next(iter(chosen.items()))
    keys = {f.name: name for name, section in SECTIONS.items()
            for f in dataclasses.fields(section)}  # fmt: skip
    settings: Settings = {}
    problems = []
    for key, value in plain(params, path).items():
        if key in DDCONFIG_FIXED:
            if value != DDCONFIG_FIXED[key]:
                problems.append(f"{place}.{key} is {value!r}; this family leaves it at "
                                f"{DDCONFIG_FIXED[key]!r}")  # fmt: skip
        elif key in keys:
            settings[f"{keys[key]}.{key}"] = value
        else:
            problems.append(f"{place}.{key}: unknown key{nearest(key, keys)}")
    if problems:
        raise ConfigError(f"{path} has errors:", problems)
    owner = params._get_parent()
    for key in ("embed_dim", "n_embed"):
        if place.endswith("ddconfig") and isinstance(owner, DictConfig) and key in owner:
            settings[f"architecture.{key}"] = owner[key]
    return settings
