"""What a job's options come to, and what is wrong with them as far as they alone can tell."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from inflate.config.loading import known_keys, parse_set, read_config
from inflate.config.schema import Settings, Temporal
from inflate.errors import ConfigError, nearest
from inflate.options import DEVICE, SETTINGS


def effective_settings(options: Mapping[str, Any]) -> Settings:
    """The settings that options lay over what a checkpoint shows; later layers win, as always.

    Raises:
        ConfigError: the configuration or an assignment cannot be read.
    """
    settings = dict(_config(options["config"])) if options.get("config") else {}
    settings |= _assigned(tuple(options.get("set") or ()))
    return settings | {
        SETTINGS[k]: v for k, v in options.items() if k in SETTINGS and v is not None
    }


def temporal_of(settings: Mapping[str, Any]) -> Temporal:
    """The temporal layers that settings ask for.

    Raises:
        ConfigError: a setting is of a wrong type or out of its range.
    """
    own = {k.partition(".")[2]: v for k, v in settings.items() if k.startswith("temporal.")}
    kernel = own.get("video_kernel_size")
    if isinstance(kernel, list):
        own["video_kernel_size"] = tuple(kernel)
    try:
        temporal = Temporal(**own)
        problems = temporal.problems()
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error
    if problems:
        raise ConfigError("; ".join(problems))
    return temporal


def option_problems(options: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with options, in words."""
    try:
        settings = effective_settings(options)
    except ConfigError as error:
        return list(error.problems) or [str(error)]
    problems = []
    for key in settings:
        if key not in known_keys():
            problems.append(f"{key}: unknown key{nearest(key, known_keys())}")
    device = options.get("device")
    if device is not None and not DEVICE.fullmatch(device):
        problems.append(f"device is {device!r}; expected auto, cpu, cuda, cuda:N or mps")
    if not problems:
        try:
            temporal_of(settings)
        except ConfigError as error:
            problems.append(str(error))
    return problems


@lru_cache(maxsize=256)
def _config(name: str) -> Settings:
    return read_config(name)


@lru_cache(maxsize=256)
def _assigned(assignments: tuple[str, ...]) -> Settings:
    return parse_set(assignments)
