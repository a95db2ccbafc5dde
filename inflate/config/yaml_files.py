"""YAML files and typed values, read through OmegaConf; a value may refer to other keys of its file.

In files from sgm or LDM, the autoencoder is found by its keys. The classes that these files name
in ``target`` are never imported.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from inflate.config.schema import SECTIONS, Config, Settings, flatten, one_line
from inflate.errors import ConfigError, nearest, quoted
from inflate.io.files import like
from inflate.vocabulary import DDCONFIG_FIXED

REFUSALS = (OmegaConfBaseException, ValueError, OverflowError, RecursionError)
"""What OmegaConf raises for a value: its own errors, and those for unbounded values."""

_DEEPEST = 50
"""The deepest allowed nesting; no real configuration or manifest reaches it."""


def read_file(path: Path) -> Settings:
    """The settings of a YAML file, ours or one from sgm or LDM.

    Raises:
        ConfigError: it is not YAML, describes no autoencoder, or calls a resolver.
    """
    values = load_yaml(path)
    found = {place: (params, around) for place, params, around in _autoencoders(values)}
    if not found:
        return flatten(values)
    # The configuration of a whole diffusion model may have a second autoencoder in its
    # conditioner; the first stage is the one that decodes.
    chosen = [place for place in found if "first_stage_config" in place.split(".")] or [*found]
    if len(chosen) > 1:
        raise ConfigError(
            f"{path} describes several autoencoders, at {', '.join(chosen)}; "
            "put the one to use into a separate file"
        )
    params, around = found[chosen[0]]
    if not isinstance(params, Mapping):
        raise ConfigError(f"{path}: {chosen[0]} is {quoted(params)}; expected keys and values")
    settings = _from_ldm(params, chosen[0], path)
    known = {f"architecture.{key}": around.get(key) for key in ("embed_dim", "n_embed")}
    return settings | {key: value for key, value in known.items() if value is not None}


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, its ``${other.key}`` resolved.

    Raises:
        ConfigError: it is not readable YAML or not a mapping, a string has NUL, an interpolation
            has no target, or a value calls a resolver: ``${oc.env:HOME}`` would bring values from
            outside the file into outputs.
    """
    content: object = None
    try:
        problems = list(_problems(path))
        with suppress(AssertionError):  # OmegaConf raises this if a single value is not plain text.
            content = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist{like(path)}; expected a YAML file") from error
    except (OSError, yaml.YAMLError, *REFUSALS) as error:
        raise ConfigError(f"{path} is not readable as YAML: {one_line(error)}") from error
    if not isinstance(content, DictConfig):
        raise ConfigError(f"{path} holds a list or a single value; expected keys and values")
    if problems:
        raise ConfigError(f"{path} has errors:", problems)
    try:
        values = OmegaConf.to_container(content, resolve=True)
    except REFUSALS as error:
        raise ConfigError(f"{path}: {one_line(error)}") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def with_settings(defaults: Config, settings: Settings) -> tuple[Config, list[str]]:
    """A configuration with settings of known keys applied, and messages for wrong values."""
    draft = copy.deepcopy(_draft(defaults))
    problems = []
    for key, value in settings.items():
        parts = value if isinstance(value, (list, tuple)) else [value]
        if any(isinstance(part, str) and ("${" in part or part == "???") for part in parts):
            # A setting may come from a checkpoint's header, so it must not refer to anything.
            problems.append(f"{key} is {quoted(value)}; only a YAML file may refer to other keys")
            continue
        try:
            str(value)  # Records hold it in decimal digits, and Python limits their number.
            OmegaConf.update(draft, key, value, merge=False)
        except REFUSALS as error:
            problems.append(f"{key} is {quoted(value)}: {one_line(error)}")
    return defaults if problems else _with_tuples(OmegaConf.to_object(draft)), problems


def _autoencoders(
    values: Mapping[str, Any], place: str = ""
) -> Iterator[tuple[str, object, Mapping[str, Any]]]:
    """The dotted places of autoencoders in files of sgm or LDM: parameters, and enclosing ones."""
    for key, value in values.items():
        if key == "ddconfig":
            yield f"{place}{key}", value, values
        elif isinstance(value, Mapping):
            if key == "decoder_config" and "params" in value:
                yield f"{place}{key}.params", value["params"], {}
            else:
                yield from _autoencoders(value, f"{place}{key}.")


def _from_ldm(params: Mapping[str, Any], place: str, path: Path) -> Settings:
    """The settings of an autoencoder in such a file."""
    sections = {field.name: name for name, kind in SECTIONS.items()
                for field in dataclasses.fields(kind)}  # fmt: skip
    problems = []
    for key, value in params.items():
        if key not in DDCONFIG_FIXED and key not in sections:
            problems.append(f"{place}.{key}: unknown key{nearest(key, sections)}")
        elif DDCONFIG_FIXED.get(key, value) != value:
            expected = DDCONFIG_FIXED[key]
            problems.append(f"{place}.{key} is {value!r}; this family supports only {expected!r}")
    if problems:
        raise ConfigError(f"{path} has errors:", problems)
    return {f"{sections[key]}.{key}": v for key, v in params.items() if key in sections}


def _problems(path: Path) -> Iterator[str]:
    """Messages for invalid strings in a YAML file.

    Raises:
        ValueError: values are nested so deeply that building them would overflow the stack.
    """
    depth = 0
    with path.open("rb") as file:
        for event in yaml.parse(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise ValueError(f"more than {_DEEPEST} values are nested in one another")
            text = event.value if isinstance(event, yaml.ScalarEvent) else ""
            line = event.start_mark.line + 1 if event.start_mark else 0
            if _calls_resolver(text):
                yield (
                    f"line {line} has {text[:80]!r}: resolvers are not "
                    "called; write the value itself, or ${other.key}"
                )
            if "\0" in text:
                yield f"line {line} has NUL in a string: {quoted(text)}"


def _calls_resolver(text: str) -> bool:
    """Whether there is a colon inside ``${...}``: it separates a resolver from its arguments.

    A resolver's name may itself be an interpolation, so a search for names is not enough.
    """
    depth = 0
    for part in re.findall(r"\$\{|\}|:", text):
        if part == ":" and depth:
            return True
        depth = max(0, depth + {"${": 1, "}": -1, ":": 0}[part])
    return False


@lru_cache(maxsize=16)
def _draft(defaults: Config) -> DictConfig:
    """The defaults, to be copied and changed; building them takes longer than everything else."""
    draft: DictConfig = OmegaConf.structured(defaults)
    for node in (draft, *(draft[key] for key in SECTIONS)):
        OmegaConf.set_readonly(node, False)  # frozen dataclasses make read-only nodes
    return draft


def _with_tuples(value: Any) -> Any:
    """A value with OmegaConf's lists converted to tuples, as frozen dataclasses need."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _with_tuples(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return tuple(value) if isinstance(value, list) else value
