"""Settings as the types that a configuration declares, by OmegaConf."""

from __future__ import annotations

import copy
import dataclasses
from functools import lru_cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from inflate.config.schema import SECTIONS, Architecture, Config, Settings, one_line
from inflate.config.yaml_files import REFUSALS
from inflate.errors import quoted


def with_settings(config: Config, settings: Settings) -> tuple[Config, list[str]]:
    """A configuration with settings of known keys laid over it, and every value that is wrong."""
    draft = copy.deepcopy(_draft(config))
    problems = []
    for key, value in settings.items():
        try:
            str(value)  # Records hold it in decimal digits, of which Python writes so many.
            OmegaConf.update(draft, key, value, merge=False)
        except REFUSALS as error:
            problems.append(f"{key} is {quoted(value)}: {one_line(error)}")
    made = config if problems else OmegaConf.to_object(draft)
    assert isinstance(made, Config)
    return _with_tuples(made), problems


@lru_cache(maxsize=16)
def _draft(config: Config) -> DictConfig:
    """What a checkpoint shows and the defaults, ready to be copied and changed.

    Making one takes longer than all the rest, and every file is described more than once.
    """
    draft: DictConfig = OmegaConf.structured(config)
    for node in (draft, *(draft[section] for section in SECTIONS)):
        OmegaConf.set_readonly(node, False)  # frozen dataclasses give read-only nodes
    return draft


def _with_tuples(config: Config) -> Config:
    # OmegaConf gives lists for sequences; the frozen dataclasses hold tuples.
    given = dataclasses.asdict(config.architecture)
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    architecture = Architecture(**values)
    temporal = config.temporal
    if not isinstance(temporal.video_kernel_size, int):
        temporal = dataclasses.replace(
            temporal, video_kernel_size=tuple(temporal.video_kernel_size)
        )
    return dataclasses.replace(config, architecture=architecture, temporal=temporal)
