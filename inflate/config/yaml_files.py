"""YAML files, read through OmegaConf: a value may refer to another key, and to nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from inflate.config.schema import one_line
from inflate.errors import ConfigError, quoted

REFUSALS = (OmegaConfBaseException, ValueError, OverflowError, RecursionError)
"""What OmegaConf raises of a value: its own errors, and those of values without bounds."""


_DEEPEST = 50
"""Levels of nesting that no configuration or manifest reaches."""


def load_yaml(path: Path) -> DictConfig | ListConfig:
    """The content of a YAML file, its ``${other.key}`` not yet resolved.

    Raises:
        ConfigError: it is not readable YAML, a text holds NUL, or a value calls a resolver:
            ``${oc.env:HOME}`` would bring what is not in the file into outputs and requests.
    """
    try:
        _check_nesting(path)
        content = OmegaConf.load(path)
        raw = OmegaConf.to_container(content, resolve=False)
    except AssertionError as error:  # Of OmegaConf, where the single value is not plain text.
        raise ConfigError(f"{path} holds a single value; expected keys and values") from error
    except (OSError, yaml.YAMLError, *REFUSALS) as error:
        raise ConfigError(f"{path} is not readable as YAML: {one_line(error)}") from error
    problems = [
        f"{place} is {text[:80]!r}: resolvers are not called; write the value itself, or "
        "${other.key}"
        for place, text in _texts(raw)
        if _calls_resolver(text)
    ]
    problems += [
        f"{place} is {quoted(text)}; expected a text without NUL, which no name can hold"
        for place, text in _texts(raw)
        if "\0" in text
    ]
    if problems:
        raise ConfigError(f"{path} has errors:", problems)
    return content


def _check_nesting(path: Path) -> None:
    """Raise ValueError for values nested so deeply that making them would overflow the stack."""
    depth = 0
    with path.open("rb") as file:
        for event in yaml.parse(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise ValueError(f"more than {_DEEPEST} values are nested in one another")


def plain(content: DictConfig, path: Path) -> dict[str, Any]:
    """A mapping as plain values, its interpolations resolved.

    Raises:
        ConfigError: an interpolation leads nowhere.
    """
    try:
        values = OmegaConf.to_container(content, resolve=True)
    except REFUSALS as error:
        raise ConfigError(f"{path}: {one_line(error)}") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _texts(content: object, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a nested container, and its dotted place."""
    if isinstance(content, str):
        yield place, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _texts(value, f"{place}.{key}" if place else str(key))
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from _texts(value, f"{place}[{number}]")


def _calls_resolver(text: str) -> bool:
    """Whether a colon stands inside ``${...}``: it separates a resolver from its arguments.

    A resolver's own name may be an interpolation, so that names are not to be looked for.
    """
    depth = 0
    for part in re.findall(r"\$\{|\}|:", text):
        if part == "${":
            depth += 1
        elif part == "}":
            depth = max(0, depth - 1)
        elif depth:
            return True
    return False
